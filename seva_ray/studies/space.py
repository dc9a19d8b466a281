"""What a study searches: typed axes, and the points that they span.

A point is one setting of SeVa. It says how its `Train` differs from the job's, and which views its pairs are made of.
The field `arm` of a point is its condition: the rejected view, or the swap control of a view.
"""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

from seva_ray.augmentations import drawn, parse_view
from seva_ray.core.errors import ConfigError
from seva_ray.core.seeds import key_of
from seva_ray.dpo.config import LossName, Train
from seva_ray.dpo.methods import METHODS, MethodName, trained_by
from seva_ray.dpo.policy import Lora

SWAPPED = "swapped "
"""The prefix of a condition whose pairs have their sides exchanged at random: the swap control of a view."""

PromptSet = tuple[int | None, str | None]
"""A source's seed, and the only data set of it that is used. None stands for what the source has itself."""

MAX_POINTS = 100_000
"""Largest number of points of a grid."""


@dataclass(frozen=True, kw_only=True)
class Space:
    """The axes of a study. An empty axis stays at the job's own setting."""

    kind: ClassVar[str] = "Space"

    views: tuple[str, ...] = ("diffusion-100:900:200",)
    """Rejected views. `diffusion-100:900:200` stands for 100, 300, 500, 700 and 900."""
    swapped: tuple[str, ...] = ()
    """Control: views whose pairs have chosen and rejected exchanged in half of the cases. Their gain is not SeVa's."""
    num_negatives: tuple[int, ...] = (1,)
    """Numbers of rejected responses in each pair: so many draws of the same view."""
    betas: tuple[float, ...] = ()
    """Values of DPO's beta."""
    learning_rates: tuple[float, ...] = ()
    """Learning rates."""
    lora_ranks: tuple[int, ...] = ()
    """Ranks of the adapter. Its alpha keeps its ratio to the rank."""
    losses: tuple[LossName, ...] = ()
    """Names of losses."""
    methods: tuple[MethodName, ...] = ()
    """Names of methods that differ in training alone: seva, anchor, seva+image, mdpo, symmpo, swapped, sft."""
    num_pairs: tuple[int, ...] = ()
    """Largest numbers of pairs to train on. A smaller set is part of a larger one."""
    prompt_seeds: tuple[int, ...] = ()
    """Seeds of the source. Each seed samples other prompts from the same data."""
    sources: tuple[str, ...] = ()
    """Data sets, each as the only source of prompts: folders of LLaVA's file, such as ocr_vqa and gqa, or cameras of
    the toy world."""
    curve: tuple[int, ...] = ()
    """Further numbers of pairs, for the curve of the score over pairs. They are added to a grid, at the first value
    of every axis but the view."""
    curve_views: tuple[str, ...] = ()
    """The views that have such a curve. Empty: all views."""

    def __post_init__(self) -> None:
        if not self.views and not self.swapped:
            raise ConfigError("views: at least one is needed")
        for view in (*self.views, *self.swapped):
            for label in expanded(view):
                if parse_view(label) is None:
                    raise ConfigError(f"view {label}: the rejected view must be an augmented one")
        if unknown := set(self.curve_views) - set(self.arms()):
            raise ConfigError(
                f"curve_views {min(unknown)}: not among the views; --space.curve-views names some of these"
            )
        for number in (*self.num_negatives, *self.num_pairs, *self.curve):
            if number < 1:
                raise ConfigError(f"num_negatives and num_pairs {number}: must be at least 1")
        for name in self.methods:
            if name in METHODS and (METHODS[name].views or METHODS[name].rejected != "view"):
                raise ConfigError(f"methods {name}: it has pairs of its own, which jobs/compare.py makes")
        if not self.num_negatives:
            raise ConfigError("num_negatives: at least one is needed")

    def arms(self) -> list[str]:
        """The conditions: views, and views with exchanged sides, each once."""
        views = [label for view in self.views for label in expanded(view)]
        swapped = [SWAPPED + label for view in self.swapped for label in expanded(view)]
        return list(dict.fromkeys([*views, *swapped]))

    def plain_views(self) -> list[str]:
        """The views of all conditions, each once."""
        return list(dict.fromkeys(arm.removeprefix(SWAPPED) for arm in self.arms()))

    def axes(self, train: Train) -> dict[str, Sequence[Any]]:
        """The values that each field of a `Point` takes."""
        return {
            "arm": self.arms(),
            "num_negatives": self.num_negatives,
            "beta": self.betas or (train.beta,),
            "learning_rate": self.learning_rates or (train.learning_rate,),
            "lora_rank": self.lora_ranks or (train.lora.rank,),
            "loss": self.losses or (train.loss.name,),
            "num_pairs": self.num_pairs or (train.num_pairs,),
            "prompt_seed": self.prompt_seeds or (None,),
            "source": self.sources or (None,),
            "method": self.methods or (None,),
        }

    def prompt_sets(self) -> list["PromptSet"]:
        """The sets of prompts that the points are trained on, each once."""
        return list(dict.fromkeys(itertools.product(self.prompt_seeds or (None,), self.sources or (None,))))

    def combinations(self, train: Train) -> list["Point"]:
        """All combinations of the axes' values. Raises: ConfigError for a point that cannot be trained."""
        axes = self.axes(train)
        if (size := math.prod(map(len, axes.values()))) > MAX_POINTS:
            raise ConfigError(f"the grid has {size:,} points, more than {MAX_POINTS:,}")
        points = [Point(**dict(zip(axes, values, strict=True))) for values in itertools.product(*axes.values())]
        for point in points:
            point.train(train, seed=0)
        return list(dict.fromkeys(points))

    def grid(self, train: Train) -> list["Point"]:
        """Every combination, and the points of the curve, each once."""
        first = {name: values[0] for name, values in self.axes(train).items()}
        curves = itertools.product(self.curve_views or self.arms(), self.curve)
        points = [Point(**(first | {"arm": arm, "num_pairs": number})) for arm, number in curves]
        return list(dict.fromkeys([*self.combinations(train), *points]))

    def sample(self, train: Train, num_points: int, seed: int) -> list["Point"]:
        """Random combinations, all different; a larger sample begins with a smaller one."""
        return sorted(self.combinations(train), key=lambda point: key_of(seed, point.label))[:num_points]


@dataclass(frozen=True, kw_only=True)
class Point:
    """One setting. Its fields are columns of a study's table."""

    arm: str
    num_negatives: int
    beta: float
    learning_rate: float
    lora_rank: int
    loss: LossName
    num_pairs: int | None
    prompt_seed: int | None
    source: str | None = None
    method: MethodName | None = None

    @property
    def prompt_set(self) -> "PromptSet":
        return self.prompt_seed, self.source

    @property
    def view(self) -> str:
        return self.arm.removeprefix(SWAPPED)

    @property
    def views(self) -> list[str]:
        """The rejected views of the point's pairs."""
        return [drawn(self.view, draw) for draw in range(1, self.num_negatives + 1)]

    @property
    def label(self) -> str:
        """The whole point in one line."""
        return ", ".join(f"{name} {value}" for name, value in asdict(self).items() if value is not None)

    def differing(self, axes: Mapping[str, Sequence[Any]]) -> str:
        """The values in which the point differs from others."""
        named = [(name, getattr(self, name)) for name, values in axes.items() if len(values) > 1]
        return ", ".join(value if name == "arm" else f"{name} {value}" for name, value in named) or self.arm

    def train(self, base: Train, seed: int) -> Train:
        """The job's training at this point. Raises: ConfigError if it cannot be trained."""
        train = replace(
            base,
            beta=self.beta,
            learning_rate=self.learning_rate,
            lora=Lora(rank=self.lora_rank, alpha=max(1, round(base.lora.alpha * self.lora_rank / base.lora.rank))),
            loss=replace(base.loss, name=self.loss),
            num_pairs=self.num_pairs,
            swap_sides=self.arm.startswith(SWAPPED),
            seed=seed,
        )
        return trained_by(self.method, train) if self.method else train


def expanded(view: str) -> list[str]:
    """A view, or all views of a range `name-first:last:step` with both ends. Raises: ConfigError if it is malformed."""
    if ":" not in view:
        return [view]
    match = re.fullmatch(r"(\w+)-(\d+):(\d+):(\d+)", view)
    if not match:
        raise ConfigError(f"view {view!r}: a range is written name-first:last:step, in whole numbers")
    name, (first, last, step) = match[1], map(int, match.groups()[1:])
    if step < 1 or last < first:
        raise ConfigError(f"view {view!r}: the step must be at least 1, and the last no less than the first")
    if (last - first) // step >= MAX_POINTS:
        raise ConfigError(f"view {view!r}: more than {MAX_POINTS:,} views")
    return [f"{name}-{value}" for value in range(first, last + 1, step)]


def strength(view: str) -> tuple[str, float | None]:
    """A view's augmentation and its strength: `diffusion-500` is ("diffusion", 500). The strength is None if the
    augmentation has none, or has the paper's."""
    name, _, value = view.partition("-")
    has_strength = re.fullmatch(r"\d+(\.\d+)?", value) and "+" not in view
    return (name, float(value)) if has_strength else (view, None)
