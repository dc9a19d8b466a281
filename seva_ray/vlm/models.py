"""A model: a directory in the transformers format, its name, and a fingerprint of its weights."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from seva_ray.core.artifacts import Artifact
from seva_ray.core.digests import digest
from seva_ray.core.errors import InputError
from seva_ray.core.fingerprints import fingerprint_of
from seva_ray.core.outlines import local_outline
from seva_ray.core.storage import absolute, exists, is_local
from seva_ray.vlm.families import check_served
from seva_ray.vlm.model_files import READ_SUFFIXES, settings_in, weight_headers
from seva_ray.vlm.weight_values import check_values


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model that stages load, by its name, directory and fingerprint."""

    name: str
    """Name of the model, under which its responses and scores are stored."""
    directory: str
    """Local path or fsspec URI of the model's directory."""
    fingerprint: str
    """Fingerprint of the model's files, or of the recipe that it was trained by."""
    contents: str = ""
    """Digest of the files of a model that a recipe made, if it is known: a model that is trained again may differ."""


def model_of(artifact: Artifact) -> Model:
    """The model in an artifact of a training stage."""
    name, directory = artifact.name.rsplit("/", 1)[-1], artifact.path("model")
    return Model(name=name, directory=directory, fingerprint=artifact.fingerprint, contents=artifact.contents)


def model_at(directory: str) -> Model:
    """A model that was made elsewhere. Raises: InputError if it is not a vision-language model that is served, or if
    its weights are on a disk and cannot be those of a model."""
    place = place_of(directory)
    outline = Path(local_outline(place))
    check_served(str(outline))
    read = [path for path in sorted(outline.iterdir()) if path.suffix in READ_SUFFIXES]
    local = is_local(place)
    weights = weight_headers(str(outline)) if local else {}
    files = {
        path.name: digest(
            path if local else f"{place.rstrip('/')}/{path.name}",
            check=partial(check_values, path) if path.name in weights else None,
        )
        for path in read
    }
    return Model(name=name_of(place), directory=place, fingerprint=fingerprint_of({"files": files}))


SNAPSHOT = re.compile(r"/models--(?:([^/]+?)--)?([^/]+)/snapshots/[0-9a-f]{40}/?$")
"""The end of the path of a model in Hugging Face's cache: the repository's owner, if it has one, and its name."""


def repository_of(directory: str) -> str | None:
    """The repository of a model in Hugging Face's cache, as `owner/name`; None for any other directory."""
    in_cache = SNAPSHOT.search(directory)
    return "/".join(filter(None, in_cache.groups())) if in_cache else None


def place_of(model: str) -> str:
    """The place of a model, for every process on every node: an absolute path or a URI. For a repository of Hugging
    Face, such as `llava-hf/llava-1.5-7b-hf`, it is the copy in the cache of this machine.

    Raises: InputError if there is no such directory.
    """
    place = found(model)
    if place is None:
        other = "; give a directory, or a repository's name such as llava-hf/llava-1.5-7b-hf"
        if model.count("/") == 1:
            other = f", and no such repository in Hugging Face's cache; `hf download {model}` puts one there"
        raise InputError(f"model {model}: no such directory{other}")
    return place


def found(model: str) -> str | None:
    """The same as `place_of`, but None if there is no such directory."""
    place = absolute(model)
    if exists(place):
        return place
    return cached(model) if re.fullmatch(r"[\w.-]+/[\w.-]+", model) else None


def cached(repository: str) -> str | None:
    """The directory of a repository's copy in Hugging Face's cache, or None."""
    from huggingface_hub import snapshot_download  # takes a second
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return snapshot_download(repository, local_files_only=True)
    except (HFValidationError, LocalEntryNotFoundError):
        return None


def name_of(place: str) -> str:
    """The name under which a model's results are stored: that of its directory, or of its repository.

    Raises: InputError if it cannot be part of an artifact's name.
    """
    place = place.rstrip("/")
    if repository := repository_of(place):
        return repository.rpartition("/")[2]
    name = place.rpartition("/")[2]
    if not re.fullmatch(r"[\w.+=-]+", name) or set(name) <= {"."}:
        raise InputError(
            f"model {place}: results are stored under the directory's name, so it must have only letters, digits and "
            "._+=-; a link with such a name will do"
        )
    return name


BOOKKEEPING = ("_name_or_path", "dtype", "torch_dtype", "transformers_version", "use_cache")
"""Fields of a model's config that do not affect how answers are computed from the weights."""


def architecture(directory: str) -> str:
    """A fingerprint that is equal for models that an engine can switch between by loading other weights. It is empty if
    there is no config."""
    files = [Path(local_outline(directory), name) for name in ("config.json", "generation_config.json")]
    configs: dict[str, Mapping[str, Any]] = {path.name: settings_in(path) for path in files if path.exists()}
    if "config.json" in configs:
        configs["config.json"] = with_transformers_defaults(configs["config.json"])
    return fingerprint_of({name: without_bookkeeping(config) for name, config in configs.items()}) if configs else ""


def with_transformers_defaults(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A model's config with all values that it leaves to transformers. Some versions write them into the file, others
    do not, so that a policy may say less than the model that it was trained from."""
    from transformers import AutoConfig

    try:
        return AutoConfig.for_model(**config).to_dict()
    except (AttributeError, KeyError, TypeError, ValueError):  # a model of its own code, or one that its files spoil
        return config


def without_bookkeeping(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: without_bookkeeping(value) if isinstance(value, Mapping) else value
        for name, value in config.items()
        if name not in BOOKKEEPING
    }
