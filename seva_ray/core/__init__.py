"""Rows, errors, seeds, recipes and stored artifacts, which every other package uses. Needs neither torch nor Ray."""
