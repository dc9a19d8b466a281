"""Training: reference log-probabilities, the group of workers, and TRL's trainer."""
