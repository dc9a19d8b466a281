"""Rows, errors, seeds, recipes and stored artifacts: what every other room stands on. Needs neither torch nor Ray."""
