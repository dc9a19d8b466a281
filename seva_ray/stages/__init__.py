"""Stages: the verbs of a run, each from artifacts to artifacts; the only modules that import Ray."""
