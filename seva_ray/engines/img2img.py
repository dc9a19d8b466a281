"""Image-to-image with a diffusers pipeline: images -> other images like them, each from its own seed.

In: a pipeline's directory in diffusers' format, with weights in safetensors. Two kinds are known: pipelines that
diffusers itself can use for image-to-image, and unconditional ones (a UNet2DModel and a scheduler), whose steps are
taken here. Code in the directory is never run.
Source: SDEdit (arXiv 2108.01073), section 3.2.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image

from seva_ray.core.checks import check_least, check_positive
from seva_ray.core.errors import InputError
from seva_ray.core.fingerprints import execution, place
from seva_ray.vlm.model_files import header_of, num_weights_in

LIBRARIES = ("diffusers", "transformers", "stable_diffusion")
"""Libraries that a pipeline's parts may come from; the last one is the part of diffusers with the safety checker."""
MULTIPLE_PX = 8
"""Images get a width and height that are multiples of this, which every pipeline's encoder can halve three times."""


@dataclass(frozen=True, kw_only=True)
class Regeneration:
    """How the images of the views `regenerate-<strength>` are made."""

    kind: ClassVar[str] = "Regeneration"

    pipeline: str = place("")
    """Directory of a diffusers pipeline with weights in safetensors."""
    prompt: str = ""
    """Text that guides the pipeline, if it reads a text."""
    guidance_scale: float = 1.0
    """How strongly the text guides it; 1 means no guidance."""
    num_steps: int = 50
    """Number of denoising steps from pure noise. A view takes its strength's share of them."""
    max_px: int = 512
    """Largest width and height of the images, in pixels. Larger images are made smaller first."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the pipeline."""
    batch_size: int = execution(8)
    """Number of images that are made at once."""

    def __post_init__(self) -> None:
        check_least(self, 1, "num_steps", "batch_size")
        check_least(self, MULTIPLE_PX, "max_px")
        check_positive(self, "guidance_scale")


def check_pipeline(directory: str) -> dict[str, Any]:
    """The description of the pipeline in a local directory. Raises: InputError if it is none, or if it would run code
    or load pickled weights."""
    root = Path(directory)
    try:
        index = json.loads((root / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"pipeline {directory}: has no readable model_index.json ({type(error).__name__})") from None
    if not isinstance(index, dict) or not isinstance(index.get("_class_name"), str):
        raise InputError(f"pipeline {directory}: model_index.json names no class of diffusers")
    if code := next((str(file.relative_to(root)) for file in sorted(root.rglob("*.py"))), None):
        raise InputError(f"pipeline {directory}: has code of its own ({code}), which is never run")
    for name, part in index.items():
        if not name.startswith("_") and isinstance(part, list) and part[0] not in (None, *LIBRARIES):
            raise InputError(f"pipeline {directory}: its {name} comes from {part[0]!r}, which is not known")
    for suffix in ("bin", "ckpt", "pt", "pth"):
        for file in sorted(root.rglob(f"*.{suffix}")):
            if not list(file.parent.glob("*.safetensors")):
                raise InputError(f"pipeline {directory}: {file.relative_to(root)} is pickled; save it as safetensors")
    return index


def num_weights(directory: str) -> int:
    """How many numbers the loaded parts of a pipeline have, from the headers of their files. Raises: InputError."""
    check_pipeline(directory)
    files = [file for file in Path(directory).rglob("*.safetensors") if file.parent.name != "safety_checker"]
    return num_weights_in(map(header_of, files))


def fitting(size: tuple[int, int], max_px: int) -> tuple[int, int]:
    """The size at which an image is made: at most `max_px`, with sides that are multiples of MULTIPLE_PX."""
    scale = min(1.0, max_px / max(size))
    width, height = (max(1, round(scale * side / MULTIPLE_PX)) * MULTIPLE_PX for side in size)
    return width, height


class Regenerator:
    """A loaded pipeline."""

    def __init__(self, config: Regeneration, directory: str):
        import torch

        index = check_pipeline(directory)
        self.config = config
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = getattr(torch, config.dtype)
        parts = {name: part[1] for name, part in index.items() if isinstance(part, list) and part[0] is not None}
        self.unet = self.pipeline = None
        if parts.keys() == {"unet", "scheduler"}:
            import diffusers

            self.unet = diffusers.UNet2DModel.from_pretrained(
                directory, subfolder="unet", use_safetensors=True, dtype=dtype, local_files_only=True
            ).to(self.device)
            self.unet.eval()
            kind = getattr(diffusers, parts["scheduler"])
            self.scheduler = kind.from_pretrained(directory, subfolder="scheduler", local_files_only=True)
        else:
            from diffusers import AutoPipelineForImage2Image

            unchecked = {"safety_checker": None, "requires_safety_checker": False} if "safety_checker" in index else {}
            self.pipeline = AutoPipelineForImage2Image.from_pretrained(
                directory, use_safetensors=True, dtype=dtype, local_files_only=True, **unchecked
            ).to(self.device)
            self.pipeline.set_progress_bar_config(disable=True)

    def __call__(self, images: Sequence[Image.Image], strength: float, seeds: Sequence[int]) -> list[Image.Image]:
        """One image for each of the images, in order, at the size of `fitting`. An image does not depend on the others
        that are made with it, but for rounding."""
        sizes = [fitting(image.size, self.config.max_px) for image in images]
        ready = [image.resize(size, Image.Resampling.BICUBIC) for image, size in zip(images, sizes, strict=True)]
        made: dict[int, Image.Image] = {}
        for size in dict.fromkeys(sizes):
            places = [place for place, other in enumerate(sizes) if other == size]
            for start in range(0, len(places), self.config.batch_size):
                some = places[start : start + self.config.batch_size]
                batch = self.batch([ready[place] for place in some], strength, [seeds[place] for place in some])
                made |= dict(zip(some, batch, strict=True))
        return [made[place] for place in range(len(images))]

    def batch(self, images: list[Image.Image], strength: float, seeds: list[int]) -> list[Image.Image]:
        """Images of one size."""
        import torch

        # The generators are on the CPU, so that the noise is the same on every device.
        generators = [torch.Generator("cpu").manual_seed(seed % 2**63) for seed in seeds]
        if self.pipeline is None:
            return self.denoised(images, strength, generators)
        return self.pipeline(
            prompt=[self.config.prompt] * len(images),
            image=images,
            strength=strength,
            num_inference_steps=max(self.config.num_steps, round(1 / strength)),  # at least one step is taken
            guidance_scale=self.config.guidance_scale,
            generator=generators,
        ).images

    def denoised(self, images: list[Image.Image], strength: float, generators: list[Any]) -> list[Image.Image]:
        """Images by an unconditional pipeline: noise up to the strength's step, and then the scheduler's steps back."""
        import torch
        from diffusers.utils.torch_utils import randn_tensor

        assert self.unet is not None
        pixels = np.stack([np.asarray(image, np.float32) for image in images]).transpose(0, 3, 1, 2) / 127.5 - 1
        found = torch.from_numpy(pixels).to(self.device, self.unet.dtype)
        self.scheduler.set_timesteps(self.config.num_steps)
        count = max(1, min(self.config.num_steps, round(strength * self.config.num_steps)))
        steps = self.scheduler.timesteps[self.config.num_steps - count :]
        noise = randn_tensor(found.shape, generators, found.device, found.dtype)
        found = self.scheduler.add_noise(found, noise, steps[:1].repeat(len(images)))
        for step in steps:
            with torch.no_grad():
                predicted = self.unet(found, step).sample
            found = self.scheduler.step(predicted, step, found, generator=generators).prev_sample
        levels = ((found.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()
        return [Image.fromarray(one) for one in levels.transpose(0, 2, 3, 1)]
