"""A policy of another family answers the same wherever it is served: merged or as an adapter, in transformers and in
vLLM."""

from pathlib import Path

import pytest
import torch
from peft import get_peft_model

from seva_ray.dpo.policy import Lora, export, load_model, load_policy
from seva_ray.engines import Decoding, Request, TransformersEngine, VllmEngine
from seva_ray.vlm.encoding import Encoder
from tests.family_pictures import picture
from tests.tiny_models import save_family

pytestmark = pytest.mark.slow

DECODING = Decoding(max_new_tokens=8)
NUM_PROMPTS = 20


@pytest.mark.parametrize("name", ["qwen2_5_vl", "idefics3", "smolvlm"])
def test_the_merged_model_and_the_adapter_answer_alike_in_transformers_and_in_vllm(name: str, tmp_path: Path):
    from vllm import LLM
    from vllm.lora.request import LoRARequest

    from seva_ray.engines.vllm import options_of, sampling_of
    from seva_ray.private import vllm as private_vllm

    if name == "smolvlm":
        pytest.importorskip("num2words")
    start, adapter, merged = (str(tmp_path / part) for part in ("start", "adapter", "merged"))
    save_family(name, Path(start), weights=True)
    model = load_model(start, "float32")
    policy = get_peft_model(model, Lora(rank=8, alpha=16).peft(model))
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, weight in policy.named_parameters():
            if "lora_B" in key:
                weight.copy_(0.2 * torch.randn(weight.shape, generator=random))
    policy.save_pretrained(adapter)
    export(load_policy(start, adapter, "float32"), start, merged)

    encoder = Encoder(merged)
    rows = [encoder.row(f"What is at place {seed}?", picture(seed)) for seed in range(NUM_PROMPTS)]
    requests = [Request(prompt_id=f"p{n}", row=row, image_id=f"i{n}") for n, row in enumerate(rows)]
    before, after = (
        [response.token_ids for response in TransformersEngine().load(place, DECODING).generate(requests)]
        for place in (start, merged)
    )
    assert all(after), "an error has no tokens"
    assert sum(one != other for one, other in zip(before, after, strict=True)) > NUM_PROMPTS / 2, "it changed nothing"
    engine = VllmEngine(dtype="float32", max_model_len=512, max_num_seqs=16, enforce_eager=True)
    assert [response.token_ids for response in engine.load(merged, DECODING).generate(requests)] == after

    llm = LLM(**options_of(engine, start, DECODING), enable_lora=True, max_lora_rank=8)
    private_vllm.pass_rows(llm)
    for number, row in enumerate(rows):
        prompt = private_vllm.rendered(llm, row.ids, row.features, row.size, f"i{number}", encoder.image_token_id)
        request = LoRARequest("policy", 1, adapter)
        llm.llm_engine.add_request(str(number), prompt, sampling_of(DECODING), lora_request=request)
    found: dict[int, list[int]] = {}
    while llm.llm_engine.has_unfinished_requests():
        found |= {int(done.request_id): list(done.outputs[0].token_ids) for done in private_vllm.step(llm)}
    assert [found[number] for number in range(NUM_PROMPTS)] == after
