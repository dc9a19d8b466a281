"""A model that cannot be loaded, or not as it is meant, is one line within seconds: no weights are read into memory."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from seva_ray.core.artifacts import Store
from seva_ray.core.errors import InputError
from seva_ray.stages.base_model import check_name, check_start
from seva_ray.toy.recipe import ToyRecipe
from seva_ray.vlm.families import check_served
from seva_ray.vlm.model_files import INDEX, REPOSITORIES, reading
from seva_ray.vlm.models import model_at, name_of, place_of

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 3897120\n"
LARGE = REPOSITORIES[5120]
COMMIT = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture
def model(toy_model: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy_model, tmp_path / "model"))


def split(model: Path) -> None:
    """Two weight files with an index, as large models have."""
    tensors = load_file(model / "model.safetensors")
    names, (first, second) = list(tensors), ("model-1.safetensors", "model-2.safetensors")
    weight_map = {name: first if place < 20 else second for place, name in enumerate(names)}
    for file in (first, second):
        part = {name: tensors[name] for name in names if weight_map[name] == file}
        save_file(part, model / file, {"format": "pt"})
    (model / "model.safetensors").unlink()
    (model / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def pointer(model: Path) -> None:
    (model / "model.safetensors").write_text(POINTER)


def pointer_in_a_small_file(model: Path) -> None:
    (model / "tokenizer.json").write_text(POINTER)


def cut_short(model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def too_long(model: Path) -> None:
    with (model / "model.safetensors").open("ab") as weights:
        weights.write(b"more")


def no_weights(model: Path) -> None:
    (model / "model.safetensors").write_bytes(b"")


def a_page_of_html(model: Path) -> None:
    (model / "model.safetensors").write_text("<!DOCTYPE html><html><head><title>Access denied</title></head></html>")


def a_weight_file_is_missing(model: Path) -> None:
    split(model)
    (model / "model-2.safetensors").unlink()


def a_weight_file_of_another_model(model: Path) -> None:
    split(model)
    shutil.copy(model / "model-1.safetensors", model / "model-2.safetensors")


def no_index(model: Path) -> None:
    split(model)
    (model / INDEX).unlink()


def an_index_that_is_cut(model: Path) -> None:
    split(model)
    (model / INDEX).write_text((model / INDEX).read_text()[:-20])


def rewrite(model: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Other tensors in the weight file."""
    save_file(change(load_file(model / "model.safetensors")), model / "model.safetensors", {"format": "pt"})


def a_layer_is_missing(model: Path) -> None:
    """Its file is whole. transformers would fill the layer with random numbers, and say nothing in a job."""
    rewrite(model, lambda tensors: {name: tensors[name] for name in tensors if "model.layers.1.mlp." not in name})


def a_language_model_alone(model: Path) -> None:
    """A text model's weights, under the names that they have without a vision tower."""
    head = "language_model."
    rewrite(model, lambda old: {name.removeprefix(head): old[name] for name in old if name.startswith(head)})


def weights_of_a_narrower_tower(model: Path) -> None:
    change_part(model, "vision_config", hidden_size=96)


def one_file_beside_several(model: Path) -> None:
    """Of a model that was saved twice, in files of another size."""
    weights = (model / "model.safetensors").read_bytes()
    split(model)
    (model / "model.safetensors").write_bytes(weights)


def an_adapter_beside(model: Path) -> None:
    shutil.copy(model / "model.safetensors", model / "adapter_model.safetensors")


def quantized(model: Path) -> None:
    change(model / "config.json", quantization_config={"quant_method": "awq", "bits": 4})


def eight_bits(model: Path) -> None:
    """As quantized weights are, of which config.json does not say so."""
    rewrite(model, lambda tensors: {name: tensor.to(torch.float8_e4m3fn) for name, tensor in tensors.items()})


def huge_images(model: Path) -> None:
    change_processor(model, size={"shortest_edge": 100_000})


def no_spread_of_colours(model: Path) -> None:
    change_processor(model, image_std=[0, 0, 0])


def change_processor(model: Path, **values: object) -> None:
    settings = json.loads((model / "processor_config.json").read_text())
    change(model / "processor_config.json", image_processor=settings["image_processor"] | values)


def an_end_by_name(model: Path) -> None:
    change(model / "generation_config.json", eos_token_id="</s>")


def a_template_without_the_question(model: Path) -> None:
    (model / "chat_template.jinja").write_text("USER: <image>\nASSISTANT:")


def link_to_nothing(model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "model.safetensors").symlink_to("../../blobs/b7")


def older_processor(model: Path) -> None:
    change(model / "processor_config.json", num_additional_image_tokens=None)


def much_older_processor(model: Path) -> None:
    """Only an image processor, as the first files of LLaVA have it."""
    settings = json.loads((model / "processor_config.json").read_text())
    (model / "preprocessor_config.json").write_text(json.dumps(settings["image_processor"]))
    (model / "processor_config.json").unlink()


def another_image_size(model: Path) -> None:
    config = json.loads((model / "processor_config.json").read_text())
    config["image_processor"] |= {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}
    (model / "processor_config.json").write_text(json.dumps(config))


def another_image_token(model: Path) -> None:
    change(model / "config.json", image_token_index=7)


def no_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").unlink()


def a_page_for_a_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").write_text("<html>not found</html>")


def a_cut_generation_config(model: Path) -> None:
    (model / "generation_config.json").write_text("{")


def a_layer_that_the_tower_lacks(model: Path) -> None:
    change(model / "config.json", vision_feature_layer=-5)


def no_chat_template(model: Path) -> None:
    (model / "chat_template.jinja").unlink()


def original_format(model: Path) -> None:
    change(model / "config.json", mm_vision_tower="openai/clip-vit-large-patch14-336", hidden_size=5120)


def an_adapter(model: Path) -> None:
    (model / "config.json").rename(model / "adapter_config.json")


def a_directory_for_a_file(model: Path) -> None:
    (model / "generation_config.json").unlink(missing_ok=True)
    (model / "generation_config.json").mkdir()


def a_shape_that_is_text(model: Path) -> None:
    weights = (model / "model.safetensors").read_bytes()
    length = int.from_bytes(weights[:8], "little")
    header = json.loads(weights[8 : 8 + length])
    header[max(header)]["shape"] = "x"
    changed = json.dumps(header).encode()
    (model / "model.safetensors").write_bytes(len(changed).to_bytes(8, "little") + changed + weights[8 + length :])


def a_weight_file_with_a_number_for_a_name(model: Path) -> None:
    (model / INDEX).write_text('{"weight_map": {"a": 5}}')


def a_weight_file_with_a_name_too_long(model: Path) -> None:
    (model / INDEX).write_text(json.dumps({"weight_map": {"a": "x" * 5000}}))


def deep_config(model: Path) -> None:
    (model / "config.json").write_text("[" * 100_000)


def change_part(model: Path, part: str, **values: object) -> None:
    """Other values in a part of config.json."""
    config = json.loads((model / "config.json").read_text())
    change(model / "config.json", **{part: config[part] | values})


def no_patches(model: Path) -> None:
    change_part(model, "vision_config", patch_size=0)


def an_unknown_rope(model: Path) -> None:
    change_part(model, "text_config", rope_parameters={"rope_type": "zzz"})


def ten_million_layers(model: Path) -> None:
    change_part(model, "text_config", num_hidden_layers=10**7)


def a_billion_labels(model: Path) -> None:
    """transformers would make a name for each of them."""
    change(model / "config.json", num_labels=10**9)


def a_large_vocabulary(model: Path) -> None:
    change_part(model, "text_config", vocab_size=10**9)


def change(file: Path, **values: object) -> None:
    """Other values in a JSON file; None removes one."""
    changed = json.loads(file.read_text()) | values
    file.write_text(json.dumps({name: value for name, value in changed.items() if value is not None}))


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (pointer, "model.safetensors is a Git LFS pointer, not the file; `git lfs pull` fetches it"),
        (pointer_in_a_small_file, "tokenizer.json is a Git LFS pointer"),
        (cut_short, "it must be copied again"),
        (too_long, "it must be copied again"),
        (no_weights, "model.safetensors is not a safetensors file"),
        (a_page_of_html, "model.safetensors is not a safetensors file"),
        (a_weight_file_is_missing, "1 of 2 weight files missing: model-2.safetensors"),
        (a_weight_file_of_another_model, "model-2.safetensors does not hold "),
        (no_index, f"neither model.safetensors nor {INDEX}"),
        (an_index_that_is_cut, f"{INDEX} cannot be used (JSONDecodeError: "),
        (a_layer_is_missing, ".layers.1.mlp.down_proj.weight and 2 more, which config.json describes"),
        (a_language_model_alone, "its weight files lack model.language_model.embed_tokens.weight and "),
        (weights_of_a_narrower_tower, " is 128 x 128 in its weight files, and 128 x 96 by config.json, and "),
        (one_file_beside_several, f"transformers reads model.safetensors, and vLLM the files that {INDEX} names"),
        (an_adapter_beside, "vLLM would read adapter_model.safetensors beside model.safetensors; move it elsewhere"),
        (quantized, "its weights are quantized (awq), and a quantized model is not trained here; take the repository"),
        (eight_bits, " in model.safetensors has the data type F8_E4M3; take the repository whose weights have 16 bits"),
        (huge_images, "processor_config.json: size has shortest_edge 100,000, and must have 1 to 16,384"),
        (no_spread_of_colours, "its processor makes pixels that are no numbers"),
        (an_end_by_name, "generation_config.json: eos_token_id is '</s>', and must be a token's number"),
        (a_template_without_the_question, "its chat template leaves the question out"),
        (link_to_nothing, "model.safetensors is a link to ../../blobs/b7, which does not exist"),
        (older_processor, "makes 35 tokens of an image, and its vision tower 36 features; processor_config.json needs"),
        (
            much_older_processor,
            "processor_config.json lacks patch_size and vision_feature_select_strategy, as older files",
        ),
        (another_image_size, "images of 64 x 64 pixels, and its vision tower reads 48 x 48"),
        (another_image_token, "the image token is 4 in its tokenizer, and 7 in config.json"),
        (no_tokenizer, "no tokenizer.json or tokenizer.model"),
        (a_page_for_a_tokenizer, "tokenizer.json cannot be used (JSONDecodeError: "),
        (a_cut_generation_config, "generation_config.json cannot be used (JSONDecodeError: "),
        (a_layer_that_the_tower_lacks, "vision_feature_layer is -5, and the vision tower has 3 layers"),
        (no_chat_template, "it has no chat template, which belongs into chat_template.jinja"),
        (
            original_format,
            f"in the original LLaVA format; jobs/convert.py converts it, or take the same weights from {LARGE}",
        ),
        (an_adapter, "only an adapter; give the merged model"),
        (a_directory_for_a_file, "generation_config.json is a directory"),
        (a_shape_that_is_text, "the header of model.safetensors cannot be used (SafetensorError: "),
        (a_weight_file_with_a_number_for_a_name, f"{INDEX} cannot be used (TypeError: "),
        (a_weight_file_with_a_name_too_long, f"{INDEX} cannot be used (OSError: [Errno 36] File name too long"),
        (deep_config, "config.json cannot be used (RecursionError: "),
        (no_patches, "config.json cannot be used (ZeroDivisionError: "),
        (an_unknown_rope, "config.json cannot be used (KeyError: 'zzz')"),
        (ten_million_layers, "config.json: num_hidden_layers is 10,000,000, and at most 1,024 are made"),
        (a_billion_labels, "config.json: num_labels is 1,000,000,000, and at most 1,000,000 are made"),
        (a_large_vocabulary, " weights, but the weight files hold only 3,8"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_model_that_cannot_be_served_is_one_line(spoil: Callable[[Path], None], line: str, model: Path):
    spoil(model)
    with pytest.raises(InputError) as caught:
        check_start(Store(str(model.parent)), str(model))
    assert str(caught.value).startswith(f"model {model}: ")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_fault_of_the_machine_is_no_fault_of_a_models_file(model: Path):
    """A disk that does not answer, and memory that is used up, say nothing about the file."""
    for fault in (OSError(errno.EIO, "Input/output error"), MemoryError()):
        with pytest.raises(type(fault)), reading(model, "config.json"):
            raise fault


def test_a_model_in_several_files_passes_and_is_another_by_its_files(model: Path, toy_model: str):
    split(model)
    check_served(str(model))
    assert model_at(str(model)).fingerprint != model_at(toy_model).fingerprint


def snapshot(model: str, hub: Path) -> Path:
    """A copy of the model as Hugging Face's cache keeps it."""
    repository = hub / "models--llava-hf--llava-1.5-7b-hf"
    place = repository / "snapshots" / COMMIT
    place.mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    for number, file in enumerate(sorted(Path(model).iterdir())):
        shutil.copy(file, repository / "blobs" / f"b{number}")
        (place / file.name).symlink_to(f"../../blobs/b{number}")
    return place


def test_a_model_in_hugging_faces_cache_has_its_own_name_and_is_found_by_its_repository(
    toy_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    place = snapshot(toy_model, tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for model in (str(place), "llava-hf/llava-1.5-7b-hf"):
        found = model_at(model)
        assert (found.name, found.directory) == ("llava-1.5-7b-hf", str(place))
        assert found.fingerprint == model_at(toy_model).fingerprint
    check_start(Store(str(tmp_path / "runs")), "llava-hf/llava-1.5-7b-hf")
    with pytest.raises(InputError, match="other/model: no such directory, and no such repository in Hugging Face's"):
        place_of("other/model")
    assert name_of(f"/hub/models--gpt2/snapshots/{COMMIT}") == "gpt2"


def test_a_relative_path_means_the_same_place_wherever_it_is_used(
    toy_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(Path(toy_model).parent)
    model = model_at(Path(toy_model).name)
    monkeypatch.chdir(tmp_path)
    assert model.directory == toy_model
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(toy_model, tmp_path / "mine")
    assert model_at("~/mine").directory == str(tmp_path / "mine")


def test_a_name_that_no_result_can_have_is_refused_before_anything_is_made(toy_model: str, tmp_path: Path):
    place = shutil.copytree(toy_model, tmp_path / "my model")
    with pytest.raises(InputError, match=r"my model: results are stored under the directory's name, so it must have"):
        check_start(Store(str(tmp_path / "runs")), str(place))
    (tmp_path / "mine").symlink_to(place)
    check_start(Store(str(tmp_path / "runs")), str(tmp_path / "mine"))


def test_a_run_that_ends_with_its_prompts_needs_no_model():
    check_name("policy", "nowhere/llava", ToyRecipe())
