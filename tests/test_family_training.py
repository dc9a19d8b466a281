"""Training is exact in every family: its log-probabilities are those of `generate`, and only the language model
changes."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from seva_ray.core.errors import InputError
from seva_ray.dpo import logps
from seva_ray.dpo.attention import LONG, NAME
from seva_ray.dpo.batch import NOTHING, PreferenceCollator
from seva_ray.dpo.config import Train
from seva_ray.dpo.layout_check import check_layouts, generated
from seva_ray.dpo.logps import response_logps
from seva_ray.dpo.policy import Lora, export, freeze_all_but_language, load_model, load_policy, without_image_gradients
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.images import MAX_PIXELS
from seva_ray.vlm.model_parts import expert_weights, image_parts, language_linears, unwrapped
from seva_ray.vlm.views import Viewer
from tests.family_pictures import pairs
from tests.preference_trainer import four_steps
from tests.tiny_models import FAMILIES, save_family

__all__ = ["pairs"]

USUAL = ("qwen2_5_vl", "llava_next", "gemma3", "paligemma")
"""Between them: positions on three axes and patches; tiles; images that see themselves, and prompts that do."""


@dataclass(frozen=True)
class Family:
    name: str
    directory: str
    viewer: Viewer


@pytest.fixture(
    scope="module", params=[name if name in USUAL else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
def family(request: pytest.FixtureRequest, families: Callable[[str], Family]) -> Family:
    return families(request.param)


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Family]:
    """Each family is written once."""
    return cache(lambda name: made(name, tmp_path_factory))


def made(name: str, tmp_path_factory: pytest.TempPathFactory) -> Family:
    if name == "smolvlm":
        pytest.importorskip("num2words")
    directory = save_family(name, tmp_path_factory.mktemp("families") / name, weights=True)
    return Family(name, directory, Viewer(encoder=Encoder(directory), image_root=None, max_pixels=MAX_PIXELS))


# Exactness


def test_plain_packed_and_generate_give_the_same_log_probabilities(family, pairs):
    model = load_model(family.directory, "float32").eval()
    answers = [generated(model, family.viewer, pair) for pair in pairs]
    assert len({tuple(answer.token_ids) for row in answers for answer in row}) > 3, "equal answers prove little"
    expected = torch.tensor([[float(answer.logps.sum()) for answer in row] for row in answers])
    assert (expected < -5).all()
    rows = [
        pair | {"chosen_token_ids": first.token_ids, "rejected": [{"token_ids": second.token_ids}]}
        for pair, (first, second) in zip(pairs, answers, strict=True)
    ]
    for packed in (False, True):
        with torch.no_grad():
            found = response_logps(model, PreferenceCollator(viewer=family.viewer, packed=packed)(rows))
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def with_answers(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Two questions about each of three images, not next to each other, with one to three rejected answers."""
    random = np.random.default_rng(0)

    def answer() -> dict[str, Any]:
        return {"token_ids": random.integers(100, 250, random.integers(1, 9)).tolist()}

    return [
        pair
        | {"question": question, "chosen_token_ids": answer()["token_ids"]}
        # a question that is the start of another, and one that differs at its first token
        | {"rejected": [answer() for _ in range(1 + place % 3)]}
        for question in ("What is it?", "Why?")
        for place, pair in enumerate(pairs)
    ]


def logps_and_grads(family: Family, rows: Any, packed: bool, by_image: bool) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """With gradient checkpointing if attention is computed in parts."""
    model = load_model(family.directory, "float32")
    freeze_all_but_language(model)
    if logps.LONG == 0:
        model.train().gradient_checkpointing_enable()
    batch = PreferenceCollator(viewer=family.viewer, packed=packed, by_image=by_image)(rows)
    num_rows = {(False, False): sum(1 + len(row["rejected"]) for row in rows), (True, False): 6, (True, True): 3}
    assert len(batch["input_ids"]) == num_rows[packed, by_image]
    found = response_logps(model, batch)
    (found * torch.linspace(-1, 1, found.numel()).view_as(found)).sum().backward()
    grads = torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])
    return found.detach(), grads, model


def test_attention_in_parts_and_rows_for_an_image_change_neither_log_probabilities_nor_gradients(
    family, pairs, monkeypatch
):
    """Each against a row for each response under a mask."""
    rows = with_answers(pairs)
    wanted, wanted_grads, _ = logps_and_grads(family, rows, packed=False, by_image=False)
    in_parts = family.name not in ("gemma3", "paligemma")  # which read some tokens in both directions
    packed = [(True, False), (True, True)] if family.name != "paligemma" else []
    for long, layouts in ((10**6, packed), (0, [(False, False), *packed])):
        monkeypatch.setattr(logps, "LONG", long)
        for layout in layouts:
            found, grads, model = logps_and_grads(family, rows, *layout)
            assert (model.get_decoder().config._attn_implementation == NAME) == (in_parts and not long)
            torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
            assert (grads - wanted_grads).norm() < 1e-5 * wanted_grads.norm()


@pytest.mark.parametrize("long", [0, LONG])
def test_the_guard_lets_it_pass_in_the_precision_of_training(family, pairs, long, monkeypatch):
    """Also if attention is computed in parts, which it is in rows of usual length."""
    monkeypatch.setattr(logps, "LONG", long)
    assert check_layouts(load_model(family.directory, "bfloat16").eval(), family.viewer, pairs, packed=True) is None


def positions_in_line(whole: Any, batch: Any) -> torch.Tensor:
    return batch["position_ids"]


def no_types(batch: Any, name: str, image_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    return batch[name], torch.zeros_like(batch[name])


def responses_typed_as_images(batch: Any, name: str, image_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    image = batch[name][batch["input_ids"] == image_token_id][0]
    types = torch.where(batch["branch"] > 0, image, batch[name])
    return types, (types == image).long() * (batch["branch"] != NOTHING)


@pytest.mark.parametrize(
    ("name", "function", "wrong"),
    [
        ("qwen2_5_vl", "positions", positions_in_line),
        ("gemma3", "types_and_blocks", no_types),
        ("gemma3", "types_and_blocks", responses_typed_as_images),
        ("paligemma", "types_and_blocks", no_types),
        ("paligemma", "types_and_blocks", responses_typed_as_images),
    ],
)
def test_a_family_that_is_read_in_another_ones_way_is_not_trained(
    name, function, wrong: Callable[..., Any], pairs, families, monkeypatch
):
    """Both layouts are wrong alike, so to compare them with each other would show nothing."""
    family = families(name)
    monkeypatch.setattr(logps, function, wrong)
    line = (
        rf"^model {family.directory}: model type '{name}' cannot be scored exactly: log-probabilities are off by "
        r"\S+ nats a token from those of `generate`; rounding allows 0\.\d+; nothing is trained$"
    )
    # Four image tokens that do not see each other are less than bfloat16's rounding.
    for dtype in ("float32",) if name == "gemma3" and wrong is no_types else ("float32", "bfloat16"):
        model = load_model(family.directory, dtype).eval()
        with pytest.raises(InputError, match=line):
            check_layouts(model, family.viewer, pairs, packed=True)


def test_layers_that_see_the_last_tokens_alone_do_so_here(pairs, tmp_path_factory, monkeypatch):
    family = made("gemma3", tmp_path_factory)
    settings = Path(family.directory, "config.json")
    config = json.loads(settings.read_text())
    assert config["text_config"]["layer_types"] == ["sliding_attention", "full_attention"]
    config["text_config"]["sliding_window"] = 16
    settings.write_text(json.dumps(config))
    model = load_model(family.directory, "float32").eval()
    assert check_layouts(model, family.viewer, pairs, packed=True) is None
    monkeypatch.setattr(logps, "in_windows", lambda mask, near, positions, config: mask)
    with pytest.raises(InputError, match="log-probabilities are off"):
        check_layouts(model, family.viewer, pairs, packed=True)


# What is trained


LORA = Lora(rank=8, alpha=16)


def trained(
    family: Family, pairs: list[dict[str, Any]], scratch: str, full: bool, lora: Lora = LORA
) -> tuple[Any, list[float]]:
    """The model after four steps of the train stage's own trainer without DeepSpeed, and the losses."""
    model = load_model(family.directory, "float32")
    without_image_gradients(model)
    if full:
        freeze_all_but_language(model)
    random = np.random.default_rng(0)
    for part in image_parts(model):
        part.register_forward_hook(lambda module, given, out: grads.append(has_grad(out)))
    grads: list[bool] = []
    rows = [
        pair
        | {"chosen_token_ids": random.integers(100, 250, 5).tolist(), "weight": 1.0}
        | {"rejected": [{"token_ids": random.integers(100, 250, 4).tolist()}]}
        for pair in pairs
    ]
    collate = PreferenceCollator(viewer=family.viewer)
    with torch.no_grad():
        reference = response_logps(model, collate(rows)).tolist()
    rows = [row | {"ref_logps": of_row} for row, of_row in zip(rows, reference, strict=True)]
    grads.clear()
    config, rate = Train(full=full, lora=lora), 1e-3 if full else 1e-2
    policy, log = four_steps(config, model, family.viewer.encoder, rows, collate, scratch, rate)
    assert grads, "nothing made image features"
    assert not any(grads), "image features have gradients"
    return policy, [line["loss"] for line in log]


@pytest.fixture(scope="module")
def adapted(family: Family, pairs, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[float]]:
    """A family's model with an adapter after four steps, and the losses."""
    return trained(family, pairs, str(tmp_path_factory.mktemp("trainer")), full=False)


def has_grad(output: Any) -> bool:
    values = output if isinstance(output, tuple) else [output] if isinstance(output, torch.Tensor) else output.values()
    return any(isinstance(value, torch.Tensor) and value.requires_grad for value in values)


def test_a_few_steps_lower_the_loss_and_the_adapter_is_on_the_language_models_linears_alone(family, adapted):
    before = load_model(family.directory, "float32")
    policy, losses = adapted
    assert losses[0] == pytest.approx(np.log(2), abs=1e-3)
    assert losses[3] < losses[2] < losses[1] < losses[0]
    weights = {name for name, weight in policy.named_parameters() if weight.requires_grad}
    assert all(".lora_A." in name or ".lora_B." in name for name in weights)
    adapted = {name.removeprefix("base_model.model.").split(".lora_")[0] for name in weights}
    linears = {name for name, module in before.named_modules() if isinstance(module, torch.nn.Linear)}
    inside = ("model.language_model.", "model.text_model.")
    assert adapted == language_linears(before).keys() == {name for name in linears if name.startswith(inside)}
    start = before.state_dict()
    for name, weight in policy.get_base_model().state_dict().items():
        if ".lora_" not in name:
            assert torch.equal(weight, start[name.replace(".base_layer", "")]), name
    num_experts = sum(weight.numel() for weight in expert_weights(before).values())
    assert (num_experts > 0) == ("moe" in family.name)


def test_full_training_lowers_the_loss_and_changes_the_language_model_alone(family, pairs, tmp_path):
    before = load_model(family.directory, "float32").state_dict()
    policy, losses = trained(family, pairs, str(tmp_path), full=True)
    assert losses[3] < losses[2] < losses[1] < losses[0]
    changed = {name for name, weight in policy.state_dict().items() if not torch.equal(weight, before[name])}
    inside = ("model.language_model.", "model.text_model.", "lm_head.")
    assert changed == {name for name in before if name.startswith(inside)}
    assert changed >= {name for name, weight in policy.named_parameters() if weight.requires_grad}
    assert unwrapped(policy) is policy


# What is exported


def test_merged_weights_have_the_published_names_and_answer_as_the_adapter_does(family, adapted, pairs, tmp_path):
    policy, _ = adapted
    policy.save_pretrained(tmp_path / "adapter")
    rows = [pair | {"chosen_token_ids": [100, 101, 102], "rejected": [{"token_ids": [103]}]} for pair in pairs]
    batch = PreferenceCollator(viewer=family.viewer)(rows)
    again = load_policy(family.directory, str(tmp_path / "adapter"), "float32").eval()
    with torch.no_grad():
        expected = response_logps(policy.eval(), batch)
        start = response_logps(load_model(family.directory, "float32").eval(), batch)
        torch.testing.assert_close(response_logps(again, batch), expected)
    assert (expected - start).abs().mean() > 0.02, "the adapter does nothing"
    export(again, family.directory, str(tmp_path / "merged"))
    viewer = replace(family.viewer, encoder=Encoder(str(tmp_path / "merged")))
    batch = PreferenceCollator(viewer=viewer)(rows)
    with torch.no_grad():
        found = response_logps(load_model(str(tmp_path / "merged"), "float32").eval(), batch)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)
    before, after = (load_file(Path(place, "model.safetensors")) for place in (family.directory, tmp_path / "merged"))
    assert after.keys() == before.keys()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(changed) == len(language_linears(load_model(family.directory, "float32")))
