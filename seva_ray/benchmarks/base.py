"""What a benchmark is: prompts, and a tally of the responses. Metrics are computed from the tally.

A tally holds one row of additive counts per image. Every metric is a function of summed counts, so a bootstrap over
images is one matrix product, and a ratio such as F1 gets an honest interval.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar, get_args, runtime_checkable

import numpy as np

from seva_ray.benchmarks.choices import AskedAs
from seva_ray.benchmarks.files import adjacent, settle_paths
from seva_ray.core.checks import check_choice
from seva_ray.core.fingerprints import place
from seva_ray.core.records import Prompt, Response

Label = TypeVar("Label")
LOW_IS_GOOD = ", low is good"
"""The end of the name of a metric whose lower values are better."""


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Additive counts. `counts[i, j]` is the sum of statistic `names[j]` over the questions of image `image_ids[i]`."""

    image_ids: Sequence[str]
    names: Sequence[str]
    counts: np.ndarray
    """float64, shape (images, statistics)."""


class Benchmark(Protocol):
    """A frozen, keyword-only dataclass; one file per benchmark."""

    @property
    def name(self) -> str:
        """The name of the prompt set and of the scores. It differs if the questions or the protocol differ."""
        ...

    @property
    def protocol(self) -> str:
        """The name of the way of asking and scoring. Numbers of two protocols are never compared."""
        ...

    @property
    def image_root(self) -> str | None:
        """The directory or fsspec URI of the prompts' image paths; None if the prompts hold the images themselves."""
        ...

    def prompts(self) -> Iterator[Prompt]:
        """Every question once, in a fixed order. The questions of one image are adjacent."""
        ...

    def tally(self, responses: Mapping[str, Response]) -> Tally:
        """Score the responses, given by `prompt_id`. A prompt without a response, or with an error, counts as wrong."""
        ...

    def metrics(self, sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Metrics in percent, from summed counts. Values may have any shape: scalars or bootstrap replicates."""
        ...


@runtime_checkable
class InParts(Benchmark, Protocol):
    """A benchmark that may have millions of questions. It is scored part by part, so that not all answers lie in memory
    together."""

    def parts(self) -> Iterator[Benchmark]:
        """Its questions, some thousand in each part, in the order of `prompts()`. All questions about one image are in
        the same part, and all tallies have the same counts. What `tally` and `correct` return of the whole is what they
        return of the parts, one after the other."""
        ...


@dataclass(frozen=True, kw_only=True)
class AskedWith:
    """What benchmarks share that a published script asks with a system text of its own."""

    system: Literal["", "llava_v1", "vicuna_v1", "internvl2_5", "qwen_1_5"] = ""
    """Name of the system text. Empty: that of the generation. It is part of the name and of the protocol."""


def protocol_of(benchmark: Any) -> str:
    """The name of the way of asking and scoring, with the system text if the benchmark has its own."""
    system = getattr(benchmark, "system", "")
    return f"{benchmark.protocol}-{system}" if system else benchmark.protocol


@dataclass(frozen=True, kw_only=True)
class LabelledQuestion(Generic[Label]):
    """A question with its right answer."""

    prompt: Prompt
    label: Label
    """The right answer, in the form that the benchmark's rule compares with."""
    options: tuple[str, ...] = ()
    """The options of a multiple-choice question."""
    group: str = "all"
    """The category, task or subject that the question belongs to. The names of its counts begin with it."""


class LabelledBenchmark(AskedWith, ABC, Generic[Label]):
    """What benchmarks share whose questions are right or wrong.

    A member is a frozen, keyword-only dataclass: its fields, how its questions are read and asked, and its rule.
    """

    short_name: ClassVar[str]
    """The first part of the benchmark's name."""
    paths: ClassVar[Sequence[str]] = ("path", "image_root")
    """The fields that hold paths."""

    def __post_init__(self) -> None:
        settle_paths(self, *self.paths)
        self.questions  # noqa: B018 - a wrong file is found here, before a model answers anything

    @property
    @abstractmethod
    def protocol(self) -> str: ...

    @property
    def name(self) -> str:
        return f"{self.short_name}-{protocol_of(self)}"

    @property
    @abstractmethod
    def questions(self) -> list[LabelledQuestion[Label]]:
        """All questions, in the order of the files. A member reads them once. Raises: InputError for a wrong file."""

    @cached_property
    def groups(self) -> Sequence[str]:
        """The questions' groups, in the order of their first question."""
        return list(dict.fromkeys(question.group for question in self.questions))

    @property
    def count_names(self) -> Sequence[str]:
        """The names of all counts, in the order of a tally's columns."""
        return [f"{group}_{what}" for group in self.groups for what in ("right", "asked")]

    def prompts(self) -> Iterator[Prompt]:
        yield from adjacent(question.prompt for question in self.questions)

    def tally(self, responses: Mapping[str, Response]) -> Tally:
        answered = self._answered(responses)
        return tally_of(
            self.count_names, ((asked.prompt.image_id, self.count(asked, text)) for asked, text in answered)
        )

    def correct(self, responses: Mapping[str, Response]) -> dict[str, bool]:
        return {asked.prompt.prompt_id: self.is_right(asked, text) for asked, text in self._answered(responses)}

    def count(self, question: LabelledQuestion[Label], text: str | None) -> Mapping[str, float]:
        """The counts of one answer."""
        right = self.is_right(question, text)
        return {f"{question.group}_asked": 1.0, f"{question.group}_right": float(right)}

    @abstractmethod
    def is_right(self, question: LabelledQuestion[Label], text: str | None) -> bool:
        """Whether the answer is right. None stands for a missing answer, which is wrong."""

    def _answered(self, responses: Mapping[str, Response]) -> Iterator[tuple[LabelledQuestion[Label], str | None]]:
        for question in self.questions:
            yield question, text_of(responses, question.prompt.prompt_id)


@dataclass(frozen=True, kw_only=True)
class LlavaBenchmark(LabelledBenchmark[Label]):
    """A labelled benchmark with files and images in two places, which is asked and scored as LLaVA does it, or asked as
    another family is."""

    path: str = place()
    """The published file or folder; the member's module says which."""
    image_root: str = place()
    """The folder of the images."""
    protocol: AskedAs = "llava"
    """The way of asking and scoring. It is part of the recipe."""

    def __post_init__(self) -> None:
        check_choice(self, "protocol", get_args(AskedAs))
        super().__post_init__()


def text_of(responses: Mapping[str, Response], prompt_id: str) -> str | None:
    """The answer without white space around it; None if the prompt has no usable response."""
    response = responses.get(prompt_id)
    return response.text.strip() if response is not None and response.error is None else None


def tally_of(names: Sequence[str], counted: Iterable[tuple[str, Mapping[str, float]]]) -> Tally:
    """Sum (image_id, counts) per image, in the order of the images' first appearance. A missing name counts 0."""
    place = {name: index for index, name in enumerate(names)}
    rows: dict[str, list[float]] = {}
    for image_id, counts in counted:
        row = rows.get(image_id)
        if row is None:
            row = rows[image_id] = [0.0] * len(place)
        for name, value in counts.items():
            row[place[name]] += value
    sums = np.array(list(rows.values()), np.float64).reshape(-1, len(place))
    return Tally(image_ids=list(rows), names=list(place), counts=sums)


def gain(metric: str, difference: float) -> float:
    """A difference (policy minus start) with the sign that makes an improvement positive."""
    return -difference if metric.endswith(LOW_IS_GOOD) else difference


def percent(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """100 * part / whole; nan if `whole` is 0."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    values = np.full(np.broadcast_shapes(part.shape, whole.shape), np.nan)
    np.divide(100.0 * part, whole, out=values, where=whole != 0)
    return values


def accuracies(label: str, sums: Mapping[str, np.ndarray], groups: Sequence[str]) -> dict[str, np.ndarray]:
    """`<label> accuracy` over all groups, then of each group, from the counts `<group>_right` and `<group>_asked`."""
    right, asked = (np.sum([sums[f"{group}_{what}"] for group in groups], axis=0) for what in ("right", "asked"))
    named = {f"{label} accuracy": percent(right, asked)}
    for group in groups:
        named[f"{label} {group} accuracy"] = percent(sums[f"{group}_right"], sums[f"{group}_asked"])
    return named
