"""A benchmark that comes in parts is scored as if all its answers lay in memory."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from scipy.stats import binomtest

from seva_ray.benchmarks import toy_scenes
from seva_ray.benchmarks.base import InParts, Tally
from seva_ray.benchmarks.toy_scenes import ToyBenchmark
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.errors import InputError
from seva_ray.core.records import Response
from seva_ray.scoring import intervals, paired_tallies, right_wrong
from seva_ray.scoring.intervals import Comparison
from seva_ray.scoring.paired_tallies import PairedTallies
from seva_ray.scoring.right_wrong import mcnemar
from seva_ray.stages.evaluate import compare
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.stages.score_files import Evaluate
from seva_ray.stages.score_parts import taken
from tests.answered import responses

WORDS = ("yes", "red", "no", "2", "left", "red triangle , blue ring", "circle")
SCENES = ToyBenchmark(num_images=9)


class Whole(ToyBenchmark):
    """The same benchmark, which does not come in parts."""

    kind: ClassVar[str] = ToyBenchmark.kind
    parts = None  # type: ignore[assignment]


def scored(root: Path, benchmark: ToyBenchmark) -> Artifact:
    store = Store(str(root))
    prompts = prepare(Prepare(shard_size=7), store, benchmark.name, benchmark)
    ids = [prompt.prompt_id for prompt in benchmark.prompts()]
    sides = [{key: WORDS[n * step % 7] for n, key in enumerate(ids) if n % 11} for step in (2, 5)]
    start, policy = (responses(store, prompts, name, of) for name, of in zip(("start", "policy"), sides))
    return compare(Evaluate(num_resamples=100), store, benchmark, prompts, start, policy, "policy")


def files(artifact: Artifact) -> dict[str, bytes]:
    paths = (path for path in Path(artifact.uri).iterdir() if path.name not in ("record.json", "recipe.json"))
    return {path.name: path.read_bytes() for path in paths}


@pytest.mark.parametrize("scenes", [1, 4, 9])
def test_scores_in_parts_are_the_scores_of_the_whole_to_the_last_byte(
    scenes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(toy_scenes, "SCENES_PER_PART", scenes)
    assert isinstance(SCENES, InParts)
    assert not isinstance(Whole(num_images=9), InParts)
    in_parts, whole = scored(tmp_path / "parts", SCENES), scored(tmp_path / "whole", Whole(num_images=9))
    assert in_parts.counts == whole.counts
    assert in_parts.counts["num_failed_start"] > 0
    assert in_parts.counts["flips"]["gained"] > 0
    assert files(in_parts) == files(whole)
    assert {*files(whole)} == {"start.parquet", "policy.parquet", "outcomes.parquet", "comparisons.json"}


def test_answers_to_other_questions_are_not_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ToyBenchmark, "parts", lambda self: iter([toy_scenes.SomeScenes(**vars(self), asked=())]))
    with pytest.raises(InputError, match=r"responses/start/.*: the benchmark does not ask toy-test.*-000000-0"):
        scored(tmp_path, SCENES)


def test_a_response_that_is_missing_shifts_no_other():
    stream = iter([Response(prompt_id=name) for name in "acd"])
    first, stream = taken(stream, {"a", "b"})
    second, stream = taken(stream, {"c", "d"})
    assert ([*first], [*second], next(stream, None)) == (["a"], ["c", "d"], None)


def tallies(num_images: int, seed: int = 0) -> tuple[Tally, Tally]:
    rng = np.random.default_rng(seed)
    ids, asked = [f"image {number}" for number in range(num_images)], rng.integers(1, 4, num_images)
    sides = [rng.binomial(asked, share) for share in (0.5, 0.6)]
    start, policy = (
        Tally(image_ids=ids, names=("right", "asked"), counts=np.stack([right, asked], axis=1).astype(float))
        for right in sides
    )
    return start, policy


def part(tally: Tally, some: slice) -> Tally:
    return Tally(image_ids=tally.image_ids[some], names=tally.names, counts=tally.counts[some])


def compared(start: Tally, policy: Tally, size: int) -> Comparison:
    paired = PairedTallies()
    for first in range(0, len(start.image_ids), size):
        paired.add(*(part(tally, slice(first, first + size)) for tally in (start, policy)))
    (row,) = paired.comparisons(
        lambda sums: {"accuracy": 100 * sums["right"] / sums["asked"]}, num_resamples=4000, seed=0
    )
    return row


def test_images_with_equal_counts_that_are_drawn_together_have_the_same_interval(monkeypatch: pytest.MonkeyPatch):
    start, policy = tallies(400)
    one_by_one = compared(start, policy, 100)
    for module in (intervals, paired_tallies):
        monkeypatch.setattr(module, "MOST_IMAGES", 150)
    together = compared(start, policy, 100)
    assert together == compared(start, policy, 37), "it depends on the parts"
    assert together.num_images == 400
    assert (together.start, together.policy) == (one_by_one.start, one_by_one.policy)
    found, expected = (
        [row.start_low, row.start_high, row.policy_low, row.policy_high, row.difference_low, row.difference_high]
        for row in (together, one_by_one)
    )
    assert found != expected
    np.testing.assert_allclose(found, expected, atol=0.5)  # the widths are 7 to 9


def test_an_image_in_two_parts_is_refused():
    start, policy = tallies(10)
    paired = PairedTallies()
    for some in (slice(0, 6), slice(5, 10)):
        paired.add(part(start, some), part(policy, some))
    with pytest.raises(ValueError, match="appears twice"):
        paired.comparisons(lambda sums: {}, num_resamples=100, seed=0)


@pytest.mark.parametrize(("gained", "lost"), [(60, 40), (30, 31), (5_000, 4_900), (300, 100), (0, 90), (50, 50)])
def test_mcnemar_of_many_flips_is_that_of_exact_integers(gained: int, lost: int, monkeypatch: pytest.MonkeyPatch):
    exact = mcnemar(gained, lost)
    monkeypatch.setattr(right_wrong, "MOST_FLIPS", 0)
    assert mcnemar(gained, lost) == mcnemar(lost, gained) == pytest.approx(exact, rel=1e-9)


def test_mcnemar_of_millions_of_flips_takes_no_time():
    assert mcnemar(1_501_000, 1_500_000) == pytest.approx(binomtest(1_501_000, 3_001_000, 0.5).pvalue, rel=1e-5)
    assert mcnemar(3_000_000, 1_000_000) == 0
