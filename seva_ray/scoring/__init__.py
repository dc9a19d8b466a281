"""Differences between two models' scores, with intervals; and the results of lmms-eval."""
