"""What NVIDIA's driver says if it is installed and does not answer. Ray then counts no GPUs, and says nothing.

NVML is the driver's library for its management, with an interface in C:
https://docs.nvidia.com/deploy/nvml-api/group__nvmlInitializationAndCleanup.html
"""

import ctypes

SUCCESS, DRIVER_NOT_LOADED = 0, 9
"""Values of NVML's nvmlReturn_t."""


def driver_fault() -> str:
    """The driver's words; empty if it answers, or if there is none."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return ""
    status = nvml.nvmlInit_v2()
    if status == SUCCESS:
        status = nvml.nvmlDeviceGetCount_v2(ctypes.byref(ctypes.c_uint()))
        nvml.nvmlShutdown()
    if status in (SUCCESS, DRIVER_NOT_LOADED):
        return ""
    nvml.nvmlErrorString.restype = ctypes.c_char_p
    words: bytes = nvml.nvmlErrorString(status)
    return words.decode(errors="replace")
