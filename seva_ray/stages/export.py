"""export: a trained policy -> a directory to serve or publish: merged weights or the adapter, and a model card."""

import gc
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.errors import ConfigError, InputError
from seva_ray.core.provenance import versions
from seva_ray.core.storage import exists, fetch_directory, write_directory
from seva_ray.core.submission import check_lasts
from seva_ray.pages.card import CardContent, model_card
from seva_ray.runtime.heartbeat import waiting
from seva_ray.runtime.progress import say
from seva_ray.stages.score_files import read_comparisons, scores_of, title_of


@dataclass(frozen=True, kw_only=True)
class Export:
    """What is exported, and to which place."""

    what: Literal["merged", "adapter"] = "merged"
    """What to export: `merged` is the whole model, which vLLM and transformers load; `adapter` is the LoRA adapter."""
    to: str
    """The target: a local directory or an fsspec URI that does not exist yet."""
    push: str = ""
    """A model hub repository (`user/name`) that gets the same files. A new one is private. Empty: nothing is pushed."""

    def __post_init__(self) -> None:
        if self.push and self.push.count("/") != 1:
            raise ConfigError(f"push {self.push!r}: must be user/name")


def export(config: Export, store: Store, name: str) -> str:
    """Export policy `name` and return where its files are. Raises: InputError if it is missing or the target exists."""
    check_lasts("to", config.to)
    trained = store.find(f"policies/{name}")
    if exists(config.to):
        raise InputError(f"to {config.to}: already exists; choose another place or remove it")
    source = trained.path({"merged": "model", "adapter": "adapter"}[config.what])
    if not exists(source):
        raise InputError(f"policies/{name}: has no adapter (all weights were trained); export the merged model")
    with waiting(f"export {name}: copying the files"), tempfile.TemporaryDirectory(prefix="seva-export-") as scratch:
        directory = Path(scratch, "export")
        fetch_directory(source, str(directory))
        (directory / "README.md").write_text(model_card(content(config, store, name, trained)))
        if config.push:
            push(directory, config.push)
        write_directory(config.to, str(directory))
    say(f"export {name}: {config.to}" + (f", and {config.push}" if config.push else ""))
    return config.to


def content(config: Export, store: Store, name: str, trained: Artifact) -> CardContent:
    pairs = store.find(next(iter(trained.recipe["inputs"])))
    return CardContent(
        name=name,
        start=trained.counts["start"]["name"],
        what=config.what,
        num_pairs=trained.counts["num_pairs"],
        num_steps=trained.counts["num_steps"],
        views=pairs.counts["views"],
        scores={title_of(item): read_comparisons(item) for item in scores_of(store, name)},
        recipe=trained.recipe["config"]["train"],
        versions=versions(),
        fingerprint=trained.fingerprint,
    )


def push(directory: Path, repository: str) -> None:
    """Push the files with huggingface_hub, which finds its own token (HF_TOKEN, or its login).

    Raises: InputError if the hub fails.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=directory)
        return
    except Exception as error:  # the errors of huggingface_hub and its HTTP libraries change between versions
        line = first_line(error)
        if isinstance(error, RuntimeError) and error.__cause__:  # the error names the file, and its cause says why
            line += " " + first_line(error.__cause__)
    gc.collect()  # the error's frames hold a progress bar, which would otherwise print after our line
    raise InputError(f"push {repository}: {line}")


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
