"""regenerate: prompts -> the artifact `images/<prompts>/regenerate-<strength>`, one regenerated image per prompt.

The unit of work is a shard of prompts. A pool of actors, each of which holds a diffusers pipeline, makes its images and
commits them as one file. So a restart makes only the missing ones. Each image follows from the seed, the prompt_id and
the view. The generate stage asks for these images when it needs them; other stages share them.
"""

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pyarrow as pa
from PIL import Image

from seva_ray.augmentations import parse_view
from seva_ray.augmentations.regenerate import Regenerate
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.contents import agreed
from seva_ray.core.errors import ConfigError, InputError
from seva_ray.core.imports import quick_imports
from seva_ray.core.node_cache import local_directory
from seva_ray.core.outlines import local_outline
from seva_ray.core.recipe_files import found_recipe
from seva_ray.core.seeds import key_of
from seva_ray.core.storage import absolute, exists, read_table, write_table
from seva_ray.core.verification import whole_shards
from seva_ray.engines.config import Generate
from seva_ray.engines.img2img import Regenerator, check_pipeline, num_weights
from seva_ray.runtime.progress import say
from seva_ray.runtime.renewal import made_once
from seva_ray.stages.prepare import shards_of
from seva_ray.stages.shard_pool import run_shards
from seva_ray.vlm.images import load_image

IMAGES_SCHEMA = pa.schema([("prompt_id", pa.string()), ("image", pa.binary()), ("error", pa.string())])
"""A row for each prompt: its image as PNG, or why there is none."""
PART_BYTES = 2**20


def is_regenerated(view: str) -> bool:
    return isinstance(parse_view(view), Regenerate)


def check_regeneration(config: Generate, views: Sequence[str]) -> None:
    """Check this before any stage runs. Raises: ConfigError or InputError if a view needs a pipeline, and there is none
    that can be used."""
    needs = [view for view in views if is_regenerated(view)]
    if needs and not config.regeneration.pipeline:
        raise ConfigError(f"view {needs[0]}: --generate.regeneration.pipeline must name a directory of diffusers")
    if needs:
        check_pipeline(local_directory(absolute(config.regeneration.pipeline)))


@cache
def contents_of_pipeline(directory: str, recorded: str | None) -> tuple[str, str]:
    """The digest of the pipeline's files, or the `recorded` one if it is of the same files; and that of older versions.
    Raises: InputError."""
    if not exists(directory):
        raise InputError(f"pipeline {directory}: no such directory")
    return agreed(directory, recorded)


def open_images(config: Generate, store: Store, prompts: Artifact, view: str) -> Artifact:
    check_regeneration(config, (view,))
    name = images_name(prompts, view)
    recorded = ((found_recipe(store.uri(name)) or {}).get("config") or {}).get("pipeline")
    now, before = contents_of_pipeline(absolute(config.regeneration.pipeline), recorded)
    recipe = {
        "regeneration": config.regeneration,
        "pipeline": now,
        "augmentation": {"seed": config.seed, "augmentation": parse_view(view)},
        "max_image_pixels": config.max_image_pixels,
    }
    return store.open(name, config=recipe, older=[recipe | {"pipeline": before}], inputs=[prompts])


def images_name(prompts: Artifact, view: str) -> str:
    return f"images/{prompts.name.removeprefix('prompts/')}/{view}"


def images_left(config: Generate, store: Store, prompts: Artifact | None, view: str, num_prompts: int) -> int:
    """How many images of a view do not exist yet; 0 if the view has none. Whole shards are counted."""
    if not is_regenerated(view):
        return 0
    artifact = open_images(config, store, prompts, view) if prompts else None
    if prompts is None or artifact is None or not artifact.begun or artifact.stale:
        return num_prompts
    done = prompts.counts["num_shards"] if artifact.complete else len(whole_shards(artifact.uri, prompts.uri))
    return max(0, num_prompts - done * prompts.recipe["config"]["prepare"]["shard_size"])


def regenerate(config: Generate, store: Store, prompts: Artifact, view: str) -> Artifact:
    """The images of one view, one for each prompt."""
    return made_once(
        store,
        lambda: open_images(config, store, prompts, view),
        lambda artifact: regenerated(config, artifact, prompts, view),
    )


def regenerated(config: Generate, artifact: Artifact, prompts: Artifact, view: str) -> Artifact:
    """Make the missing shards of images, while no other job does it."""
    work = ImageWork(config=config, artifact=artifact, prompts=prompts, view=view)
    shards = shards_of(prompts)
    run_shards(f"regenerate {view}", config, work, artifact, prompts.uri, shards)
    errors = [row for shard in shards for row in read_table(artifact.path(shard), columns=["error"]).to_pylist()]
    num_failed = sum(row["error"] is not None for row in errors)
    say(f"regenerate {view}: {len(errors):,} images, {num_failed:,} failed")
    return artifact.finish({"num_images": len(errors), "num_failed": num_failed})


@dataclass(frozen=True, kw_only=True)
class ImageWork:
    """The images of one view."""

    config: Generate
    artifact: Artifact
    prompts: Artifact
    view: str

    def load(self) -> "ImageWorker":
        return ImageWorker(**vars(self))

    def num_weights(self) -> int:
        return num_weights(local_outline(absolute(self.config.regeneration.pipeline)))


class ImageWorker:
    """Holds the pipeline, makes the images of shards and commits them."""

    computed_at = 0.0
    """When a batch of images was last finished, on the monotonic clock, in s."""

    def __init__(self, config: Generate, artifact: Artifact, prompts: Artifact, view: str):
        with quick_imports():
            self.regenerator = Regenerator(config.regeneration, local_directory(absolute(config.regeneration.pipeline)))
        self.config, self.artifact, self.prompts, self.view = config, artifact, prompts, view

    def commit(self, shard: str) -> int:
        """Make the images of one shard and write its file. Returns the number of rows."""
        rows = read_table(self.prompts.path(shard)).to_pylist()
        made: list[dict[str, Any]] = []
        for start in range(0, len(rows), self.config.regeneration.batch_size):
            made += self.images_of(rows[start : start + self.config.regeneration.batch_size])
        self.artifact.begin()
        write_table(self.artifact.path(shard), pa.Table.from_pylist(made, IMAGES_SCHEMA), PART_BYTES)
        return len(made)

    def images_of(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        opened: list[Image.Image] = []
        found: list[dict[str, Any]] = []
        for row in rows:
            error = row["error"]
            try:
                if error is None:
                    opened.append(self.image(row))
            except InputError as fault:
                error = str(fault)
            found.append({"prompt_id": row["prompt_id"], "image": None, "error": error})
        usable = [item for item in found if item["error"] is None]
        seeds = [key_of(self.config.seed, item["prompt_id"], self.view) for item in usable]
        strength = getattr(parse_view(self.view), "strength")  # noqa: B009 - every regenerated view has one
        for item, image in zip(usable, self.regenerator(opened, strength, seeds), strict=True):
            item["image"] = png(image)
        self.computed_at = time.monotonic()
        return found

    def image(self, row: dict[str, Any]) -> Image.Image:
        return load_image(
            path=row["image_path"],
            data=row["image_bytes"],
            image_root=self.prompts.counts["image_root"],
            max_pixels=self.config.max_image_pixels,
        )


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def images_made(store: Store, prompts: Artifact) -> Callable[[str, str], bytes]:
    """Finds the regenerated image of a prompt in a view, as PNG, in the artifacts that are there."""

    @cache
    def places(view: str) -> dict[str, str]:
        artifact = store.find(images_name(prompts, view))
        shards = [artifact.path(shard) for shard in shards_of(prompts)]
        return {row["prompt_id"]: uri for uri in shards for row in read_table(uri, columns=["prompt_id"]).to_pylist()}

    def find(prompt_id: str, view: str) -> bytes:
        uri = places(view)[prompt_id]
        (row,) = (row for row in read_table(uri).to_pylist() if row["prompt_id"] == prompt_id)
        if row["error"] is not None:
            raise InputError(row["error"])
        return row["image"]

    return find
