"""Checks of a model directory that read its small files and the headers of its weights: seconds, and little memory.

Source of the format: https://github.com/huggingface/safetensors ("Format"): 8 bytes with the length of the header, the
header in JSON with the place of each tensor, and the tensors.
"""

import errno
import json
import math
import os
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open

from seva_ray.core.errors import InputError, UserError, is_of_the_machine, line_of
from seva_ray.private.transformers import vision_language_model_types

INDEX = "model.safetensors.index.json"
LFS = b"version https://git-lfs.github.com/spec/"
MOST_HEADER_BYTES = 100_000_000
"""The largest header that the safetensors library reads."""
READ_WHOLE, MOST_WHOLE_BYTES = (".json", ".jinja", ".txt"), 2**28
"""Suffixes of the files that are read as a whole, and their largest size in bytes. Large vocabularies take a seventh
of it."""
REPOSITORIES = {4096: "llava-hf/llava-1.5-7b-hf", 5120: "llava-hf/llava-1.5-13b-hf"}
"""LLaVA-1.5 in the transformers format, by the size of its hidden states."""
PROCESSORS = ("processor_config.json", "preprocessor_config.json")
TOKENIZERS = ("tokenizer.json", "tokenizer.model")
SETTINGS = (*PROCESSORS, "tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.json")
"""Files in JSON that libraries read. What these say of a broken one does not name it."""
READ_SUFFIXES = (".safetensors", ".json", ".jinja", ".model", ".txt")
"""Suffixes of the files that answers depend on: weights, settings, chat template and vocabulary."""
MOST = {"layers|depth": 1024, "(^|_)(num|n)_": 1_000_000}
"""The largest numbers in config.json, by what their names hold. transformers makes a module of each layer, and a name
of each label. The largest language models have some 130 layers, and the largest vision models 22,000 labels."""
MOST_PX = 16_384
"""The largest side of an image that a processor makes, in px. The published ones have up to some thousands."""
FAULTS_OF_FILES = {
    None, errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM,
}  # fmt: skip
"""Numbers of the OSErrors that say what is wrong with a file, and not with its disk. transformers gives none."""


@contextmanager
def reading(directory: str | Path, name: str) -> Iterator[None]:
    """Inside, every fault of a file's contents is one line that names the file `name` of the model in `directory`. A
    fault of the machine, such as of its memory or its disk, stays what it is.

    Raises: InputError.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the libraries that read a model may raise anything
        if is_of_the_machine(error) or (isinstance(error, OSError) and error.errno not in FAULTS_OF_FILES):
            raise
        raise InputError(
            f"model {directory}: {name} cannot be used ({type(error).__name__}: {line_of(error)})"
        ) from None


def settings_in(file: Path) -> dict[str, Any]:
    """The object in a JSON file of a model. Raises: InputError if it cannot be read."""
    with reading(file.parent, file.name):
        settings = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise InputError(f"model {file.parent}: {file.name} holds no JSON object")
        return settings


def check_model(directory: str) -> None:
    """Check what kind of model this is, and that all its files are there.

    Raises: InputError if `directory` is not a transformers vision-language model in safetensors.
    """
    path = Path(directory)
    if not path.is_dir():
        raise InputError(f"model {directory}: no such directory")
    if not (path / "config.json").is_file():
        if (path / "adapter_config.json").is_file():
            raise InputError(f"model {directory}: only an adapter; give the merged model, which jobs/export.py writes")
        raise InputError(f"model {directory}: no config.json; it must be a directory in the transformers format")
    check_pointers(path)
    config = settings_in(path / "config.json")
    if "model_type" not in config:
        raise InputError(f"model {directory}: config.json is not a transformers configuration: it has no model_type")
    model_type = str(config["model_type"])
    if "mm_vision_tower" in config:
        same_size = [name for size, name in REPOSITORIES.items() if size == config.get("hidden_size")]
        other = " or ".join(same_size or REPOSITORIES.values())
        raise InputError(
            f"model {directory}: in the original LLaVA format; jobs/convert.py converts it, or take the same weights "
            f"from {other}"
        )
    if model_type not in vision_language_model_types() and "auto_map" in config:
        raise InputError(
            f"model {directory}: model type {model_type!r} comes with code of its own, which is never run; if the same "
            "weights are published in the format of transformers (often with -hf in the name), take those"
        )
    if model_type not in vision_language_model_types():
        raise InputError(f"model {directory}: model type {model_type!r} is not a vision-language model")
    if "vision_config" not in config:
        raise InputError(
            f"model {directory}: model type {model_type!r} cannot be served: its config.json has no vision_config, "
            "which describes the part that sees images"
        )
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        if isinstance(quantized := part.get("quantization_config"), dict):
            raise InputError(
                f"model {directory}: its weights are quantized ({quantized.get('quant_method', 'in some way')}), and a "
                "quantized model is not trained here; take the repository whose weights have 16 bits"
            )
    if not any(path.glob("*.safetensors")):
        raise InputError(f"model {directory}: no .safetensors weights (pickled weights are not loaded)")
    for names in (PROCESSORS, TOKENIZERS):
        if not any((path / name).is_file() for name in names):
            raise InputError(f"model {directory}: no {' or '.join(names)}")
    for name in SETTINGS:
        if (path / name).is_file():
            settings = settings_in(path / name)
            if name in PROCESSORS:
                check_sides(path, name, settings)
    with reading(directory, "config.json"):
        check_numbers(directory, config)


def check_numbers(directory: str, settings: Any, name: str = "") -> None:
    """Check numbers in config.json before a library makes that many of something. Raises: InputError."""
    if isinstance(settings, dict):
        for inner, value in settings.items():
            check_numbers(directory, value, inner)
    elif isinstance(settings, list):
        for value in settings:
            check_numbers(directory, value, name)
    elif isinstance(settings, int | float):
        most = next((most for pattern, most in MOST.items() if re.search(pattern, name)), None)
        if most is not None and settings > most:
            raise InputError(f"model {directory}: config.json: {name} is {settings:,}, and at most {most:,} are made")


def check_sides(path: Path, name: str, settings: Any) -> None:
    """Check the sizes to which a processor brings images, before it makes one. Raises: InputError."""
    for part in (settings, settings.get("image_processor")):
        for setting in ("size", "crop_size"):
            sides = part.get(setting) if isinstance(part, dict) else None
            if isinstance(sides, dict) and "longest_edge" not in sides:  # with it, they may be numbers of pixels
                for side, value in sides.items():
                    if isinstance(value, int | float) and not 0 < value <= MOST_PX:
                        raise InputError(
                            f"model {path}: {name}: {setting} has {side} {value:,}, and must have 1 to {MOST_PX:,}"
                        )


def check_pointers(path: Path) -> None:
    """Raises: InputError for a file that `git clone` left as a pointer, because Git LFS is not installed, and for what
    has the name of a file and is none."""
    for file in sorted(path.iterdir()):
        if file.is_file() and file.stat().st_size < 1024 and file.read_bytes().startswith(LFS):
            raise InputError(f"model {path}: {file.name} is a Git LFS pointer, not the file; `git lfs pull` fetches it")
        if file.is_symlink() and not file.exists():
            raise InputError(f"model {path}: {file.name} is a link to {os.readlink(file)}, which does not exist")
        if file.suffix in READ_SUFFIXES and not file.is_file():
            raise InputError(f"model {path}: {file.name} is {'a directory' if file.is_dir() else 'no ordinary file'}")
        if file.suffix in READ_WHOLE and (size := file.stat().st_size) > MOST_WHOLE_BYTES:
            raise InputError(f"model {path}: {file.name} has {size:,} bytes, and at most {MOST_WHOLE_BYTES:,} are read")


def weight_headers(directory: str) -> dict[str, dict[str, Any]]:
    """The header of each weight file. Raises: InputError unless all files are whole, and hold every tensor that their
    index names."""
    path = Path(directory)
    if not (path / INDEX).is_file():
        if not (path / "model.safetensors").is_file():
            raise InputError(f"model {directory}: neither model.safetensors nor {INDEX}, which names the weight files")
        if others := sorted({file.name for file in path.glob("*.safetensors")} - {"model.safetensors"}):
            raise InputError(
                f"model {directory}: vLLM would read {others[0]} beside model.safetensors; move it elsewhere"
            )
        return {"model.safetensors": header_of(path / "model.safetensors")}
    with reading(directory, INDEX):
        files: dict[str, str] = settings_in(path / INDEX)["weight_map"]
        named = sorted(set(files.values()))
        missing = [name for name in named if not (path / name).is_file()]
    if missing:
        raise InputError(f"model {directory}: {len(missing)} of {len(named)} weight files missing: {missing[0]}")
    if (path / "model.safetensors").exists() and "model.safetensors" not in named:
        raise InputError(
            f"model {directory}: transformers reads model.safetensors, and vLLM the files that {INDEX} names; remove "
            "what is not the model"
        )
    headers = {name: header_of(path / name) for name in named}
    for tensor, name in files.items():
        if tensor not in headers[name]:
            raise InputError(f"model {directory}: {name} does not hold {tensor}, as {INDEX} says")
    return headers


def num_weights_in(headers: Iterable[Mapping[str, Any]]) -> int:
    """How many numbers the tensors of weight files have. `headers`: see `header_of`."""
    return sum(math.prod(entry["shape"]) for header in headers for entry in header.values())


def header_of(file: Path) -> dict[str, Any]:
    """The header of a safetensors file. Raises: InputError if the file is not whole."""
    size = file.stat().st_size
    where = f"model {file.parent}: {file.name}"
    with file.open("rb") as weights:
        length = struct.unpack("<Q", weights.read(8).ljust(8, b"\0"))[0]
        if not 0 < length <= min(MOST_HEADER_BYTES, size):
            raise InputError(f"{where} is not a safetensors file (its header cannot be read)")
        with reading(file.parent, f"the header of {file.name}"):
            header: dict[str, Any] = json.loads(weights.read(length))
            tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
            end = 8 + length + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
    if size != end:
        raise InputError(f"{where} has {size:,} bytes, and its header says {end:,}: it must be copied again")
    with reading(file.parent, f"the header of {file.name}"), safe_open(file, "numpy"):
        return tensors  # the library has checked each entry, and has read no tensor


def lay_out_as(start: str, directory: str) -> None:
    """Turn saved weights whose last two sides are the other way round than in the model at `start`, so that vLLM can
    load them. transformers turns the experts of Qwen3-VL-MoE when it loads them, and does not turn them back."""
    from safetensors.torch import load_file, save_file

    shapes = {name: entry["shape"] for header in weight_headers(start).values() for name, entry in header.items()}
    for file, header in weight_headers(directory).items():
        now = {name: entry["shape"] for name, entry in header.items() if len(entry["shape"]) > 1}
        other_way = {name: [*shape[:-2], shape[-1], shape[-2]] for name, shape in now.items()}
        turned = [name for name, shape in now.items() if shape != shapes.get(name) == other_way[name]]
        if turned:
            weights = load_file(Path(directory, file))
            weights |= {name: weights[name].mT.contiguous() for name in turned}
            save_file(weights, Path(directory, file), metadata={"format": "pt"})
