"""The internals of accelerate."""

import os

LAUNCHERS = ("ACCELERATE_", "FSDP_", "MEGATRON_LM_", "PARALLELISM_CONFIG_")
"""How the names of environment variables begin that `accelerate launch` sets for the trainings that it starts."""


def forget_launcher() -> None:
    """Remove what `accelerate launch` has left in the environment. A trainer takes its precision, its compiler and its
    accumulation from there, even if it has other arguments."""
    for name in [name for name in os.environ if name.startswith(LAUNCHERS)]:
        del os.environ[name]


def forget_trainer() -> None:
    """Clear what accelerate keeps of a trainer in global state, so that the next trainer of this process starts like
    the first. Accelerate's public `free_memory` keeps the state."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=False)
    GradientState._reset_state()
