"""Reference log-probabilities: what the starting model itself says, once for every run that trains on the pairs."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from seva_ray.core.errors import FingerprintMismatch, InputError, UserError
from seva_ray.core.shards import shards_in
from seva_ray.core.storage import names_in
from seva_ray.dpo.batch import PreferenceCollator
from seva_ray.dpo.config import Train
from seva_ray.dpo.logps import response_logps
from seva_ray.dpo.policy import load_model
from seva_ray.pairs.files import lineage
from seva_ray.stages.pair import Pair, pair
from seva_ray.stages.prepare import shard_name
from seva_ray.stages.training.reference import reference, references, with_reference
from seva_ray.toy.model import build, save
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.models import Model, model_at
from seva_ray.vlm.views import Viewer
from tests.kept import read_pairs
from tests.small_run import SmallRun

CONFIG = Train(dtype="float32", num_workers=1, per_device_batch_size=4, global_batch_size=4)


def test_they_are_the_starting_models_own_in_either_layout(run: SmallRun, toy_model: str):
    pairs = read_pairs(run.pairs)
    assert len(pairs) > 10
    found = [
        with_reference(pairs, reference(config, run.store, run.model, run.pairs)).to_pylist()
        for config in (CONFIG, replace(CONFIG, shared_prefix=False))
    ]
    viewer = Viewer(encoder=Encoder(toy_model), image_root=None, max_pixels=10**6)
    model = load_model(toy_model, "float32")
    for packed, plain in zip(*found, strict=True):
        assert len(packed["ref_logps"]) == 1 + len(packed["rejected"])
        with torch.no_grad():
            (alone,) = response_logps(model, PreferenceCollator(viewer=viewer, packed=False)([plain])).tolist()
        assert packed["ref_logps"] == pytest.approx(alone, rel=1e-5, abs=1e-4)
        assert plain["ref_logps"] == pytest.approx(alone, rel=1e-5, abs=1e-4)


def test_every_loss_and_beta_shares_them_and_a_restart_computes_what_is_missing(run: SmallRun):
    logps = reference(CONFIG, run.store, run.model, run.pairs)
    files = {path: path.stat().st_mtime_ns for path in Path(logps.uri).glob("shard-*.parquet")}
    assert len(files) == run.prompts.counts["num_shards"] > 1
    assert reference(replace(CONFIG, beta=0.4, learning_rate=1.0), run.store, run.model, run.pairs) == logps
    Path(logps.path("record.json")).unlink()
    lost = Path(logps.path(shard_name(1)))
    content = lost.read_bytes()
    lost.unlink()
    again = reference(CONFIG, run.store, run.model, run.pairs)
    assert again.counts == logps.counts
    assert lost.read_bytes() == content
    assert {path for path in files if path.stat().st_mtime_ns != files[path]} == {lost}


def test_shards_without_pairs_are_not_computed(run: SmallRun):
    prompts, chosen, rejected = lineage(run.store, run.pairs)
    config = Pair(name="one", max_per_source={"toy": 1})
    pairs = pair(config, run.store, prompts, chosen, rejected)
    logps = reference(CONFIG, run.store, run.model, pairs)
    assert len(shards_in(logps.uri)) == 1 < prompts.counts["num_shards"]
    assert len(with_reference(read_pairs(pairs), logps)) == logps.counts["num_pairs"] == 1


def test_pairs_of_several_models_go_through_one_pool_each_read_by_its_own(
    run: SmallRun, toy_model: str, tmp_path: Path
):
    save(build(seed=9), tmp_path / "other")
    prompts, chosen, rejected = lineage(run.store, run.pairs)
    directories = [toy_model, str(tmp_path / "other")]
    work = [
        (model_at(directory), pair(Pair(name=name, max_per_source={"toy": 4}), run.store, prompts, chosen, rejected))
        for directory, name in zip(directories, ("first", "second"), strict=True)
    ]
    found = []
    for directory, (_, pairs), logps in zip(directories, work, references(CONFIG, run.store, work), strict=True):
        rows = with_reference(read_pairs(pairs), logps).to_pylist()
        viewer = Viewer(encoder=Encoder(directory), image_root=None, max_pixels=10**6)
        with torch.no_grad():
            batch = PreferenceCollator(viewer=viewer, packed=False)(rows)
            alone = response_logps(load_model(directory, "float32"), batch).tolist()
        assert logps.counts["num_pairs"] == len(rows) == 4
        for row, expected in zip(rows, alone, strict=True):
            assert row["ref_logps"] == pytest.approx(expected, rel=1e-5, abs=1e-4)
        found.append([row["ref_logps"] for row in rows])
    assert found[0] != found[1]


def test_a_model_that_is_not_scored_exactly_is_one_line_and_nothing_is_scored(
    run: SmallRun, toy_model: str, tmp_path: Path
):
    """Older processors of LLaVA-1.5 count one token too few for an image: all answers are there before that shows."""
    directory = Path(shutil.copytree(toy_model, tmp_path / "older"))
    settings = directory / "processor_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"num_additional_image_tokens": 0}))
    prompts, chosen, rejected = lineage(run.store, run.pairs)
    pairs = pair(Pair(name="older"), run.store, prompts, chosen, rejected)
    unchecked = Model(name="older", directory=str(directory), fingerprint="")  # `model_at` would refuse it
    for config in (CONFIG, replace(CONFIG, shared_prefix=False)):
        with pytest.raises(UserError) as caught:
            reference(config, run.store, unchecked, pairs)
        assert re.search(
            r"model \S+/older: model type 'llava' cannot be scored exactly: .* not match", str(caught.value)
        )
        assert not names_in(run.store.uri("logps/model/toy/older"))


def test_no_pair_is_one_line(run: SmallRun):
    _, chosen, _ = lineage(run.store, run.pairs)
    inputs = [run.prompts, chosen, chosen]
    empty = run.store.open("pairs/m/toy/control-repeat", config={}, inputs=inputs).finish({"verdicts": {"kept": 0}})
    with pytest.raises(InputError, match=r"pairs/m/toy/control-repeat: there is no pair in it to train on"):
        reference(CONFIG, run.store, run.model, empty)


def test_those_of_another_model_are_refused(run: SmallRun):
    reference(CONFIG, run.store, run.model, run.pairs)
    other = replace(run.model, fingerprint="another")
    with pytest.raises(FingerprintMismatch, match="model"):
        reference(CONFIG, run.store, other, run.pairs)
