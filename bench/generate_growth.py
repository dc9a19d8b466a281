"""Growth: memory of the driver and rows/s as the number of prompts grows. The fake engine, tiny rows, tiny images.

The driver prepares and generates, as in a job. Its memory is its peak resident size over its whole life.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import ClassVar

from PIL import Image

from bench.figures import Figure
from bench.fresh import in_fresh_process, own_cluster, peak_mb
from seva_ray.core.artifacts import Store
from seva_ray.core.records import Prompt
from seva_ray.engines import FakeEngine
from seva_ray.engines.config import Generate
from seva_ray.runtime.progress import say
from seva_ray.stages.generate import generate
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.vlm.models import Model

SMALL, LARGE, FULL = 10_000, 100_000, 1_000_000


@dataclass(frozen=True, kw_only=True)
class TinyPrompts:
    """Short questions about 250 images of 8 px."""

    kind: ClassVar[str] = "TinyPrompts"

    num_prompts: int
    image_root: str | None = None

    def prompts(self) -> Iterator[Prompt]:
        images = []
        for index in range(250):
            file = BytesIO()
            Image.new("RGB", (8, 8), (index, 255 - index, 0)).save(file, format="PNG")
            images.append(file.getvalue())
        for index in range(self.num_prompts):
            number = f"{index:08d}"
            image = images[index % len(images)]
            yield Prompt(prompt_id=number, image_id=number, question="what ?", source="tiny", image_bytes=image)


@dataclass(frozen=True, kw_only=True)
class Grown:
    peak_mb: float
    rows_per_s: float


def grow(num_prompts: int) -> Grown:
    """Prepare and generate. Rows/s are those committed after the first unit."""
    with tempfile.TemporaryDirectory() as root, own_cluster(num_cpus=2):
        store = Store(root)
        prompts = prepare(Prepare(), store, "tiny", TinyPrompts(num_prompts=num_prompts))
        config = Generate(engine=FakeEngine())
        (responses,) = generate(config, store, Model(name="fake", directory=".", fingerprint=""), [(prompts, "clean")])
        assert responses.counts["num_stop"] == num_prompts
        commits = sorted(path.stat().st_mtime for path in Path(responses.uri).glob("shard-*.parquet"))
    unit = Prepare().shard_size
    grown = Grown(peak_mb=peak_mb(), rows_per_s=(num_prompts - unit) / (commits[-1] - commits[0]))
    say(f"growth: {num_prompts:,} prompts: {grown.rows_per_s:.0f} rows/s, driver {grown.peak_mb:.0f} MB")
    return grown


def measure(command: str, full: bool) -> list[Figure]:
    small = in_fresh_process(grow, SMALL)
    figures = []
    for number in (LARGE, FULL) if full else (LARGE,):
        large = in_fresh_process(grow, number)
        of = f"at {number:,} prompts over {SMALL:,}"
        figures += [
            Figure(
                figure=f"peak memory of the driver {of}",
                ratio=large.peak_mb / small.peak_mb,
                target=1.1,
                better="lower",
                rival=f"itself: {large.peak_mb:.0f} MB over {small.peak_mb:.0f} MB",
                command=command,
            ),
            Figure(
                figure=f"rows/s {of}",
                ratio=large.rows_per_s / small.rows_per_s,
                target=0.9,
                better="higher",
                rival=f"itself: {large.rows_per_s:.0f} over {small.rows_per_s:.0f} rows/s",
                command=command,
            ),
        ]
    return figures
