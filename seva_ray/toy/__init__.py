"""A world that fits on a CPU: rendered scenes with questions, a tiny LLaVA, and the recipe that trains it."""
