"""An exported policy elsewhere: the adapter names its base by a name that others know, and brings its processor."""

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel, get_peft_model
from transformers import AutoModelForImageTextToText, AutoProcessor

from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.directories import fetch_directory
from seva_ray.core.errors import ConfigError
from seva_ray.dpo.policy import Lora
from seva_ray.stages import export as stage
from seva_ray.stages.export import Export, base_of, export
from tests.hub import Hub, serving

HASH = "0123456789abcdef0123456789abcdef01234567"


def policy(root: Path, toy_model: str, directory: str) -> tuple[Store, Artifact]:
    """A policy as training leaves it. Its adapter is not zero."""
    store = Store(str(root / "runs"))
    pairs = store.open("pairs/toy/toy/moco", config={}).finish({"views": {"moco": {"kept": 10, "equal": 2}}})
    artifact = store.open("policies/mine", config={"train": {"beta": 0.1}}, inputs=[pairs]).begin()
    fetch_directory(toy_model, artifact.path("model"))
    base = AutoModelForImageTextToText.from_pretrained(toy_model)
    model = get_peft_model(base, Lora(rank=4, alpha=8).peft(base))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.01)
    model.save_pretrained(artifact.path("adapter"))
    start = {"name": "toy-1", "directory": directory, "fingerprint": "f", "contents": ""}
    return store, artifact.finish({"num_pairs": 10, "num_steps": 2, "start": start})


@pytest.fixture(scope="module")
def made(toy_model: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Artifact]:
    return policy(tmp_path_factory.mktemp("policy"), toy_model, f"/home/me/runs/{HASH}")


def config_of(directory: str) -> dict[str, object]:
    return json.loads((Path(directory) / "adapter_config.json").read_text())


def test_an_adapter_names_no_path_and_loads_on_its_base_with_its_own_processor(made, toy_model: str, tmp_path: Path):
    store, trained = made
    before = config_of(trained.path("adapter"))
    assert before["base_model_name_or_path"] == toy_model, "PEFT writes the place where training found the base"
    to = export(Export(what="adapter", to=str(tmp_path / "out")), store, "mine")
    config = config_of(to)
    assert config["base_model_name_or_path"] == "toy-1"
    assert config["task_type"] is None
    assert config["auto_mapping"] == {
        "base_model_class": "AutoModelForImageTextToText",
        "parent_library": "transformers",
    }
    model = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(toy_model), to)
    weights = [weight for name, weight in model.named_parameters() if "lora_B" in name]
    assert weights
    assert all(torch.equal(weight, torch.full_like(weight, 0.01)) for weight in weights)
    processor = AutoProcessor.from_pretrained(to)
    assert processor.chat_template == AutoProcessor.from_pretrained(toy_model).chat_template
    assert not list(Path(to).glob("model*.safetensors"))
    for file in Path(to).iterdir():
        assert file.suffix == ".safetensors" or toy_model not in file.read_text()


def test_the_base_is_its_repository_on_the_hub_or_the_name_given(made, toy_model: str, tmp_path: Path):
    _, trained = made
    directory = f"/home/me/.cache/huggingface/hub/models--llava-hf--llava-1.5-7b-hf/snapshots/{HASH}"
    _, cached = policy(tmp_path, toy_model, directory)
    assert base_of(Export(to="x"), cached) == "llava-hf/llava-1.5-7b-hf"
    assert base_of(Export(to="x"), trained) == "toy-1"
    assert base_of(Export(to="x", base="me/base"), cached) == "me/base"


def test_the_card_has_what_a_hub_reads(made, tmp_path: Path):
    store, _ = made
    options = {"base": "me/base", "license": "llama2", "datasets": ("me/pairs",)}
    to = export(Export(to=str(tmp_path / "out"), **options), store, "mine")  # type: ignore[arg-type]
    card = ModelCard.load(Path(to) / "README.md")
    assert (card.data.base_model, card.data.license, card.data.datasets) == ("me/base", "llama2", ["me/pairs"])
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "image-text-to-text")


def test_transformers_4_reads_the_settings_too_and_5_reads_the_same_as_before(made, toy_model: str, tmp_path: Path):
    """transformers 4.57.3 was seen to load such an export and to answer with it."""
    store, trained = made
    before = json.loads(Path(trained.path("model"), "tokenizer_config.json").read_text())
    assert before["tokenizer_class"] == "TokenizersBackend", "the name that transformers 4 refuses"
    assert before["extra_special_tokens"] == [], "4 wants a mapping"
    for what in ("merged", "adapter"):
        to = Path(export(Export(what=what, to=str(tmp_path / what)), store, "mine"))
        config = json.loads((to / "tokenizer_config.json").read_text())
        assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
        assert "extra_special_tokens" not in config
        images = json.loads((to / "preprocessor_config.json").read_text())
        assert images == json.loads((to / "processor_config.json").read_text())["image_processor"]
        now, then = AutoProcessor.from_pretrained(to), AutoProcessor.from_pretrained(toy_model)
        assert now.image_processor.to_dict() == then.image_processor.to_dict()
        text = "USER: <image>\nwhat color is the ring ?"
        assert now.tokenizer(text) == then.tokenizer(text)
        assert now.tokenizer.all_special_tokens == then.tokenizer.all_special_tokens


def test_a_list_of_further_tokens_is_written_under_the_name_that_both_read(tmp_path: Path):
    config = {"tokenizer_class": "LlamaTokenizer", "extra_special_tokens": ["<a>", "<b>"]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    stage.make_readable(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text()) == {
        "tokenizer_class": "LlamaTokenizer",
        "additional_special_tokens": ["<a>", "<b>"],
    }


def test_pairs_are_pushed_to_a_repository_of_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from huggingface_hub import constants

    (tmp_path / "README.md").write_text("---\ntags: [seva]\n---\n")
    with serving(Hub()) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_thisisasecret")
        stage.push(tmp_path, "user/name", "dataset")
    assert [(made["type"], made["visibility"]) for made in hub.created] == [("dataset", "private")]
    assert list(hub.files) == ["README.md"]
    assert all("/datasets/" in request.line for request in hub.requests if "user/name" in request.line)


@pytest.mark.parametrize("name", ["name", "a/b/c", "user/na me", "/name"])
def test_a_repository_that_cannot_be_is_refused_when_built(name: str):
    with pytest.raises(ConfigError, match=r"push .*: must be user/name"):
        Export(to="x", push=name)
