"""The policy: what the adapter touches and how large it is, and that its export is the same model, same names."""

import json
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import get_peft_model
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, CLIPVisionConfig, LlamaConfig, LlavaConfig

from seva_ray.core.errors import ConfigError
from seva_ray.dpo import policy
from seva_ray.dpo.policy import Lora, export, load_model, load_policy, merge, without_image_gradients
from seva_ray.toy.model import build
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.model_files import check_model
from seva_ray.vlm.model_parts import language_weights
from seva_ray.vlm.model_shape import LLAVA_7B, LLAVA_13B
from seva_ray.vlm.models import model_at
from tests import llava_by_hand


def adapted(model, lora):
    return get_peft_model(model, lora.peft(model))


def trainable(model) -> dict[str, int]:
    return {name: parameter.numel() for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_the_defaults_are_the_papers():
    assert (Lora().rank, Lora().alpha) == (1024, 2048)
    adapter = Lora().peft(build(seed=0))
    assert (adapter.lora_dropout, adapter.bias) == (0.0, "none")


@pytest.mark.parametrize("values", [{"rank": 0}, {"rank": -4}, {"alpha": 0}])
def test_a_rank_or_alpha_that_cannot_work_is_named(values):
    ((name, value),) = values.items()
    with pytest.raises(ConfigError, match=f"^{name} {value}: must be at least 1$"):
        Lora(**values)


def test_the_adapter_is_on_every_linear_of_the_language_model_and_on_nothing_else():
    model = build(seed=0)
    layers = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    wanted = {name for name in layers if ".language_model." in name}
    assert len(wanted) == 7 * 3
    assert {"lm_head", "model.multi_modal_projector.linear_1"} < set(layers) - wanted
    assert "model.vision_tower.encoder.layers.0.self_attn.q_proj" in layers
    names = trainable(adapted(model, Lora(rank=4, alpha=8)))
    touched = {name.removeprefix("base_model.model.").split(".lora_")[0] for name in names}
    assert touched == wanted
    assert all(".lora_A." in name or ".lora_B." in name for name in names)


def test_rank_16_on_the_toy_model_trains_its_share_of_parameters():
    hidden, intermediate = 128, 256
    a_layer = 4 * (hidden + hidden) + 3 * (hidden + intermediate)
    assert sum(trainable(adapted(build(seed=0), Lora(rank=16, alpha=32))).values()) == 3 * 16 * a_layer == 104_448


@pytest.mark.parametrize(
    ("hidden", "intermediate", "layers", "heads", "billions"),
    [(4096, 11008, 32, 32, 2.56), (5120, 13824, 40, 40, 4.01)],
    ids=["7B", "13B"],
)
def test_the_papers_rank_trains_the_papers_number_of_parameters(hidden, intermediate, layers, heads, billions):
    """LoRA of rank 1024 on LLaVA-1.5: SeVa's log says 2.56 B for 7B, 4.01 B for 13B. Shapes only, no memory."""
    text = LlamaConfig(
        vocab_size=32064,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
    )
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    )
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(LlavaConfig(vision_config=vision, text_config=text))
        language = sum(weight.numel() for weight in language_weights(model))
        number = sum(trainable(adapted(model, Lora())).values())
    shape = {32: LLAVA_7B, 40: LLAVA_13B}[layers]
    assert (shape.num_language_weights, shape.adapter_weights(1024)) == (language, number)
    assert number == layers * 1024 * (4 * (hidden + hidden) + 3 * (hidden + intermediate))
    assert round(number / 1e9, 2) == billions


@pytest.fixture(scope="module")
def exported(toy_model, tmp_path_factory):
    """A policy with an adapter that does something; its logits; the directory it was exported to."""
    encoder = Encoder(toy_model)
    policy = adapted(load_model(toy_model, "float32"), Lora(rank=4, alpha=8)).eval()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=random))
    red = Image.new("RGB", (48, 48), (200, 30, 30))
    inputs = {
        "input_ids": torch.tensor([llava_by_hand.token_ids(encoder, "how many objects are there ?")]),
        "pixel_values": torch.from_numpy(llava_by_hand.pixels(encoder, red))[None],
    }
    with torch.inference_mode():
        logits = policy(**inputs).logits
        with policy.disable_adapter():
            start = policy(**inputs).logits
    directory = tmp_path_factory.mktemp("policy") / "model"
    policy.save_pretrained(directory.with_name("adapter"))
    export(policy, toy_model, str(directory))
    return directory, inputs, logits, start


def test_the_exported_model_gives_the_adapters_logits(exported):
    directory, inputs, logits, start = exported
    with torch.inference_mode():
        again = load_model(str(directory), "float32").eval()(**inputs).logits
    assert (logits - start).abs().max() > 0.1, "the adapter does nothing"
    torch.testing.assert_close(again, logits, atol=1e-4, rtol=1e-4)


def test_a_saved_adapter_gives_the_policy_back(exported, toy_model):
    directory, inputs, logits, _ = exported
    policy = load_policy(toy_model, str(directory.with_name("adapter")), "float32").eval()
    with torch.inference_mode():
        assert torch.equal(policy(**inputs).logits, logits)


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in directory.glob("*.safetensors") for name, tensor in load_file(path).items()}


def test_the_export_has_the_starting_models_names_and_changes_only_adapted_weights(exported, toy_model):
    before, after = weights(Path(toy_model)), weights(exported[0])
    assert after.keys() == before.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert len(changed) == 7 * 3
    assert all(name.startswith("language_model.model.layers.") for name in changed)
    assert all(after[name].dtype == before[name].dtype for name in before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_stored_in_half_precision_is_merged_in_float32_and_rounded_once(exported, toy_model, tmp_path, dtype):
    start = shutil.copytree(toy_model, tmp_path / "start")
    load_model(toy_model, "float32").to(dtype).save_pretrained(start)
    adapter = exported[0].with_name("adapter")
    merge(load_policy(str(start), str(adapter))).save_pretrained(tmp_path / "merged")
    before, after, updates = weights(start), weights(tmp_path / "merged"), weights(adapter)
    assert {weight.dtype for weight in after.values()} == {dtype}
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert len(changed) == len(updates) / 2 == 7 * 3
    twice = 0
    for name in changed:
        inner = name.removeprefix("language_model.model.").removesuffix(".weight")
        a, b = (updates[f"base_model.model.model.language_model.{inner}.lora_{side}.weight"] for side in "AB")
        assert torch.equal(after[name], (before[name].float() + 8 / 4 * (b @ a)).to(dtype))
        twice += int((after[name] != before[name] + (8 / 4 * (b @ a)).to(dtype)).sum())
    assert twice, "to round the update as well would make no difference here: nothing is tested"


def test_image_features_are_computed_without_gradients_and_the_adapters_gradients_are_the_same(toy_model):
    encoder = Encoder(toy_model)
    red = Image.new("RGB", (48, 48), (200, 30, 30))
    inputs = {
        "input_ids": torch.tensor([llava_by_hand.token_ids(encoder, "how many objects are there ?")]),
        "pixel_values": torch.from_numpy(llava_by_hand.pixels(encoder, red))[None],
    }
    found = {}
    for without in (False, True):
        model = load_model(toy_model, "float32")
        if without:
            without_image_gradients(model)
        torch.manual_seed(0)
        policy = adapted(model, Lora(rank=4, alpha=8))
        policy.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
        policy.enable_input_require_grads()
        graph: list[bool] = []
        tower = model.model.vision_tower
        tower.register_forward_hook(lambda module, given, out, graph=graph: graph.append(out[0].requires_grad))
        policy.train()(**inputs).logits.float().log_softmax(-1)[0, -1, 7].backward()
        gradients = {name: weight.grad for name, weight in policy.named_parameters() if weight.requires_grad}
        found[without] = graph, gradients
    (in_graph, before), (without_graph, after) = found[False], found[True]
    assert (in_graph, without_graph) == ([True], [False])
    assert any(gradient.abs().max() > 0 for gradient in after.values())
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_the_export_is_a_model_that_any_stage_reads(exported, toy_model):
    directory = exported[0]
    check_model(str(directory))
    encoder, start = Encoder(str(directory)), Encoder(toy_model)
    question = "how many objects are there ?"
    assert llava_by_hand.prompt_ids(encoder, question) == llava_by_hand.prompt_ids(start, question)
    assert llava_by_hand.num_image_tokens(encoder) == llava_by_hand.num_image_tokens(start)
    image = Image.effect_noise((70, 41), 50).convert("RGB")
    assert np.array_equal(llava_by_hand.pixels(encoder, image), llava_by_hand.pixels(start, image))
    assert load_model(str(directory), "float32").generation_config.eos_token_id == start.tokenizer.eos_token_id
    assert model_at(str(directory)).fingerprint != model_at(toy_model).fingerprint


def test_the_settings_of_the_start_are_copied_as_they_are(toy_model, tmp_path):
    """What transformers would write differently, leave out or add is the same as before."""
    start = Path(shutil.copytree(toy_model, tmp_path / "start"))
    settings = json.loads((start / "processor_config.json").read_text())
    (start / "processor_config.json").write_text(json.dumps(settings | {"of_another_program": [1]}))
    (start / "generation_config.json").write_text('{"eos_token_id": [2, 3], "max_length": 99}')
    (start / "vocab.txt").write_text("a")
    (start / "README.md").write_text("of the start")
    (start / "additional_chat_templates").mkdir()
    (start / "additional_chat_templates" / "tools.jinja").write_text("{{ tools }}")
    policy = adapted(load_model(str(start), "float32"), Lora(rank=4, alpha=8))
    export(policy, str(start), str(tmp_path / "model"))
    names = {file.relative_to(start) for file in start.rglob("*") if file.is_file()}
    made = {file.relative_to(tmp_path / "model") for file in (tmp_path / "model").rglob("*") if file.is_file()}
    assert made == names - {Path("README.md")}
    for name in made - {Path("config.json"), Path("model.safetensors")}:
        assert (tmp_path / "model" / name).read_bytes() == (start / name).read_bytes(), name


def test_a_model_with_pickled_weights_only_is_not_loaded(toy_model, tmp_path):
    directory = Path(shutil.copytree(toy_model, tmp_path / "model"))
    torch.save(weights(directory), directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()
    with pytest.raises(OSError, match="safetensors"):
        load_model(str(directory), "float32")


def test_processes_that_load_onto_gpus_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Threads with files of their own take turns as processes do. The device `meta` stands for a GPU."""
    inside, most = [0], [0]

    class Model:
        def to(self, device: str) -> str:
            inside[0] -= 1
            return device

    def load(directory: str, dtype: str) -> Model:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.05)
        return Model()

    monkeypatch.setattr(policy, "load_model", load)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with ThreadPoolExecutor(4) as workers:
        assert list(workers.map(lambda _: policy.load_onto("meta", "d", "float32"), range(4))) == 4 * ["meta"]
    assert most == [1]
