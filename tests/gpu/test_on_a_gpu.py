"""What only a GPU can show. `make gpu-check` runs these; elsewhere they are skipped. None of them has run yet."""

import copy
import json
from pathlib import Path

import pytest
import torch
from peft import get_peft_model

from bench.gpu import GpuCheck, main
from seva_ray.dpo.policy import Lora, load_model, merge
from seva_ray.engines import Decoding, VllmEngine
from seva_ray.engines.base import plain_request
from seva_ray.runtime import machine, preflight
from seva_ray.vlm.encoding import Encoder

pytestmark = pytest.mark.gpu


def test_torch_uses_every_gpu_and_multiplies_rightly():
    assert machine.num_gpus() == machine.usable_gpus()[0] > 0
    assert preflight.multiply("cuda:0") > 1
    assert preflight.driver_version().split(".")[0].isdigit()


def test_a_policy_merged_on_a_gpu_is_the_one_merged_on_a_cpu(toy_model: str):
    model = load_model(toy_model, "float16")
    policy = get_peft_model(model, Lora(rank=4, alpha=8).peft(model))
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.copy_(0.05 * torch.randn(weight.shape, generator=random))
    other = copy.deepcopy(policy)
    on_cpu, on_gpu = merge(policy).state_dict(), merge(other, "cuda").state_dict()
    for name, weight in on_cpu.items():
        assert on_gpu[name].device.type == "cpu"
        torch.testing.assert_close(on_gpu[name], weight, rtol=2**-10, atol=1e-7)


def test_every_layout_and_kernel_computes_the_same_loss(tmp_path: Path):
    main(GpuCheck(tiny=True, out=str(tmp_path / "gpu.json")))
    sections = json.loads((tmp_path / "gpu.json").read_text())["sections"]
    (step,) = (rows for name, rows in sections.items() if name.startswith("step of"))
    losses = {name: row["loss"] for name, row in step.items() if isinstance(row, dict)}
    assert losses == pytest.approx(dict.fromkeys(losses, losses["plain sdpa"]), abs=1e-4)
    assert len(losses) == 5


def test_vllm_answers_alike_with_and_without_cuda_graphs_and_after_a_switch_of_weights(toy_model: str):
    request = plain_request(Encoder(toy_model))
    decoding = Decoding(max_new_tokens=8)
    answers = []
    for eager in (True, False):
        engine = VllmEngine(dtype="float32", max_model_len=256, enforce_eager=eager, gpu_memory_utilization=0.3)
        generator = engine.load(toy_model, decoding)
        answers += generator.generate([request])
        generator.switch(toy_model)
        answers += generator.generate([request])
        del generator
    assert {tuple(answer.token_ids) for answer in answers} == {tuple(answers[0].token_ids)}
    assert {answer.error for answer in answers} == {None}
