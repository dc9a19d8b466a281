"""The toy world's benchmark: exact-match questions, yes/no questions as in POPE, and descriptions scored as in CHAIR.

In: scenes that no model is trained on, seen by a clean camera or by the noisy deployment camera. Out: accuracies in
percent. For descriptions: precision (the share of named objects that are in the scene), recall (the share of the
scene's objects that are named), and the mean number of words.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar, Literal

import numpy as np

from seva_ray.benchmarks import yesno
from seva_ray.benchmarks.base import Tally, tally_of, text_of
from seva_ray.core.checks import check_choice, check_least
from seva_ray.core.records import Prompt, Response
from seva_ray.toy.prompts import prompts_about
from seva_ray.toy.world import COLOR_NAMES, SHAPES, Question, Scene, make_scene

EXACT_KINDS = ("color", "shape", "where", "count", "ocr")
AskedScene = tuple[Scene, list[tuple[Prompt, Question]]]
"""A scene with the questions about it."""
SCENES_PER_PART = 256
DESCRIBE_COUNTS = ("describe_asked", "describe_words", "describe_said", "describe_said_right", "describe_present")


@dataclass(frozen=True, kw_only=True)
class ToyBenchmark:
    """About 6.6 questions on each image; every third image has yes/no questions of the same POPE category."""

    kind: ClassVar[str] = "ToyBenchmark"
    protocol: ClassVar[str] = "toy"
    image_root: ClassVar[None] = None
    """The images are in the prompts."""

    num_images: int = 600
    """Number of scenes; at least 3, so that every category has questions."""
    seed: int = 2024
    """Seed of the scenes and questions; at least 0."""
    camera: Literal["clean", "deployment"] = "deployment"
    """`deployment` shows noisy pictures; `clean` shows the same scenes without noise."""
    partners: bool = False
    """Whether adversarial questions are about the missing partners of things, which bases with habits tend to name."""

    def __post_init__(self) -> None:
        check_least(self, 3, "num_images")
        check_least(self, 0, "seed")
        check_choice(self, "camera", ("clean", "deployment"))

    @property
    def name(self) -> str:
        return f"toy-test-{self.camera}-{self.seed}-{self.num_images}" + ("-partners" if self.partners else "")

    def prompts(self) -> Iterator[Prompt]:
        for _, asked in self._by_scene():
            for prompt, _ in asked:
                yield prompt

    def tally(self, responses: Mapping[str, Response]) -> Tally:
        """The counts of every image. A question without a usable response counts as wrong."""
        return tally_of(
            count_names(),
            (
                (prompt.image_id, count_answer(scene, question, text_of(responses, prompt.prompt_id)))
                for scene, asked in self._by_scene()
                for prompt, question in asked
            ),
        )

    def correct(self, responses: Mapping[str, Response]) -> dict[str, bool]:
        """The outcomes of all questions, except those that ask for a description."""
        return {
            prompt.prompt_id: is_right(question, text_of(responses, prompt.prompt_id))
            for _, asked in self._by_scene()
            for prompt, question in asked
            if question.kind != "describe"
        }

    def hallucinated(self, responses: Mapping[str, Response]) -> dict[str, list[str]]:
        """What each description names and the scene does not have."""
        return {
            prompt.prompt_id: sorted(" ".join(pair) for pair in mentions(text) - things_in(scene))
            for scene, asked in self._by_scene()
            for prompt, question in asked
            if question.kind == "describe" and (text := text_of(responses, prompt.prompt_id))
        }

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All in percent, except the mean number of words of a description."""
        without_count = [kind for kind in EXACT_KINDS if kind != "count"]
        named = {
            "VQA accuracy": _accuracy(sums, EXACT_KINDS),
            "VQA accuracy without count": _accuracy(sums, without_count),
        }
        named |= {f"{kind} accuracy": _accuracy(sums, [kind]) for kind in EXACT_KINDS}
        named |= yesno.pope_metrics(sums)
        named["describe precision"] = 100 * _ratio(sums["describe_said_right"], sums["describe_said"])
        named["describe recall"] = 100 * _ratio(sums["describe_said_right"], sums["describe_present"])
        named["describe words"] = _ratio(sums["describe_words"], sums["describe_asked"])
        return named

    def parts(self) -> Iterator["ToyBenchmark"]:
        for first in range(0, self.num_images, SCENES_PER_PART):
            scenes = range(first, min(first + SCENES_PER_PART, self.num_images))
            yield SomeScenes(**vars(self), asked=tuple(self._by_scene(scenes)))

    def _by_scene(self, scenes: range | None = None) -> Iterator[AskedScene]:
        """The scenes of these numbers, or all."""
        name = f"toy-test-{self.camera}-{self.seed}"
        for index in range(self.num_images) if scenes is None else scenes:
            scene = make_scene(self.seed, "test", index)
            yield scene, list(prompts_about(scene, self.camera, name, self.partners))


@dataclass(frozen=True, kw_only=True)
class SomeScenes(ToyBenchmark):
    """Some scenes of a benchmark, which are drawn once."""

    asked: tuple[AskedScene, ...] = field(repr=False)

    def _by_scene(self, scenes: range | None = None) -> Iterator[AskedScene]:
        yield from self.asked


def count_names() -> list[str]:
    """The names of all counts, in the order of a tally's columns."""
    exact = [f"{kind}_{what}" for kind in EXACT_KINDS for what in ("asked", "right")]
    return [*exact, *DESCRIBE_COUNTS, *yesno.outcome_names()]


def count_answer(scene: Scene, question: Question, text: str | None) -> dict[str, float]:
    """The counts of one answer. None stands for a missing answer, which is wrong."""
    if question.kind == "exist":
        assert question.category is not None
        label_yes = question.answer == "yes"
        said_yes = yesno.says_yes(text) if text is not None else not label_yes
        return yesno.outcome_counts(question.category, label_yes, said_yes)
    if question.kind == "describe":
        said, there = mentions(text or ""), things_in(scene)
        values = (1, len((text or "").split()), len(said), len(said & there), len(there))
        return dict(zip(DESCRIBE_COUNTS, map(float, values), strict=True))
    return {f"{question.kind}_asked": 1.0, f"{question.kind}_right": float(is_right(question, text))}


def is_right(question: Question, text: str | None) -> bool:
    if question.kind == "exist":
        return text is not None and yesno.says_yes(text) == (question.answer == "yes")
    return text == question.answer


def things_in(scene: Scene) -> set[tuple[str, str]]:
    """The (colour, shape) pairs of a scene."""
    return {(thing.color, thing.shape) for thing in scene.things}


def mentions(text: str) -> set[tuple[str, str]]:
    """The (colour, shape) pairs that a text names, each once."""
    words = text.split()
    return {pair for pair in pairwise(words) if pair[0] in COLOR_NAMES and pair[1] in SHAPES}


def _accuracy(sums: Mapping[str, np.ndarray], kinds: list[str] | tuple[str, ...]) -> np.ndarray:
    right, asked = (np.sum([sums[f"{kind}_{what}"] for kind in kinds], axis=0) for what in ("right", "asked"))
    return 100 * _ratio(right, asked)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole; nan if `whole` is 0."""
    ratio = np.full(np.shape(whole), np.nan)
    np.divide(part, whole, out=ratio, where=whole != 0)
    return ratio
