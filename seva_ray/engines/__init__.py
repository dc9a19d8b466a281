"""Engines turn prepared requests into responses: vLLM for speed, transformers as reference, a fake for tests.

To add one, write a dataclass like those here, and add it below.
"""

import importlib.util

from seva_ray.engines.base import Decoding, Engine, Generator, Request
from seva_ray.engines.fake import FakeEngine
from seva_ray.engines.transformers import TransformersEngine
from seva_ray.engines.vllm import VllmEngine

AnyEngine = VllmEngine | TransformersEngine | FakeEngine
"""Every engine that a job can run: `--generate.engine vllm-engine`, ... on its command line."""


def has_vllm() -> bool:
    """Whether vLLM is installed. There is none for macOS and Windows."""
    return importlib.util.find_spec("vllm") is not None


def engine_here(wanted: VllmEngine) -> VllmEngine | TransformersEngine:
    """The engine of a preset: the one wanted, or transformers with the same data type if vLLM is not installed."""
    return wanted if has_vllm() else TransformersEngine(dtype=wanted.dtype)
