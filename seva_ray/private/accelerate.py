"""The internals of accelerate."""


def forget_trainer() -> None:
    """Clear what accelerate keeps of a trainer in global state, so that the next trainer of this process starts like
    the first. Accelerate's public `free_memory` keeps the state."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=False)
    GradientState._reset_state()
