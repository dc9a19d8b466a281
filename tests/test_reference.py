"""Reference log-probabilities: what the starting model itself says, once for every run that trains on the pairs."""

import json
import re
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from seva_ray.core.artifacts import Artifact
from seva_ray.core.errors import FingerprintMismatch, InputError, UserError
from seva_ray.core.shards import shard_name, shards_in
from seva_ray.core.storage import names_in, read_table
from seva_ray.dpo.batch import PreferenceCollator
from seva_ray.dpo.config import Loss, Train
from seva_ray.dpo.logps import response_logps
from seva_ray.dpo.policy import load_model
from seva_ray.pairs.files import lineage
from seva_ray.stages.pair import Pair, pair
from seva_ray.stages.training.reference import Group, open_logps, score, scoring
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.models import Model
from seva_ray.vlm.views import Viewer
from tests.kept import read_pairs
from tests.small_run import SmallRun, scored

CONFIG = Train(dtype="float32", num_workers=1, per_device_batch_size=4, global_batch_size=4)


def with_logps(pairs: pa.Table, logps: Artifact) -> pa.Table:
    found = pa.concat_tables([read_table(logps.path(shard)) for shard in shards_in(logps.uri)])
    assert found["prompt_id"].equals(pairs["prompt_id"])
    return pairs.append_column("ref_logps", found["ref_logps"])


def test_they_are_the_starting_models_own_in_either_layout(run: SmallRun, toy_model: str):
    pairs = read_pairs(run.pairs)
    assert len(pairs) > 10
    found = [
        with_logps(pairs, scored(config, run.store, run.model, run.pairs)).to_pylist()
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


def test_pairs_about_one_image_are_scored_in_one_row_where_training_has_them_so(
    run: SmallRun, monkeypatch: pytest.MonkeyPatch
):
    rows: list[int] = []

    def counted(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        rows.append(len(batch["input_ids"]))
        return response_logps(model, batch)

    monkeypatch.setattr("seva_ray.dpo.logps.response_logps", counted)
    found, num_rows = [], []
    for config in (CONFIG, replace(CONFIG, group_by_image=True)):
        shutil.rmtree(open_logps(config, run.store, run.model, run.pairs).uri, ignore_errors=True)
        logps = open_logps(config, run.store, run.model, run.pairs)
        score(scoring(config, run.store, run.model, run.pairs, logps), config)
        found.append(with_logps(read_pairs(run.pairs), logps).to_pylist())
        shutil.rmtree(logps.uri)  # the other tests have those of pairs alone, to the last bit
        num_rows.append(sum(rows))
        rows.clear()
    pairs = read_pairs(run.pairs)
    assert num_rows[1] < num_rows[0] - len(pairs) // 4, "the trial of the layouts is in both"
    for alone, grouped in zip(*found, strict=True):
        assert grouped["ref_logps"] == pytest.approx(alone["ref_logps"], rel=1e-5, abs=1e-4)


def test_those_on_a_view_are_of_the_chosen_and_the_first_rejected_response_in_that_view(run: SmallRun, toy_model: str):
    config = replace(CONFIG, loss=Loss(image_weight=1.0))
    logps = open_logps(config, run.store, run.model, run.pairs, on_view=True)
    score(scoring(config, run.store, run.model, run.pairs, logps, on_view=True), config)
    pairs = with_logps(read_pairs(run.pairs), logps).to_pylist()
    viewer = Viewer(encoder=Encoder(toy_model), image_root=None, max_pixels=10**6)
    model = load_model(toy_model, "float32")
    for item in pairs[:6]:
        row = viewer.row(item, item["rejected"][0]["view"])
        expected = []
        for answer in (item["chosen_token_ids"], item["rejected"][0]["token_ids"]):
            ids = torch.tensor([[*row.ids, *answer]])
            with torch.no_grad():
                logits = model(input_ids=ids, pixel_values=torch.from_numpy(row.features["pixel_values"])).logits[0]
            of_answer = logits[len(row.ids) - 1 : -1].log_softmax(-1)
            expected.append(float(of_answer[torch.arange(len(answer)), torch.tensor(answer)].sum()))
        assert item["ref_logps"] == pytest.approx(expected, rel=1e-5, abs=1e-4)
    other = replace(CONFIG, loss=Loss(symmetric_weight=0.5), beta=0.3)
    shared = open_logps(other, run.store, run.model, run.pairs, on_view=True)
    assert shared.complete, "every loss that reads this view shares them"
    assert open_logps(config, run.store, run.model, run.pairs).name != logps.name


def test_image_terms_are_refused_if_the_rejected_answers_are_not_about_an_augmented_view(run: SmallRun):
    config = replace(CONFIG, loss=Loss(image_weight=1.0))
    logps = open_logps(config, run.store, run.model, run.pairs, on_view=True)
    counts = {**run.pairs.counts, "views": {"sampled-0.7": {}}}
    sampled = replace(run.pairs, record={**(run.pairs.record or {}), "counts": counts})
    with pytest.raises(InputError, match=r"rejected answers of sampled-0.7 are not .*--train.loss.image-view names"):
        scoring(config, run.store, run.model, sampled, logps, on_view=True)
    named = replace(config, loss=Loss(image_weight=1.0, image_view="moco"))
    scoring(named, run.store, run.model, sampled, logps, on_view=True)


def test_every_loss_and_beta_shares_them_and_a_restart_computes_what_is_missing(run: SmallRun):
    logps = scored(CONFIG, run.store, run.model, run.pairs)
    files = {path: path.stat().st_mtime_ns for path in Path(logps.uri).glob("shard-*.parquet")}
    assert len(files) == run.prompts.counts["num_shards"] > 1
    assert scored(replace(CONFIG, beta=0.4, learning_rate=1.0), run.store, run.model, run.pairs) == logps
    Path(logps.path("record.json")).unlink()
    lost = Path(logps.path(shard_name(1)))
    content = lost.read_bytes()
    lost.unlink()
    again = scored(CONFIG, run.store, run.model, run.pairs)
    assert again.counts == logps.counts
    assert lost.read_bytes() == content
    assert {path for path in files if path.stat().st_mtime_ns != files[path]} == {lost}


def test_shards_without_pairs_are_not_computed(run: SmallRun):
    prompts, chosen, rejected = lineage(run.store, run.pairs)
    config = Pair(name="one", max_per_source={"toy": 1})
    pairs = pair(config, run.store, prompts, chosen, rejected)
    logps = scored(CONFIG, run.store, run.model, pairs)
    assert len(shards_in(logps.uri)) == 1 < prompts.counts["num_shards"]
    assert len(with_logps(read_pairs(pairs), logps)) == logps.counts["num_pairs"] == 1


def test_two_workers_score_a_share_each_in_the_layout_that_the_first_has_tried(run: SmallRun):
    prompts, chosen, rejected = lineage(run.store, run.pairs)
    pairs = pair(Pair(name="shared"), run.store, prompts, chosen, rejected)
    alone = scored(CONFIG, run.store, run.model, pairs)
    files = {shard: read_table(alone.path(shard)) for shard in shards_in(alone.uri)}
    shutil.rmtree(alone.uri)
    given = scoring(CONFIG, run.store, run.model, pairs, open_logps(CONFIG, run.store, run.model, pairs))
    assert list(given.missing) == list(files)
    meeting, lines, first = threading.Barrier(2), list[str](), dict[int, Any]()

    def agreed(rank: int) -> Callable[[Any], Any]:
        def wait(value: Any) -> Any:
            meeting.wait(60)
            if rank == 0:
                first[0] = value
            meeting.wait(60)
            return first[0]

        return wait

    with ThreadPoolExecutor(2) as workers:
        groups = [Group(rank=rank, size=2, agreed=agreed(rank), say=lines.append) for rank in (0, 1)]
        list(workers.map(lambda group: score(given, CONFIG, group), groups))
    for shard, table in files.items():
        for row, before in zip(read_table(alone.path(shard)).to_pylist(), table.to_pylist(), strict=True):
            assert row == before | {"ref_logps": pytest.approx(before["ref_logps"], rel=1e-5)}
    again = open_logps(CONFIG, run.store, run.model, pairs)
    assert (again.counts, given.is_packed) == (alone.counts, True)
    assert lines[-1] == f"reference: {(len(files) + 1) // 2}/{(len(files) + 1) // 2} shards of worker 0"
    written = {path: path.stat().st_mtime_ns for path in Path(alone.uri).iterdir()}
    score(given, CONFIG)  # as a group does that starts again
    assert {path: path.stat().st_mtime_ns for path in Path(alone.uri).iterdir()} == written
    lost = Path(alone.path(next(iter(files))))
    for path in (lost, Path(alone.path("record.json"))):  # as if the group had been killed before them
        path.unlink()
    score(given, CONFIG)
    now = {path for path in Path(alone.uri).iterdir() if path.stat().st_mtime_ns != written[path]}
    assert now == {lost, Path(alone.path("record.json"))}


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
            scored(config, run.store, unchecked, pairs)
        assert re.search(
            r"model \S+/older: model type 'llava' cannot be scored exactly: .* not match", str(caught.value)
        )
        assert not names_in(run.store.uri("logps/model/toy/older"))


def test_no_pair_is_one_line(run: SmallRun):
    _, chosen, _ = lineage(run.store, run.pairs)
    inputs = [run.prompts, chosen, chosen]
    empty = run.store.open("pairs/m/toy/control-repeat", config={}, inputs=inputs).finish({"verdicts": {"kept": 0}})
    with pytest.raises(InputError, match=r"pairs/m/toy/control-repeat: there is no pair in it to train on"):
        scored(CONFIG, run.store, run.model, empty)


def test_those_of_another_model_are_refused(run: SmallRun):
    scored(CONFIG, run.store, run.model, run.pairs)
    other = replace(run.model, fingerprint="another")
    with pytest.raises(FingerprintMismatch, match="model"):
        scored(CONFIG, run.store, other, run.pairs)
