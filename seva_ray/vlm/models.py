"""A model: a directory in the transformers format, its name, and a fingerprint of its weights."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seva_ray.core.artifacts import Artifact
from seva_ray.core.fingerprints import fingerprint_of
from seva_ray.core.node_cache import local_directory
from seva_ray.vlm.families import check_served

READ_SUFFIXES = (".safetensors", ".json", ".jinja", ".model", ".txt")
"""Suffixes of the files that answers depend on: weights, settings, chat template and vocabulary."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model that stages load, by its name, directory and fingerprint."""

    name: str
    """Name of the model, under which its responses and scores are stored."""
    directory: str
    """Local path or fsspec URI of the model's directory."""
    fingerprint: str
    """Fingerprint of the model's files, or of the recipe that it was trained by."""


def model_of(artifact: Artifact) -> Model:
    """The model in an artifact of a training stage."""
    name = artifact.name.rsplit("/", 1)[-1]
    return Model(name=name, directory=artifact.path("model"), fingerprint=artifact.fingerprint)


def model_at(directory: str) -> Model:
    """A model that was made elsewhere. Raises: InputError if it is not a vision-language model that is served."""
    local = local_directory(directory)
    check_served(local)
    files = {path.name: digest(path) for path in sorted(Path(local).iterdir()) if path.suffix in READ_SUFFIXES}
    name = Path(directory.rstrip("/")).name
    return Model(name=name, directory=directory, fingerprint=fingerprint_of({"files": files}))


BOOKKEEPING = ("_name_or_path", "dtype", "torch_dtype", "transformers_version", "use_cache")
"""Fields of a model's config that do not affect how answers are computed from the weights."""


def architecture(directory: str) -> str:
    """A fingerprint that is equal for models that an engine can switch between by loading other weights. It is empty if
    there is no config."""
    files = [Path(local_directory(directory), name) for name in ("config.json", "generation_config.json")]
    configs = {path.name: without_bookkeeping(json.loads(path.read_text())) for path in files if path.exists()}
    return fingerprint_of(configs) if configs else ""


def without_bookkeeping(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: without_bookkeeping(value) if isinstance(value, Mapping) else value
        for name, value in config.items()
        if name not in BOOKKEEPING
    }


def digest(path: Path) -> str:
    """SHA-256 of a file, which takes about a second per GB."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
