"""From two models' scores to differences with intervals; and what lmms-eval reports."""
