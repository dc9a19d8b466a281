"""Training: reference log-probabilities, the workers' group, TRL's trainer."""
