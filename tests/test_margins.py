"""Margins after training: the log-probabilities of pairs by a policy, of all pairs or of a sample in whole shards."""

import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from seva_ray.core.artifacts import Artifact
from seva_ray.core.errors import ConfigError
from seva_ray.core.shards import shards_in
from seva_ray.core.storage import read_table
from seva_ray.core.system_texts import VICUNA_V1
from seva_ray.dpo.batch import PreferenceCollator
from seva_ray.dpo.config import Train
from seva_ray.dpo.logps import response_logps
from seva_ray.dpo.policy import load_model
from seva_ray.stages.browse import Browse, browse
from seva_ray.stages.margins import Margins, MarginWorker, margins, open_margins, sample, work_of
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.views import Viewer
from tests.small_run import SmallRun, scored
from tests.test_browse import handed

CONFIG = Train(dtype="float32", num_workers=1, global_batch_size=4, system="vicuna_v1")


@pytest.fixture(scope="module")
def policy(run: SmallRun, toy_model: str) -> Artifact:
    """A policy that is the starting model with other weights in its last layer."""
    artifact = run.store.open("policies/scaled", config={"train": CONFIG}, inputs=[run.pairs]).begin()
    directory = Path(shutil.copytree(toy_model, artifact.path("model")))
    (file,) = directory.glob("*.safetensors")
    weights = load_file(file)
    (head,) = (name for name in weights if name.endswith("lm_head.weight"))
    save_file(weights | {head: weights[head] * 1.5}, file, {"format": "pt"})
    return artifact.finish({})


def rows_of(run: SmallRun, shard: str) -> list[dict[str, Any]]:
    return read_table(run.pairs.path("pairs", shard)).to_pylist()


def test_they_are_the_policys_own_and_a_restart_scores_what_is_missing(run: SmallRun, policy: Artifact, tmp_path: Path):
    config = Margins(num_pairs=0, batch_size=3)
    begun = open_margins(config, run.store, run.pairs, policy)
    shards = shards_in(run.pairs.path("pairs"))
    MarginWorker(work_of(config, run.store, run.pairs, policy, begun)).commit(shards[0])  # and then it was killed
    first = Path(begun.path(shards[0]))
    written = first.stat().st_mtime_ns
    found = margins(config, run.store, run.pairs, policy)
    assert first.stat().st_mtime_ns == written
    assert found.counts == {
        "num_pairs": run.pairs.counts["verdicts"]["kept"], "policy": "scaled", "computed": "float32-vicuna_v1"
    }  # fmt: skip
    model = load_model(policy.path("model"), "float32")
    viewer = Viewer(encoder=Encoder(policy.path("model"), VICUNA_V1), image_root=None, max_pixels=10**6)
    for shard in shards:
        of_shard = read_table(found.path(shard)).to_pylist()
        for pair, row in zip(rows_of(run, shard), of_shard, strict=True):
            with torch.no_grad():
                (alone,) = response_logps(model, PreferenceCollator(viewer=viewer, packed=False)([pair])).tolist()
            assert row["prompt_id"] == pair["prompt_id"]
            assert row["ref_logps"] == pytest.approx(alone, rel=1e-5, abs=1e-4)

    before = scored(CONFIG, run.store, run.model, run.pairs)
    page = Path(browse(Browse(to=str(tmp_path / "out"), image_px=0), run.store, run.pairs.name))
    (index,) = handed(page / "index.js", "hold")
    assert index["margins"][-2:] == ["by scaled, after training", "gained by training scaled"]
    place = index["margins"].index("by the base model (float32-vicuna_v1)")
    shown = [row[5:] for row in index["rows"] if row[5 + place] is not None]
    for column, logps in ((place, before), (-2, found)):
        assert sorted(row[column] for row in shown) == sorted(margins_in(logps, shards))
    assert all(row[-1] == round(row[-2] - row[place], 2) for row in shown)
    assert any(row[-1] for row in shown)


def margins_in(logps: Artifact, shards: list[str]) -> list[float]:
    rows = [row["ref_logps"] for shard in shards for row in read_table(logps.path(shard)).to_pylist()]
    return [round(chosen - rejected, 2) for chosen, *others in rows for rejected in others]


def test_a_sample_is_whole_shards_and_a_larger_one_holds_it(run: SmallRun):
    sizes = {shard: len(rows_of(run, shard)) for shard in shards_in(run.pairs.path("pairs"))}
    assert len(sizes) > 2
    samples = [sample(run.pairs, number) for number in range(1, sum(sizes.values()) + 2)]
    for number, chosen in enumerate(samples, 1):
        total = sum(sizes[shard] for shard in chosen)
        assert total >= min(number, sum(sizes.values()))
        assert len(chosen) == 1 or total - max(sizes[shard] for shard in chosen) < number
    assert all(set(one) <= set(other) for one, other in itertools.pairwise(samples))
    assert samples[-1] == sample(run.pairs, 0) == list(sizes)
    assert samples[0] != list(sizes)


def test_a_sample_has_a_number_of_pairs():
    with pytest.raises(ConfigError, match="num_pairs -1: must be at least 0"):
        Margins(num_pairs=-1)
