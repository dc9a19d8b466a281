"""What a whole study takes, stage by stage: the forecast of one policy, times how often the study does each stage.

In: how much of everything the study has, the work of one of its policies, the rates, and the cluster. Out: stages. It
is what a study takes if nothing of it exists yet. Waiting, and stages that overlap, are not in it: the hours of GPUs
are those of the stages, and the wall time is no sum of theirs.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from seva_ray.planning.forecast import Stage, forecast
from seva_ray.planning.rates import Fleet, Rates
from seva_ray.planning.simulation import Faults
from seva_ray.planning.work import RemainingWork, num_rows, units_of


@dataclass(frozen=True, kw_only=True)
class StudySize:
    """How much of everything a study has."""

    num_prompt_sets: int
    num_base_models: int
    num_passes: int
    """Passes of a base model over a set of prompts, in the clean view and in each other."""
    num_pair_sets: int
    """Sets of pairs, each scored by the reference once."""
    trained_pairs: Sequence[int | None]
    """The largest number of pairs that it is trained on. None: all."""
    num_questions: int
    """Questions of all benchmarks."""
    num_test_views: int
    """Views in which the first base model sees the benchmarks."""

    @property
    def num_policies(self) -> int:
        return len(self.trained_pairs)


def study_total(size: StudySize, one: RemainingWork, rates: Rates, fleet: Fleet) -> list[Stage]:
    """The stages of the whole study. `one`: the work of one policy with one rejected view, none of which exists."""
    per_pass = units_of(one.num_prompts, one.shard_size)
    num_scored = size.num_policies + size.num_base_models + size.num_test_views
    tests = [(num_scored * count, rows) for count, rows in units_of(size.num_questions, one.shard_size)]
    name, *_ = one.passes
    generated = replace(name, left=[(size.num_passes * count, rows) for count, rows in per_pass])
    whole = replace(one, passes=[generated], tests=tests, prepared=False, paired=False, scored=False, trained=False)
    nodes = fleet.nodes[-1]
    stages = {stage.name: stage for stage in forecast(whole, rates, fleet, Faults(), nodes).stages}
    trainings = []
    for most, number in Counter(size.trained_pairs).items():
        of_size = forecast(replace(whole, most_pairs=most), rates, fleet, Faults(), nodes).stages
        trainings.append(times(next(stage for stage in of_size if stage.name == "train"), number))
    return [
        times(stages["prepare"], size.num_prompt_sets),
        stages["generate"],
        times(stages["pair"], size.num_pair_sets),
        times(stages["reference"], size.num_pair_sets),
        replace(sum_of(trainings), work=f"{size.num_policies:,} policies"),
        replace(stages["evaluate"], work=f"{num_rows(tests):,} responses of {num_scored:,} models and views"),
    ]


def times(stage: Stage, number: int) -> Stage:
    """A stage that is done so often."""
    scaled = {name: number * getattr(stage, name) for name in ("wall_s", "driver_s", "gpu_hours", "cpu_hours")}
    return replace(stage, work=f"{number:,} x {stage.work}", **scaled)


def sum_of(stages: Sequence[Stage]) -> Stage:
    sums = {
        name: sum(getattr(stage, name) for stage in stages) for name in ("wall_s", "driver_s", "gpu_hours", "cpu_hours")
    }
    unknown = tuple(dict.fromkeys(name for stage in stages for name in stage.unknown))
    return Stage(name=stages[0].name, work="", unknown=unknown, **sums)


def table_of(size: StudySize, stages: Sequence[Stage]) -> list[str]:
    """The stages as lines of a table. A number that lacks a rate is shown with `>=`."""
    lines = [
        "The whole study, if nothing of it exists yet: "
        f"policies: {size.num_policies:,}, base models: {size.num_base_models:,}, "
        f"sets of prompts: {size.num_prompt_sets:,}, sets of pairs: {size.num_pair_sets:,}",
        f"{'stage':10} {'GPU-hours':>10} {'CPU-hours':>10}  work",
    ]
    total = replace(sum_of(stages), name="total")
    for stage in (*stages, total):
        least = ">= " if stage.unknown else ""
        hours = [f"{least}{value:,.1f}" for value in (stage.gpu_hours, stage.cpu_hours)]
        lines.append(f"{stage.name:10} {hours[0]:>10} {hours[1]:>10}  {stage.work}".rstrip())
    if total.unknown:
        lines.append(f"unknown rates: {', '.join(total.unknown)}")
    return lines
