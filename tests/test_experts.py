"""An adapter may change the experts of a mixture of experts too; it never changes what chooses them."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file

from seva_ray.core.errors import ConfigError, InputError
from seva_ray.dpo.batch import PreferenceCollator
from seva_ray.dpo.config import Train
from seva_ray.dpo.logps import response_logps
from seva_ray.dpo.policy import Lora, export, load_model, load_policy
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.model_parts import expert_weights, language_linears
from seva_ray.vlm.model_shape import shape_of
from tests.test_family_training import made, pairs, trained
from tests.tiny_models import save_family

__all__ = ["pairs"]

WITH_EXPERTS = Lora(rank=4, alpha=8, experts=True)


def test_experts_are_trained_merged_and_saved_as_published_and_routers_stay_as_they_are(
    pairs, tmp_path_factory, tmp_path
):
    family = made("qwen3_vl_moe", tmp_path_factory)
    policy, losses = trained(family, pairs, str(tmp_path / "trainer"), full=False, lora=WITH_EXPERTS)
    assert losses[3] < losses[2] < losses[1] < losses[0]
    number = sum(weight.numel() for weight in policy.parameters() if weight.requires_grad)
    assert shape_of(family.directory).adapter_weights(4, experts=True) == number

    policy.save_pretrained(tmp_path / "adapter")
    rows = [pair | {"chosen_token_ids": [100, 101, 102], "rejected": [{"token_ids": [103]}]} for pair in pairs]
    batch = PreferenceCollator(viewer=family.viewer)(rows)
    with torch.no_grad():
        expected = response_logps(policy.eval(), batch)
        start = response_logps(load_model(family.directory, "float32").eval(), batch)
    assert (expected - start).abs().mean() > 0.02, "the adapter does nothing"
    export(load_policy(family.directory, str(tmp_path / "adapter"), "float32"), family.directory, str(tmp_path / "m"))
    viewer = replace(family.viewer, encoder=Encoder(str(tmp_path / "m")))
    with torch.no_grad():
        merged = load_model(str(tmp_path / "m"), "float32").eval()
        found = response_logps(merged, PreferenceCollator(viewer=viewer)(rows))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)
    before, after = (load_file(Path(place, "model.safetensors")) for place in (family.directory, tmp_path / "m"))
    assert {key: value.shape for key, value in after.items()} == {key: value.shape for key, value in before.items()}
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert len(changed) == len(language_linears(merged)) + len(expert_weights(merged))
    assert {key for key in before if ".experts." in key} <= changed
    assert not any(re.search(r"\.gate\.|visual|embed", key) for key in changed)


@pytest.mark.parametrize("name", ["llava", "qwen3_vl_moe"])
def test_only_a_model_with_experts_can_have_them_changed(name: str, tmp_path: Path):
    model = load_model(save_family(name, tmp_path / name, weights=True), "float32")
    without = get_peft_model(model, Lora(rank=4, alpha=8).peft(model))
    assert not any(".experts." in key for key, weight in without.named_parameters() if weight.requires_grad)
    model = without.unload()
    if name == "llava":
        with pytest.raises(InputError, match=r"^train\.lora\.experts: model .* has no experts$"):
            WITH_EXPERTS.peft(model)
    else:
        assert all(".experts." in key for key in WITH_EXPERTS.peft(model).target_parameters)


def test_experts_cannot_be_changed_where_each_worker_has_a_part_of_them():
    with pytest.raises(ConfigError, match=r"lora\.experts: needs a zero_stage from 0 to 2"):
        Train(lora=WITH_EXPERTS, zero_stage=3)
