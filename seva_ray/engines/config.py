"""How responses are generated: by which engine, how they are decoded, and how many engines run."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import tyro

from seva_ray.core.checks import check_least
from seva_ray.core.errors import ConfigError
from seva_ray.core.fingerprints import execution
from seva_ray.core.system_texts import LLAVA_V1
from seva_ray.engines import AnyEngine, Decoding, VllmEngine, engine_here
from seva_ray.vlm.encoding import options_of


@dataclass(frozen=True, kw_only=True)
class Generate:
    """How responses are generated."""

    kind: ClassVar[str] = "Generate"

    engine: Annotated[AnyEngine, tyro.conf.AvoidSubcommands] = field(default_factory=lambda: engine_here(VllmEngine()))
    """The engine that runs the model. Its own fields are options such as --generate.engine.dtype."""
    decoding: Decoding = field(default_factory=Decoding)
    """How responses are decoded; the same for every view."""
    system: str = LLAVA_V1
    """System text before the question (empty: none): that of SeVa's generation. Training uses the same text unless
    `train.system` names another one, and benchmarks have their own: see `benchmarks.system`."""
    seed: int = 0
    """Seed of the augmentations. Each random draw follows from it, the prompt_id and the view."""
    min_engines: int = execution(1)
    """Smallest number of engine replicas."""
    max_engines: int | None = execution(None)
    """Largest number of engine replicas, to which the pool grows if the cluster has room or can add nodes. None means
    as many as the cluster has GPUs for; without GPUs it means one, or one for each `generation` that nodes declare."""
    units_per_engine: int = execution(2)
    """Units that an engine works on at once. With 2 the engine stays busy while the last answers of a unit finish."""
    max_image_pixels: int = 64_000_000
    """Largest number of pixels of an image, counted after padding to a square. A larger image is a `failed` row."""
    image_options: str = ""
    """Settings of the model's own image processor, as JSON (empty: as its files say), such as
    '{"size": {"longest_edge": 1003520}}' for Qwen-VL, which counts pixels, or '{"max_patches": 6}' for InternVL. They
    bound what an image becomes, and so time and memory. Training and benchmarks use the same ones."""
    max_unreadable: float = execution(1.0)
    """Largest share of images that cannot be opened, in a sample of 64 that is tried before a model loads. With 1 it is
    an error only if all of them cannot be opened."""
    memory_check: bool = execution(True)
    """Refuse to start if by our estimate the memory of the GPUs is too small for an engine."""
    retry_failed: bool = execution(False)
    """Answer again the prompts whose responses failed, for example because images were missing. Other responses stay.
    Prompts that cannot be used are not tried."""

    def __post_init__(self) -> None:
        options_of(self.image_options)
        check_least(self, 1, "min_engines", "max_engines", "units_per_engine")
        if not 0 <= self.max_unreadable <= 1:
            raise ConfigError(f"max_unreadable {self.max_unreadable}: must be 0 to 1")
        if self.max_engines is not None and self.min_engines > self.max_engines:
            raise ConfigError(f"min_engines {self.min_engines}: must be 1 to max_engines {self.max_engines}")
