"""Rows that fail, in every shard: each is told by its error to the end, and no other row notices."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.records import Prompt, Response
from seva_ray.core.storage import read_table
from seva_ray.engines import FakeEngine
from seva_ray.engines.config import Generate
from seva_ray.sources import ToyWorld
from seva_ray.stages.generate import generate, read_responses
from seva_ray.stages.pair import Pair, pair
from seva_ray.stages.prepare import Prepare, prepare, shards_of
from seva_ray.vlm.models import Model
from tests.chaos.runs import uninterrupted

SHARD_SIZE = 8
VIEWS = ("clean", "diffusion-500")
REFUSED = "the fake engine was told to fail"


@dataclass(frozen=True)
class Damaged:
    """Toy prompts; the image file of the third prompt of each shard breaks off."""

    kind: ClassVar[str] = "Damaged"
    image_root: str | None = None

    def prompts(self) -> Iterator[Prompt]:
        for index, prompt in enumerate(ToyWorld(num_images=20).prompts()):
            assert prompt.image_bytes is not None
            damaged = index % SHARD_SIZE == 2
            yield replace(prompt, image_bytes=prompt.image_bytes[:100]) if damaged else prompt


def by_id(prompts: Artifact, artifact: Artifact) -> dict[str, Response]:
    return {response.prompt_id: response for response in read_responses(prompts, artifact)}


def test_a_row_that_fails_is_a_response_and_a_verdict_with_its_error_and_the_others_are_intact(
    ray_cluster: None, model: Model, tmp_path: Path
):
    store, elsewhere = Store(str(tmp_path / "runs")), Store(str(tmp_path / "intact"))
    sound = prepare(Prepare(shard_size=SHARD_SIZE), elsewhere, "toy", ToyWorld(num_images=20))
    prompts = prepare(Prepare(shard_size=SHARD_SIZE), store, "toy", Damaged())
    config = Generate(engine=FakeEngine(failing_share=0.1))
    expected = [
        by_id(sound, uninterrupted(Generate(engine=FakeEngine()), elsewhere, model, sound, view)) for view in VIEWS
    ]
    artifacts = generate(config, store, model, [(prompts, view) for view in VIEWS])

    ids = list(expected[0])
    damaged = set(ids[2::SHARD_SIZE])
    assert len(damaged) == prompts.counts["num_shards"]
    failed: dict[str, str] = {}
    for artifact, intact in zip(artifacts, expected, strict=True):
        responses = by_id(prompts, artifact)
        assert list(responses) == ids
        errors = {key: response.error for key, response in responses.items() if response.error}
        assert damaged < set(errors), "the engine refused some rows too"
        assert {errors[key] for key in damaged}.isdisjoint({REFUSED})
        assert {errors[key] for key in errors.keys() - damaged} == {REFUSED}
        assert {key: responses[key] for key in ids if key not in errors} == {
            key: intact[key] for key in ids if key not in errors
        }
        assert artifact.counts["num_responses"] == len(ids)
        assert artifact.counts["num_error"] == len(errors)
        assert artifact.counts["num_stop"] == len(ids) - len(errors)
        failed = errors | failed  # a verdict names the clean view's error first

    chosen, *rejected = artifacts
    pairs = pair(Pair(), store, prompts, chosen, rejected)
    shards = [read_table(pairs.path("verdicts", shard)) for shard in shards_of(prompts)]
    verdicts = [row for shard in shards for row in shard.to_pylist()]
    assert [row["prompt_id"] for row in verdicts] == ids
    assert {row["prompt_id"]: row["error"] for row in verdicts if row["verdict"] == "failed"} == failed
    assert pairs.counts["verdicts"]["failed"] == len(failed)
    assert sum(pairs.counts["verdicts"].values()) == len(ids)
