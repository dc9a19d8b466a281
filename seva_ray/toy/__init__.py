"""The CPU-size world: rendered scenes with questions, a tiny LLaVA and the recipe that trains it."""
