"""A disk that fills while responses are written: one line says so, and with room made the job goes on."""

import gc
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.storage import names_in, read_table
from seva_ray.engines import FakeEngine
from seva_ray.engines.config import Generate
from seva_ray.runtime.cli import users_line
from seva_ray.sources import ToyWorld
from seva_ray.stages.generate import generate
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.vlm.models import Model
from tests.chaos.runs import shards, uninterrupted

VIEWS = ("clean", "diffusion-500")


def test_a_disk_that_fills_ends_the_job_in_one_line_and_room_lets_it_go_on_where_it_was(
    ray_cluster: None, model: Model, tiny_disk: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    config = Generate(engine=FakeEngine(), units_per_engine=1)
    elsewhere, store = Store(str(tmp_path / "elsewhere")), Store(str(tiny_disk))
    prompts = prepare(Prepare(shard_size=8), elsewhere, "toy", ToyWorld(num_images=20))
    expected = [uninterrupted(config, elsewhere, model, prompts, view) for view in VIEWS]
    work = [(prompts, view) for view in VIEWS]

    line = line_of_failure(config, store, model, work)
    assert line is not None
    place = store.uri(expected[0].name).removesuffix("/clean")
    assert line.startswith(place)
    assert line.endswith((".parquet: No space left on device", "recipe.json: No space left on device"))
    assert "Traceback" not in capfd.readouterr().err

    done = [shards(store.uri(artifact.name)) for artifact in expected]
    assert any(done)
    left = []
    for artifact, files in zip(expected, done, strict=True):
        written = names_in(store.uri(artifact.name)) - {"recipe.json"}
        assert written == files.keys(), "nothing is half-written or declared complete"
        assert files.items() < shards(artifact.uri).items()
        left += [artifact.path(name) for name in shards(artifact.uri) if name not in files]

    subprocess.run(["mount", "-o", "remount,size=4m", str(tiny_disk)], check=True)
    journal = tmp_path / "journal"
    config = replace(config, engine=FakeEngine(journal=str(journal)))
    finished = generate(config, store, model, work)
    assert [shards(artifact.uri) for artifact in finished] == [shards(artifact.uri) for artifact in expected]
    assert [artifact.counts for artifact in finished] == [artifact.counts for artifact in expected]
    served = sorted(line.split()[-1] for line in journal.read_text().splitlines())
    assert served == sorted(prompt_id for uri in left for prompt_id in read_table(uri)["prompt_id"].to_pylist())


def line_of_failure(config: Generate, store: Store, model: Model, work: list[tuple[Artifact, str]]) -> str | None:
    try:
        generate(config, store, model, work)
    except Exception as error:
        return users_line(error)
    finally:
        gc.collect()  # the error's frames hold the engines, and those their CPUs; a job would have ended
    raise AssertionError("the disk did not fill")
