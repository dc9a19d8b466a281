"""Unlabelled images of the toy world with questions, from which the demo and the tests make pairs."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from seva_ray.core.checks import check_choice, check_least
from seva_ray.core.records import Prompt
from seva_ray.toy.prompts import prompts_about
from seva_ray.toy.world import Question, make_scene


@dataclass(frozen=True, kw_only=True)
class ToyWorld:
    """Scenes of the unbiased world that neither training nor a benchmark uses, with about six questions each."""

    kind: ClassVar[str] = "ToyWorld"

    num_images: int = 800
    """Number of scenes, at least 1. A smaller number takes the first scenes of a larger one."""
    seed: int = 7
    """Seed of the scenes and questions, at least 0."""
    camera: Literal["clean", "deployment"] = "deployment"
    """Camera of the pictures: `clean` gives no noise, `deployment` gives noise that a model trained on clean ones
    misreads."""

    def __post_init__(self) -> None:
        check_least(self, 1, "num_images")
        check_least(self, 0, "seed")
        check_choice(self, "camera", ("clean", "deployment"))

    def alone(self, name: str) -> "ToyWorld":
        """The same seen by another camera: the toy world's cameras stand for data sets. Raises: ConfigError for an
        unknown name."""
        return replace(self, camera=name)  # type: ignore[arg-type]

    @property
    def image_root(self) -> None:
        """None, because the images are in the prompts."""
        return None

    def prompts(self) -> Iterator[Prompt]:
        """Every question, scene by scene. Another camera gives the same scene other ids."""
        for prompt, _ in self._asked():
            yield prompt

    def answers(self) -> dict[str, str]:
        """The right answers by prompt_id, for questions with only one right answer. Of the stages that make a policy,
        only `ground_truth` reads them."""
        return {prompt.prompt_id: question.answer for prompt, question in self._asked() if question.kind != "describe"}

    def _asked(self) -> Iterator[tuple[Prompt, Question]]:
        name = f"toy-{self.seed}" if self.camera == "deployment" else f"toy-{self.camera}-{self.seed}"
        for index in range(self.num_images):
            yield from prompts_about(make_scene(self.seed, "unlabelled", index), self.camera, name)
