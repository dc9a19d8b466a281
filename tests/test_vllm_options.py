"""The arguments with which vLLM starts."""

import pytest

from seva_ray.engines import Decoding, VllmEngine
from seva_ray.engines.vllm import options_of
from seva_ray.private import vllm as private_vllm
from seva_ray.toy.model import CLOSING, OPENING, PATCH_PX
from seva_ray.toy.world import SIZE_PX


def test_on_a_cpu_the_image_of_a_toy_prompt_fills_a_block_so_that_the_next_question_about_it_finds_it_computed(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(private_vllm, "runs_on_cpu", lambda: True)
    block = options_of(VllmEngine(), "model", Decoding())["block_size"]
    assert block <= len(OPENING) + (SIZE_PX // PATCH_PX) ** 2 + len(CLOSING)
    assert block % 32 == 0


def test_on_a_gpu_vllm_chooses_the_size_of_a_block(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(private_vllm, "runs_on_cpu", lambda: False)
    assert options_of(VllmEngine(), "model", Decoding())["block_size"] is None


def test_on_a_gpu_graphs_are_captured_for_as_many_sequences_as_there_can_be(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(private_vllm, "runs_on_cpu", lambda: False)
    engine = VllmEngine(max_num_seqs=48)
    assert options_of(engine, "model", Decoding())["compilation_config"] == {"max_cudagraph_capture_size": 48}
    eager = options_of(VllmEngine(enforce_eager=True), "model", Decoding())
    assert (eager["enforce_eager"], eager["compilation_config"]) == (True, None)
