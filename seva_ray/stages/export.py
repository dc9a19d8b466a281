"""export: a trained policy -> a directory to serve or publish: merged weights or the adapter, and a model card."""

import gc
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.directories import fetch_directory, write_directory
from seva_ray.core.errors import ConfigError, InputError
from seva_ray.core.provenance import versions
from seva_ray.core.scratch import scratch_directory
from seva_ray.core.storage import exists, names_in, read_bytes
from seva_ray.core.submission import check_lasts
from seva_ray.pages.card import CardContent, model_card
from seva_ray.runtime.heartbeat import waiting
from seva_ray.runtime.progress import say
from seva_ray.stages.score_files import read_comparisons, scores_of, title_of
from seva_ray.vlm.models import repository_of


@dataclass(frozen=True, kw_only=True)
class Export:
    """What is exported, and to which place."""

    what: Literal["merged", "adapter"] = "merged"
    """What to export: `merged` is the whole model, which vLLM and transformers load; `adapter` is the LoRA adapter."""
    to: str
    """The target: a local directory or an fsspec URI that does not exist yet."""
    push: str = ""
    """A model hub repository (`user/name`) that gets the same files. A new one is private. Empty: nothing is pushed."""
    base: str = ""
    """Name of the base model on the hub, such as `llava-hf/llava-1.5-7b-hf`, for the card and the adapter. Empty: the
    repository from whose cached copy training started, or else the starting model's name."""
    license: str = ""
    """The licence that the card names, such as `llama2`. Empty: the card says that none was given."""
    datasets: tuple[str, ...] = ()
    """Names on the hub of the pairs or images, for the card."""

    def __post_init__(self) -> None:
        check_repository(self.push)


def check_repository(name: str) -> None:
    """Raises: ConfigError if this is no name of a repository on a hub. An empty name is good."""
    if name and not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ConfigError(f"push {name!r}: must be user/name")


def export(config: Export, store: Store, name: str) -> str:
    """Export policy `name` and return where its files are. Raises: InputError if it is missing or the target exists."""
    check_lasts("to", config.to)
    trained = store.find(f"policies/{name}")
    if exists(config.to):
        raise InputError(f"to {config.to}: already exists; choose another place or remove it")
    source = trained.path({"merged": "model", "adapter": "adapter"}[config.what])
    if not exists(source):
        raise InputError(f"policies/{name}: has no adapter (all weights were trained); export the merged model")
    with waiting(f"export {name}: copying the files"), scratch_directory("seva-export-") as scratch:
        directory = Path(scratch, "export")
        fetch_directory(source, str(directory))
        if config.what == "adapter":
            fetch_processor(trained.path("model"), directory)
            write_base(directory / "adapter_config.json", base_of(config, trained))
        make_readable(directory)
        (directory / "README.md").write_text(model_card(content(config, store, name, trained)), encoding="utf-8")
        if config.push:
            push(directory, config.push, "model")
        write_directory(config.to, str(directory))
    say(f"export {name}: {config.to}" + (f", and {config.push}" if config.push else ""))
    return config.to


def content(config: Export, store: Store, name: str, trained: Artifact) -> CardContent:
    pairs = store.find(next(iter(trained.recipe["inputs"])))
    return CardContent(
        name=name,
        start=base_of(config, trained),
        what=config.what,
        num_pairs=trained.counts["num_pairs"],
        num_steps=trained.counts["num_steps"],
        views=pairs.counts["views"],
        scores={title_of(item): read_comparisons(item) for item in scores_of(store, name)},
        recipe=trained.recipe["config"]["train"],
        versions=versions(),
        fingerprint=trained.fingerprint,
        license=config.license,
        datasets=config.datasets,
    )


def base_of(config: Export, trained: Artifact) -> str:
    """What others call the starting model. It is never a path of this machine."""
    start = trained.counts["start"]
    return config.base or repository_of(start.get("directory", "")) or start["name"]


WEIGHTS = re.compile(r".*\.safetensors(\.index\.json)?|config\.json|generation_config\.json")
"""Names of the files of a model that are not those of its processor or tokenizer."""


def fetch_processor(model: str, directory: Path) -> None:
    """Copy the processor and the tokenizer of the model beside its adapter."""
    for name in sorted(names_in(model)):
        if not WEIGHTS.fullmatch(name) and not (directory / name).exists():
            (directory / name).write_bytes(read_bytes(f"{model}/{name}"))


def write_base(file: Path, base: str) -> None:
    """Name the base model in the adapter's config, and its kind as PEFT does for a model of no kind that it lists:
    `CAUSAL_LM`, which training needs, would have others load the base as a model of text alone."""
    config = json.loads(file.read_text(encoding="utf-8"))
    kind = {"base_model_class": "AutoModelForImageTextToText", "parent_library": "transformers"}
    config |= {"base_model_name_or_path": base, "task_type": None, "auto_mapping": kind}
    file.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def make_readable(directory: Path) -> None:
    """Write the settings of tokenizer and processor so that transformers 4.57 reads them as well as 5, which wrote
    them: 4.57 refuses the name of the tokenizer's class and a list of further tokens, and wants the image processor's
    settings in a file of their own."""
    tokenizer, processor = directory / "tokenizer_config.json", directory / "processor_config.json"
    if tokenizer.exists():
        config = json.loads(tokenizer.read_text(encoding="utf-8"))
        if config.get("tokenizer_class") == "TokenizersBackend":
            config["tokenizer_class"] = "PreTrainedTokenizerFast"
            config.setdefault("model_input_names", ["input_ids", "attention_mask"])  # 4 has one more by default
        if isinstance(further := config.get("extra_special_tokens"), list):
            del config["extra_special_tokens"]
            config |= {"additional_special_tokens": further} if further else {}
        tokenizer.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    own = directory / "preprocessor_config.json"
    if processor.exists() and not own.exists():
        images = json.loads(processor.read_text(encoding="utf-8")).get("image_processor")
        if images:
            own.write_text(json.dumps(images, indent=2) + "\n", encoding="utf-8")


def push(directory: Path, repository: str, kind: Literal["model", "dataset"]) -> None:
    """Push the files with huggingface_hub, which finds its own token (HF_TOKEN, or its login).

    Raises: InputError if the hub fails.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(repository, repo_type=kind, private=True, exist_ok=True)
        api.upload_folder(repo_id=repository, repo_type=kind, folder_path=directory)
        return
    except Exception as error:  # the errors of huggingface_hub and its HTTP libraries change between versions
        line = first_line(error)
        if isinstance(error, RuntimeError) and error.__cause__:  # the error names the file, and its cause says why
            line += " " + first_line(error.__cause__)
    gc.collect()  # the error's frames hold a progress bar, which would otherwise print after our line
    raise InputError(f"push {repository}: {line}")


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
