"""A world that fits on a CPU: rendered scenes with questions, a tiny LLaVA with its recipe, and a diffusion model."""
