"""Direct Preference Optimization: its settings, losses, batches, and the policy with its adapter."""
