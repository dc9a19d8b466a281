"""Engines turn prepared requests into responses: vLLM for speed, transformers as reference, a fake for tests."""

from seva_ray.engines.base import Decoding, Engine, Generator, Request
from seva_ray.engines.fake import FakeEngine
from seva_ray.engines.transformers import TransformersEngine
from seva_ray.engines.vllm import VllmEngine

__all__ = ["Decoding", "Engine", "FakeEngine", "Generator", "Request", "TransformersEngine", "VllmEngine"]
