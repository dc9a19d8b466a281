"""The probe: real Ray, the real stage, and an engine whose service time is set. That it is near the truth is measured
by bench-plan."""

from dataclasses import replace

import pytest

from seva_ray.core.artifacts import Store
from seva_ray.core.errors import FingerprintMismatch
from seva_ray.core.storage import read_table
from seva_ray.engines import FakeEngine
from seva_ray.engines.config import Generate
from seva_ray.sources import ToyWorld
from seva_ray.stages.pair import Pair
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.stages.probe import Probe, probe
from seva_ray.vlm.models import Model

MODEL = Model(name="fake", directory=".", fingerprint="")
VIEWS = ("clean", "diffusion-900")


def test_a_probe_answers_its_rows_in_every_view_and_touches_nothing_else(ray_cluster, tmp_path):
    store = Store(str(tmp_path))
    prompts = prepare(Prepare(shard_size=16), store, "toy", ToyWorld(num_images=8))
    generation = Generate(engine=FakeEngine(seconds_per_request=0.01), max_engines=3)
    asked = Probe(name="here", num_rows=20)
    made = probe(asked, generation, Pair(), store, MODEL, prompts, VIEWS)
    for kind in ("prompts", "responses/clean", "responses/diffusion-900"):
        rows = [
            read_table(made.path(kind, f"shard-00000{number}.parquet"))["prompt_id"].to_pylist() for number in (0, 1)
        ]
        assert [len(of_shard) for of_shard in rows] == [16, 4]
        assert rows[0] == read_table(prompts.path("shard-000000.parquet"))["prompt_id"].to_pylist()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".owners", "probes", "prompts"]
    assert not list((tmp_path / ".owners").iterdir()), "marks of work that is done"
    counts = made.counts
    assert counts["num_rows"] == 40
    assert 0 < counts["rows_per_s"] <= 100  # the engine serves no faster
    assert counts["start_s"] > 0
    for name in ("encode_rows_per_s", "read_files_per_s", "pair_rows_per_s"):
        assert counts[name] > 0
    assert counts["kept_share"] == 1  # noise changes every answer of the fake engine
    assert counts["prompt_bytes"] > counts["response_bytes"] > 0
    assert 0 < counts["pixel_bytes"] < 4 * 3 * 8 * 8 / 2  # an image's questions share its pixels in both views

    assert probe(asked, generation, Pair(), store, MODEL, prompts, VIEWS).record == made.record
    with pytest.raises(FingerprintMismatch, match="units_per_engine"):
        probe(asked, replace(generation, units_per_engine=3), Pair(), store, MODEL, prompts, VIEWS)
