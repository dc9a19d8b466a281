"""Unlabelled images of the toy world, with questions: what the demo and the tests make pairs from."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from seva_ray.core.errors import ConfigError
from seva_ray.core.records import Prompt
from seva_ray.toy.prompts import prompts_about
from seva_ray.toy.world import Question, make_scene


@dataclass(frozen=True, kw_only=True)
class ToyWorld:
    """Scenes of the unbiased world that neither training nor a benchmark has; about six questions each."""

    kind: ClassVar[str] = "ToyWorld"

    num_images: int = 800
    """How many scenes; at least 1. More scenes keep the earlier ones as they are."""
    seed: int = 7
    """Of the scenes and questions; at least 0."""
    camera: Literal["clean", "deployment"] = "deployment"
    """`deployment` writes noisy pictures, which a model trained on clean ones misreads; `clean` has no noise."""

    def __post_init__(self) -> None:
        if self.num_images < 1:
            raise ConfigError(f"num_images must be at least 1, not {self.num_images}")
        if self.seed < 0:
            raise ConfigError(f"seed must not be negative, not {self.seed}")
        if self.camera not in ("clean", "deployment"):
            raise ConfigError(f"camera must be clean or deployment, not {self.camera!r}")

    @property
    def image_root(self) -> None:
        """The images are in the prompts."""
        return None

    def prompts(self) -> Iterator[Prompt]:
        """Every question, scene by scene; the same scene has other ids behind another camera."""
        for prompt, _ in self._asked():
            yield prompt

    def answers(self) -> dict[str, str]:
        """The right answer by prompt_id, where there is just one. No stage that makes a policy reads it."""
        return {prompt.prompt_id: question.answer for prompt, question in self._asked() if question.kind != "describe"}

    def _asked(self) -> Iterator[tuple[Prompt, Question]]:
        name = f"toy-{self.seed}" if self.camera == "deployment" else f"toy-{self.camera}-{self.seed}"
        for index in range(self.num_images):
            yield from prompts_about(make_scene(self.seed, "unlabelled", index), self.camera, name)
