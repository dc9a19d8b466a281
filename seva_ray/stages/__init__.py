"""The verbs: each stage reads artifacts and writes one."""
