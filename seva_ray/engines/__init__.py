"""Engines turn prepared requests into responses: vLLM for speed, transformers as reference, a fake for tests.

To add one, write a dataclass like those here, and add it below.
"""

from seva_ray.engines.base import Decoding, Engine, Generator, Request
from seva_ray.engines.fake import FakeEngine
from seva_ray.engines.transformers import TransformersEngine
from seva_ray.engines.vllm import VllmEngine

AnyEngine = VllmEngine | TransformersEngine | FakeEngine
"""Every engine that a job can run: `--generate.engine vllm-engine`, ... on its command line."""
