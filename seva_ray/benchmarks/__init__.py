"""Benchmarks: prompts and scores, one file each. To add one: a dataclass, and a line in `Benchmarks`."""

from dataclasses import dataclass
from typing import Literal

from seva_ray.benchmarks.base import Benchmark, Tally
from seva_ray.benchmarks.pope import Pope
from seva_ray.benchmarks.toy import ToyBenchmark
from seva_ray.errors import ConfigError

__all__ = ["Benchmark", "Benchmarks", "Pope", "Tally", "ToyBenchmark"]


@dataclass(frozen=True, kw_only=True)
class Benchmarks:
    """What models are scored on."""

    toy_images: int = 0
    """Scenes of the toy world's test, behind each camera; 0 for none, else at least 3."""
    toy_cameras: tuple[Literal["deployment", "clean"], ...] = ("deployment", "clean")
    """Behind which the toy world's scenes are seen."""
    pope: str | None = None
    """Directory of the published POPE files: coco_pope_random.json, ..._popular.json, ..._adversarial.json."""
    pope_images: str | None = None
    """Directory or URI of POPE's images (COCO val2014)."""

    def __post_init__(self) -> None:
        if (self.pope is None) != (self.pope_images is None):
            raise ConfigError("pope and pope_images: give both or neither")

    def chosen(self) -> list[Benchmark]:
        """The benchmarks that the fields ask for."""
        members: list[Benchmark] = []
        if self.toy_images:
            members += [ToyBenchmark(num_images=self.toy_images, camera=camera) for camera in self.toy_cameras]
        if self.pope is not None and self.pope_images is not None:
            members.append(Pope(path=self.pope, image_root=self.pope_images))
        return members
