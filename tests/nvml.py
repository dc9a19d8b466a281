"""A machine whose NVIDIA driver lists GPUs, and has none: a stand-in for NVML, compiled here and found first."""

import os
import subprocess
from pathlib import Path


def listing_gpus(number: int, directory: Path) -> dict[str, str]:
    """The environment of a process that finds so many GPUs by NVML; the library is compiled into `directory`."""
    library = directory / "libnvidia-ml.so.1"
    if not library.exists():
        source = Path(__file__).parent / "nvml.c"
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    # What hides GPUs here, or the address of another cluster, is not this machine's.
    kept = {name: value for name, value in os.environ.items() if name not in ("CUDA_VISIBLE_DEVICES", "RAY_ADDRESS")}
    paths = filter(None, [str(directory), os.environ.get("LD_LIBRARY_PATH")])
    return kept | {"STAND_IN_GPUS": str(number), "LD_LIBRARY_PATH": ":".join(paths)}
