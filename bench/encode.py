"""bench-encode: encoded photographs per second and core, against the model's own processor alone.

    python -m bench.encode        two minutes on one core

In: a photograph of 640 x 480 pixels and one of 12 megapixels, and each family's processor at the size of its published
models with the bounds of our presets. Out: build/bench/encode.json. The processor alone reads a chat, as transformers'
documentation shows it; a row is what an encoding task makes of the same prompt, in the clean view.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import transformers as tf
from PIL import Image

from bench import encode_views
from bench.figures import Figure, keep, table
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.families import as_seen
from seva_ray.vlm.processed import processed
from tests.tiny_models import FAMILIES, save_family

RESULTS = Path("build/bench/encode.json")
COMMAND = "python -m bench.encode"
TILE = {"height": 384, "width": 384}
GRID = [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)]
SIZES: dict[str, Callable[[], Any]] = {
    "llava": lambda: tf.CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}),
    "llava_onevision": lambda: tf.LlavaOnevisionImageProcessorPil(size=TILE, image_grid_pinpoints=GRID),
    "qwen2_5_vl": lambda: tf.Qwen2VLImageProcessorPil(size={"shortest_edge": 3136, "longest_edge": 1_003_520}),
    "qwen3_vl": lambda: tf.Qwen2VLImageProcessorPil(
        patch_size=16, size={"shortest_edge": 65_536, "longest_edge": 1_310_720}
    ),
    "internvl": lambda: tf.GotOcr2ImageProcessorPil(
        size={"height": 448, "width": 448}, crop_to_patches=True, max_patches=6
    ),
    "idefics3": lambda: tf.Idefics3ImageProcessorPil(size={"longest_edge": 1152}, max_image_size={"longest_edge": 384}),
    "gemma3": lambda: tf.Gemma3ImageProcessorPil(size={"height": 896, "width": 896}),
    "mistral3": lambda: tf.PixtralImageProcessorPil(size={"longest_edge": 1540}, patch_size=14),
}
"""Image processors of published models, in place of the tiny ones."""
OPTIONS = {"llava_onevision": '{"max_patches": 4}'}
"""Bounds that are no settings of the image processor itself."""
PHOTOGRAPHS = {"640 x 480": (640, 480), "12 megapixels": (4000, 3000)}
SECONDS = 4.0
"""Time in s for which each of the two sides is measured."""


def encoder_of(name: str, directory: str) -> Encoder:
    save_family(name, Path(directory))
    _, processor = FAMILIES[name]()
    processor.image_processor = SIZES[name]()
    processor.save_pretrained(directory)
    return Encoder(directory, image_options=OPTIONS.get(name, ""))


def seconds_of(sides: list[Callable[[Image.Image], object]], image: Image.Image) -> list[float]:
    """The least time of one call of each side. The sides take turns, so that a busy machine slows both."""
    least = [float("inf")] * len(sides)
    ends_at = time.monotonic() + len(sides) * SECONDS
    while time.monotonic() < ends_at:
        for place, side in enumerate(sides):
            fresh = image.copy()  # a row of the same image would share its features
            began = time.perf_counter()
            side(fresh)
            least[place] = min(least[place], time.perf_counter() - began)
    return least


def measure() -> list[Figure]:
    figures = []
    for name in SIZES:
        with tempfile.TemporaryDirectory() as directory:
            encoder = encoder_of(name, directory)
            if name == "llava":
                figures += encode_views.measure(encoder, directory, COMMAND)
                print(table(figures), flush=True)
        for title, (width, height) in PHOTOGRAPHS.items():
            small = np.random.default_rng(0).integers(0, 256, (height // 20, width // 20, 3), dtype=np.uint8)
            image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)

            def alone(photograph: Image.Image, encoder: Encoder = encoder) -> object:
                return processed(encoder, "What is in the image?", as_seen(encoder, photograph))

            def row(photograph: Image.Image, encoder: Encoder = encoder) -> object:
                return encoder.row("What is in the image?", photograph)

            theirs, ours = seconds_of([alone, row], image)
            num_bytes = sum(values.nbytes for values in encoder.row("?", image).features.values())
            figures.append(
                Figure(
                    figure=f"time of a row, {name}, {title}",
                    ratio=ours / theirs,
                    target=1.15,
                    better="lower",
                    rival=f"its processor alone: {1 / ours:.1f} and {1 / theirs:.1f} rows/s per core, "
                    f"{num_bytes / 1e6:.1f} MB a row",
                    command=COMMAND,
                )
            )
            print(f"{figures[-1].figure}: {figures[-1].ratio:.2f}; {figures[-1].rival}", flush=True)
    return figures


def main() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(table(keep(RESULTS, measure())))


if __name__ == "__main__":
    main()
