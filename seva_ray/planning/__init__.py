"""What a run will take before money is spent: a forecast from rates, prices and a simulation."""
