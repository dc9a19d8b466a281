"""A prompt in its clean and one noised view: CPU time, bytes through the object store, and memory, for LLaVA-1.5.

The rival is what this project did at first: each view by itself, from the file to normalised pixels, which travel as
32-bit numbers with a digest as their name. CPU time includes what the engine's process does until its model can read
the rows.
"""

import copy
import hashlib
import tempfile
import threading
import time
from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.figures import Figure
from bench.fresh import in_fresh_process
from seva_ray.augmentations import CLEAN, parse_view
from seva_ray.core.records import PROMPT_SCHEMA, Prompt, table
from seva_ray.core.seeds import generator
from seva_ray.core.storage import write_table
from seva_ray.engines import VllmEngine
from seva_ray.engines.config import Generate
from seva_ray.engines.encoded import encode, encoded_of
from seva_ray.engines.units import Unit
from seva_ray.stages.engine_pool import encoding_need, num_encoded, row_bytes
from seva_ray.stages.unit_worker import encode_units, task_of
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.images import load_image
from seva_ray.vlm.views import Viewer

VIEWS = (CLEAN, "diffusion-500")
PHOTOGRAPHS = {"640 x 480": (640, 480), "2048 x 1536": (2048, 1536)}
QUESTION = "What is in the image?"
NUM_PROMPTS, NUM_IN_MEMORY = 8, 400
TIMES = 7


@cache
def jpeg(width: int, height: int, seed: int) -> bytes:
    small = np.random.default_rng(seed).integers(0, 256, (height // 20, width // 20, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(file, format="JPEG", quality=90)
    return file.getvalue()


def units_of(directory: str, size: tuple[int, int], num_prompts: int, model: str) -> list[Unit]:
    """The units of a shard of as many photographs, which is written."""
    prompts = [
        Prompt(
            prompt_id=f"{number}",
            image_id=f"{number}",
            question=QUESTION,
            source="bench",
            image_bytes=jpeg(*size, seed=number % 16) + bytes([number // 16]),  # names differ, files are made quickly
        )
        for number in range(num_prompts)
    ]
    uri = f"{directory}/shard.parquet"
    write_table(uri, table(prompts, PROMPT_SCHEMA))
    return [
        Unit(
            model="llava",
            model_directory=model,
            prompts_uri=uri,
            responses_uri=f"{directory}/{view}.parquet",
            view=view,
            system="",
            image_root=None,
            num_rows=num_prompts,
        )
        for view in VIEWS
    ]


def together(units: list[Any], viewer: Viewer) -> int:
    """Encode the units as the stage does. Returns the number of bytes that travel."""
    header, buffer = encode(units, viewer)
    for encoded in encoded_of(header, buffer):
        for request in encoded.requests():
            viewer.encoder.finished(request.row)
    return buffer.nbytes + len(header)


def apart(files: list[Any], viewer: Viewer) -> int:
    """Encode the units as this project did at first. Returns the number of bytes that travel."""
    reader = copy.copy(viewer.encoder.processor)
    reader.image_processor = viewer.encoder.image_processor
    num_bytes = 0
    for view in VIEWS:
        augmentation, made = parse_view(view), []
        for number, data in enumerate(files):
            square = viewer.encoder.as_seen(load_image(path=None, data=data, image_root=None))
            text = viewer.encoder.prompt_text(QUESTION)
            pixels = reader(text=[text], images=[square], return_tensors="np")["pixel_values"]
            if augmentation is not None:
                pixels = augmentation.pixels(pixels, generator(0, f"{number}", view))
            hashlib.blake2b(pixels.data, digest_size=16).hexdigest()
            made.append(pixels)
        num_bytes += np.stack(made).nbytes
    return num_bytes


def peak_over_request(model: str, directory: str) -> tuple[float, float]:
    """Memory that a task takes to encode a shard of photographs, and what it asks for, in MB."""
    config = Generate(engine=VllmEngine(), system="")
    batches = [
        {"units": [task_of(units_of(directory, PHOTOGRAPHS["2048 x 1536"], number, model))["units"]]}
        for number in (1, NUM_IN_MEMORY)
    ]
    units = units_of(directory, PHOTOGRAPHS["2048 x 1536"], NUM_IN_MEMORY, model)
    asked = encoding_need(num_encoded(units), row_bytes(config, units[0]))["memory"]
    encode_units(batches[0], config)  # loads the processor
    base, peak, over = resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.005):
            peak = max(peak, resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    encode_units(batches[1], config)
    over.set()
    watcher.join()
    return (peak - base) / 1e6, asked / 1e6


def resident() -> int:
    """Memory of this process that no other process shares, in bytes."""
    (line,) = (
        line
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        if line.startswith("RssAnon")
    )
    return int(line.split()[1]) * 1024


def measure(encoder: Encoder, model: str, command: str) -> list[Figure]:
    """`encoder`: that of LLaVA-1.5 at 336 px, from the directory `model`."""
    figures = []
    viewer = Viewer(encoder=encoder, image_root=None, max_pixels=64_000_000)
    for title, size in PHOTOGRAPHS.items():
        with tempfile.TemporaryDirectory() as directory:
            units = units_of(directory, size, NUM_PROMPTS, model)
            files = [jpeg(*size, seed=number) for number in range(NUM_PROMPTS)]
            sides: list[tuple[Callable[[list[Any], Viewer], int], list[Any]]] = [(together, units), (apart, files)]
            least, num_bytes = [float("inf")] * 2, [0, 0]
            for _ in range(TIMES):  # by turns, so that a busy machine slows both
                for place, (side, given) in enumerate(sides):
                    began = time.process_time()
                    num_bytes[place] = side(given, viewer)
                    least[place] = min(least[place], (time.process_time() - began) / NUM_PROMPTS)
        ours, theirs = least
        figures += [
            Figure(
                figure=f"CPU per prompt with one noised view, {title}",
                ratio=ours / theirs,
                target=0.45,
                better="lower",
                rival=f"each view by itself: {1000 * ours:.1f} over {1000 * theirs:.1f} ms",
                command=command,
            ),
            Figure(
                figure=f"bytes through the object store per prompt with one noised view, {title}",
                ratio=num_bytes[0] / num_bytes[1],
                target=0.25,
                better="lower",
                rival=f"each view by itself: {num_bytes[0] / NUM_PROMPTS / 1e6:.2f} over "
                f"{num_bytes[1] / NUM_PROMPTS / 1e6:.2f} MB",
                command=command,
            ),
        ]
    with tempfile.TemporaryDirectory() as directory:
        took, asked = in_fresh_process(peak_over_request, model, directory)
    figures.append(
        Figure(
            figure=f"memory of the task that encodes {NUM_IN_MEMORY} photographs of 2048 x 1536",
            ratio=took / asked,
            target=1.1,
            better="lower",
            rival=f"what it asks for: {took:.0f} over {asked:.0f} MB",
            command=command,
        )
    )
    return figures
