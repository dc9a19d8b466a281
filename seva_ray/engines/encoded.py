"""Encoding: units of one shard -> what an engine gets of them: a header and one buffer, which travel to its process.

An image is read, decoded and resized once for all questions about it and for all views that do not change the image
itself. Such views share its pixels, which travel as 8-bit levels. The engine's process normalises them and draws the
noise of each view.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np

from seva_ray.augmentations import changes_image, parse_view
from seva_ray.core.errors import InputError, UserError
from seva_ray.core.patience import StorageUnavailable
from seva_ray.core.row_limit import ROW_CPU_S, within
from seva_ray.core.storage import read_table
from seva_ray.engines.buffers import Packing, num_bytes, unpacked
from seva_ray.engines.ladder import carried
from seva_ray.engines.units import Encoded, EncodedPrompt, Unit, failed_in
from seva_ray.vlm.rows import PIXELS, Noise, Row
from seva_ray.vlm.views import Viewer

IDS = "input_ids"
"""The name of a prompt's token ids among the arrays that travel."""


def encode(units: Sequence[Unit], viewer: Viewer, row_cpu_s: float = ROW_CPU_S) -> tuple[str, np.ndarray]:
    """Read a shard and prepare its prompts for all of these units, which differ in the view. Return a header in JSON,
    and a buffer, uint8 (bytes,): `encoded_of` makes the units of them. A prompt that fails, or that takes more than
    `row_cpu_s` seconds of CPU time in a view, keeps its error and does not affect the others."""
    rows = read_table(units[0].prompts_uri).to_pylist()
    order = [row["prompt_id"] for row in rows]
    wanted = [wanted_in(unit, order) for unit in units]
    of_images: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        alone = row["error"] and row["prompt_id"]
        of_images.setdefault((row["image_path"], row["image_bytes"], alone), []).append(row)
    del rows
    shard = Shard(units, wanted, viewer, row_cpu_s)
    for key in list(of_images):
        shard.add(of_images.pop(key))  # the file's bytes are not needed any more
    header = {
        "image_token_id": viewer.encoder.image_token_id,
        "scored": {text: viewer.encoder.first_token(text) for text in units[0].scored_answers},
        "texts": shard.texts,
        "images": shard.images,
        "units": [
            {"unit": asdict(unit), "prompts": [prompts[name] for name in order if name in prompts]}
            for unit, prompts in zip(units, shard.prompts, strict=True)
        ],
    }
    return json.dumps(header), shard.packing.buffer()


def wanted_in(unit: Unit, prompt_ids: Sequence[str]) -> set[str]:
    """The prompts that the unit asks."""
    carried_on = carried(unit.below) if unit.below else {}
    wanted = {name for name in prompt_ids if name not in carried_on}
    return wanted & failed_in(unit) if unit.retry else wanted


def images_in(uri: str) -> Callable[[str, str], bytes]:
    """Finds the regenerated images of one shard by prompt_id; see Viewer.made."""
    images = {row["prompt_id"]: row for row in read_table(uri).to_pylist()}

    def find(prompt_id: str, view: str) -> bytes:
        row = images[prompt_id]
        if row["error"] is not None:
            raise InputError(row["error"])
        return row["image"]

    return find


class Shard:
    """The rows of a shard in several views, on their way into one buffer."""

    def __init__(self, units: Sequence[Unit], wanted: Sequence[set[str]], viewer: Viewer, row_cpu_s: float):
        """`wanted`: the prompts of each unit that are to be answered. `row_cpu_s`: the limit of each row in a view."""
        self.wanted, self.viewer, self.row_cpu_s, self.packing = wanted, viewer, row_cpu_s, Packing()
        self.viewers = [replace(viewer, made=images_in(unit.images)) if unit.images else viewer for unit in units]
        self.views = [unit.view for unit in units]
        # Views that leave the image unchanged come first. They share one image, which the encoder then sees only once.
        self.order = sorted(range(len(units)), key=lambda number: changes_image(self.views[number]))
        self.texts: list[dict[str, Any]] = []
        self.images: list[dict[str, Any]] = []
        self.prompts: list[dict[str, Any]] = [{} for _ in units]
        self.last: tuple[Any, Any] = (None, None)

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Prepare prompts about one image."""
        if not any(row["prompt_id"] in wanted for wanted in self.wanted for row in rows):
            return
        try:
            if rows[0]["error"]:
                raise InputError(rows[0]["error"])
            image = self.viewer.image(rows[0])
        except StorageUnavailable:  # this is no row's fault
            raise
        except UserError as error:
            for number in self.order:
                for row in rows:
                    self.add_error(number, row["prompt_id"], error)
            return
        name = name_of(rows[0], self.viewer.image_root)
        for changed in (False, True):
            numbers = [number for number in self.order if changes_image(self.views[number]) is changed]
            for row in rows:
                for number in numbers:
                    raw = partial(self.viewers[number].raw, row, self.views[number], image)
                    try:
                        made = within(self.row_cpu_s, raw)
                    except UserError as error:
                        self.add_error(number, row["prompt_id"], error)
                    else:
                        self.add_row(number, row["prompt_id"], name, made)

    def add_error(self, number: int, prompt_id: str, error: UserError) -> None:
        if prompt_id in self.wanted[number]:
            self.prompts[number][prompt_id] = {"prompt_id": prompt_id, "error": str(error)}

    def add_row(self, number: int, prompt_id: str, name: str, row: Row) -> None:
        """`name`: the name of the image before any augmentation."""
        if prompt_id not in self.wanted[number]:
            return
        of_text, of_image = self.last
        if row.ids is not of_text:
            arrays = {IDS: np.asarray(row.ids, np.int32), **row.tokens}
            places = self.packing.add(arrays)
            self.texts.append({"num_image_tokens": row.num_image_tokens, "size": row.size, "places": places})
        if row.features[PIXELS] is not of_image:
            self.images.append(self.packing.add(row.features))
        self.last = row.ids, row.features[PIXELS]
        view = self.views[number]
        own = (view, self.viewer.seed, prompt_id) if parse_view(view) is not None else ()
        self.prompts[number][prompt_id] = {
            "prompt_id": prompt_id,
            "text": len(self.texts) - 1,
            "image": len(self.images) - 1,
            "image_id": digest(name, *own),
            "noise": row.noise,
        }


def name_of(row: Mapping[str, Any], image_root: str | None) -> str:
    """A name of the row's image file. Files of one name are equal, as long as nobody writes them anew."""
    content = row["image_bytes"]
    return digest(image_root, row["image_path"]) if content is None else hashlib.blake2b(content).hexdigest()


def digest(*words: Any) -> str:
    return hashlib.blake2b(json.dumps(words).encode(), digest_size=16).hexdigest()


def num_image_bytes(header: str) -> int:
    """Bytes of the images' features behind this header."""
    return sum(num_bytes(place) for of_image in json.loads(header)["images"] for place in of_image.values())


def encoded_of(header: str, buffer: np.ndarray) -> list[Encoded]:
    """The units of which `encode` gave the header and the buffer. Their arrays are parts of the buffer."""
    data = json.loads(header)
    texts = unpacked([text["places"] for text in data["texts"]], buffer)
    images = unpacked(data["images"], buffer)
    ids = [text.pop(IDS).tolist() for text in texts]

    def prompt_of(prompt: Mapping[str, Any]) -> EncodedPrompt:
        if "error" in prompt:
            return EncodedPrompt(prompt_id=prompt["prompt_id"], error=prompt["error"])
        text = data["texts"][prompt["text"]]
        row = Row(
            ids=ids[prompt["text"]],
            num_image_tokens=text["num_image_tokens"],
            tokens=texts[prompt["text"]],
            features=images[prompt["image"]],
            size=tuple(text["size"]),
            noise=prompt["noise"] and Noise(*prompt["noise"]),
        )
        return EncodedPrompt(prompt_id=prompt["prompt_id"], row=row, image_id=prompt["image_id"])

    return [
        Encoded(
            unit=Unit.of(of_unit["unit"]),
            prompts=[prompt_of(prompt) for prompt in of_unit["prompts"]],
            image_token_id=data["image_token_id"],
            scored=data["scored"],
        )
        for of_unit in data["units"]
    ]
