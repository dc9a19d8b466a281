"""DeepSpeed's internals."""


def skip_compiled_collectives() -> None:
    """Stop DeepSpeed from compiling its shared-memory collective for CPUs at first use; gloo's work as well here. No
    option of DeepSpeed turns it off."""
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
