"""A checkpoint in LLaVA's own format becomes a model in the transformers format, without the llava package.

In: a directory such as liuhaotian/llava-v1.5-7b, or an adapter (LoRA) with its base, such as the authors' SeVa.
Out: its weights by the names of the published port, in safetensors (convert.py writes the rest). Weights are read,
merged and written one by one, so that memory holds one file of them.

Each updated weight is summed in float32 and rounded once, to the data type of the base; LLaVA's loader sums in float16.
Rows are added to the vocabulary for `<image>` and `<pad>`, and up to a multiple of 64. Each is the mean of the others,
so that its logit is the mean of all logits, which is never the largest. The published port has random rows there.
"""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from seva_ray.core.errors import InputError, line_of
from seva_ray.vlm.llava_names import lora_name, port_name, trained_name

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLE = ("model.safetensors", "pytorch_model.bin")
ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
BESIDE_ADAPTER = "non_lora_trainables.bin"
EMBEDDING = "language_model.model.embed_tokens.weight"
VOCABULARY = (EMBEDDING, "language_model.lm_head.weight")
FILE_BYTES = 4 * 10**9
"""A file of weights is closed when it has this size."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The directories that a model is made of."""

    model: str
    """LLaVA's directory: a whole model, or an adapter."""
    base: str = ""
    """The model that an adapter was trained from: a LLaVA in either format, or the language model alone."""
    vision_tower: str = ""
    """The CLIP model, for its configuration and image processor, and for its weights if the checkpoint has none."""

    def __post_init__(self) -> None:
        if (projector := self.config.get("mm_projector_type")) != "mlp2x_gelu":
            raise self.refusal(f"mm_projector_type {projector!r}: only mlp2x_gelu (LLaVA-1.5)")
        if self.config.get("mm_use_im_start_end"):
            raise self.refusal("mm_use_im_start_end: LLaVA-1.5 has no tokens around an image")
        if self.is_adapter and not self.base:
            raise self.refusal("it is an adapter, so name the model that it was trained from with --base")

    @cached_property
    def config(self) -> dict[str, Any]:
        """LLaVA's configuration. Raises: InputError if it is none."""
        config = read_json(Path(self.model, "config.json"))
        if "mm_vision_tower" not in config:
            raise self.refusal("its config.json is not in LLaVA's own format (it has no mm_vision_tower)")
        return config

    @property
    def is_adapter(self) -> bool:
        return Path(self.model, "adapter_config.json").is_file()

    @property
    def tokens_from(self) -> str:
        """The directory with the tokenizer, which LLaVA reads from the base of an adapter."""
        return self.base if self.is_adapter else self.model

    def refusal(self, reason: str) -> InputError:
        return InputError(f"model {self.model}: {reason}")

    def weights(self) -> Iterator[tuple[str, Any]]:
        """Every weight with its name in the port, updated by the adapter. Raises: InputError."""
        updates, trained = (self.updates, self.trained) if self.is_adapter else ({}, {})
        found: set[str] = set()
        for name, tensor in self.ported(self.tokens_from):
            if name in found:
                continue
            found.add(name)
            tensor = trained.get(name, tensor)
            yield name, updated(tensor, *updates[name]) if name in updates else tensor
        yield from ((name, tensor) for name, tensor in trained.items() if name not in found)
        if unused := sorted(updates.keys() - found):
            raise InputError(f"model {self.base}: has no weight {unused[0]}, which the adapter of {self.model} updates")
        if not any(name.startswith("vision_tower.") for name in found):
            yield from self.vision_weights()

    def vision_weights(self) -> Iterator[tuple[str, Any]]:
        """The weights of the CLIP model, whose names the port keeps."""
        if not self.vision_tower:
            raise self.refusal("it has no weights of its vision tower; name CLIP's directory with --vision-tower")
        for name, tensor in tensors(self.vision_tower):
            if name.startswith("vision_model.") and not name.endswith(".position_ids"):
                yield f"vision_tower.{name}", tensor

    def ported(self, directory: str) -> Iterator[tuple[str, Any]]:
        for name, tensor in tensors(directory):
            try:
                ported = port_name(name)
            except KeyError:
                raise InputError(f"model {directory}: weight {name} is not one of LLaVA-1.5's") from None
            if ported is not None:
                yield ported, tensor

    @cached_property
    def trained(self) -> dict[str, Any]:
        """Weights that were trained beside the adapter, such as the projector."""
        file = Path(self.model, BESIDE_ADAPTER)
        if not file.is_file():
            return {}
        named = {port_name(trained_name(name)): tensor for name, tensor in of_file(file)}
        return {name: tensor for name, tensor in named.items() if name is not None}

    @cached_property
    def updates(self) -> dict[str, tuple[Any, Any, float]]:
        """Name of a weight -> A, B and the scale of the adapter's update."""
        settings = read_json(Path(self.model, "adapter_config.json"))
        if settings.get("use_dora") or settings.get("fan_in_fan_out") or settings.get("modules_to_save"):
            raise self.refusal("adapter_config.json: only plain LoRA is known")
        rank = settings["r"]
        scale = settings["lora_alpha"] / (rank**0.5 if settings.get("use_rslora") else rank)
        file = next((Path(self.model, name) for name in ADAPTERS if Path(self.model, name).is_file()), None)
        if file is None:
            raise self.refusal(f"no {' or '.join(ADAPTERS)}")
        parts: dict[str, dict[str, Any]] = {}
        for name, tensor in of_file(file):
            try:
                weight, part = lora_name(name)
            except KeyError:
                raise self.refusal(f"{file.name}: {name} is not a part of a LoRA adapter") from None
            parts.setdefault(weight, {})[part] = tensor
        if half := next((name for name, pair in parts.items() if len(pair) < 2), None):
            raise self.refusal(f"{file.name}: only one of the two matrices of {half} is there")
        return {name: (pair["A"], pair["B"], scale) for name, pair in parts.items()}


def updated(weight: Any, a: Any, b: Any, scale: float) -> Any:
    return (weight.float() + scale * (b.float() @ a.float())).to(weight.dtype)


def read_json(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except OSError:
        raise InputError(f"model {file.parent}: no {file.name}") from None
    except (ValueError, TypeError):
        raise InputError(f"model {file.parent}: {file.name} cannot be read") from None


def tensors(directory: str) -> Iterator[tuple[str, Any]]:
    """The weights of a model in one or several files."""
    path = Path(directory)
    if not path.is_dir():
        raise InputError(f"model {directory}: no such directory")
    files = [name for name in SINGLE if (path / name).is_file()][:1]
    for name in INDEXES:
        if not files and (path / name).is_file():
            files = sorted(set(read_json(path / name)["weight_map"].values()))
    if not files:
        raise InputError(f"model {directory}: no weights: none of {', '.join((*INDEXES, *SINGLE))}")
    for name in files:
        if not (path / name).is_file():
            raise InputError(f"model {directory}: {name} is missing")
        yield from of_file(path / name)


def of_file(file: Path) -> Iterator[tuple[str, Any]]:
    """The weights in a file. A pickled one may hold only tensors. Raises: InputError if it cannot be read."""
    try:
        if file.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 - it is no mapping
                    yield name, opened.get_tensor(name)
        else:
            import torch

            yield from torch.load(file, map_location="cpu", weights_only=True, mmap=True).items()
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{file}: cannot be read ({line_of(error)})") from None


def with_more_rows(weight: Any, num_rows: int) -> Any:
    """The weight with rows added, each the mean of the others."""
    import torch

    more = num_rows - len(weight)
    if more <= 0:
        return weight
    mean = weight.float().mean(dim=0, keepdim=True).to(weight.dtype)
    return torch.cat([weight, mean.expand(more, -1)])


def write_weights(
    weights: Iterator[tuple[str, Any]], directory: Path, file_bytes: int = FILE_BYTES
) -> dict[str, tuple[int, ...]]:
    """Write the weights in files of about `file_bytes`, and an index if there are several. Returns their shapes."""
    from safetensors.torch import save_file

    shapes: dict[str, tuple[int, ...]] = {}
    files: list[list[str]] = []
    waiting: dict[str, Any] = {}
    size = total = 0

    def flush() -> None:
        save_file(waiting, directory / f"part-{len(files)}.safetensors", metadata={"format": "pt"})
        files.append(list(waiting))
        waiting.clear()

    for name, tensor in weights:
        waiting[name], shapes[name] = tensor.contiguous(), tuple(tensor.shape)
        size += tensor.nbytes
        total += tensor.nbytes
        if size >= file_bytes:
            flush()
            size = 0
    if waiting:
        flush()
    names = [f"model-{number:05}-of-{len(files):05}.safetensors" for number in range(1, len(files) + 1)]
    names = names if len(files) > 1 else ["model.safetensors"]
    for number, name in enumerate(names):
        os.replace(directory / f"part-{number}.safetensors", directory / name)
    if len(files) > 1:
        index = {tensor: name for name, held in zip(names, files, strict=True) for tensor in held}
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": index}, indent=2, sort_keys=True)
        (directory / INDEXES[0]).write_text(text, encoding="utf-8")
    return shapes


def in_place(directory: Path, made: Path) -> None:
    """Give the finished directory its name."""
    shutil.rmtree(directory, ignore_errors=True)
    os.replace(made, directory)
