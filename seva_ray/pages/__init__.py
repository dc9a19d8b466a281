"""What people look at: the pages of a run and of a study, figures, model card, the plan's table."""
