"""An engine that computes nothing is given up: its units are made by another one, and no row fails."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray.exceptions import RayTaskError

from seva_ray.core.artifacts import Store
from seva_ray.core.errors import UserError
from seva_ray.core.records import Response
from seva_ray.core.shards import shard_name
from seva_ray.core.storage import names_in, read_table
from seva_ray.engines import Request
from seva_ray.engines.config import Generate
from seva_ray.runtime.cli import users_line
from seva_ray.sources import ToyWorld
from seva_ray.stages import engine_pool, engine_watch, shard_pool
from seva_ray.stages.engine_watch import WatchedGenerator, WorkerSilent, loaded
from seva_ray.stages.generate import generate
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.stages.shard_pool import ShardWorker
from seva_ray.vlm.models import Model
from tests.silent_engine import SilentEngine

MODEL = Model(name="m", directory="/nowhere", fingerprint="m")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("at_load", "silence"),
    [
        (False, r"an engine on \S+ has computed no token for 3 s, with 8 requests to answer"),
        (True, r"an engine for /nowhere on \S+ has not loaded after 3 s"),
    ],
)
def test_units_of_silent_engines_are_made_by_another_one_and_a_job_without_any_ends_in_a_line(
    at_load: bool,
    silence: str,
    ray_cluster: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    started, journal = tmp_path / "started", tmp_path / "journal"
    started.mkdir()
    engine = SilentEngine(started=str(started), num_silent=2, at_load=at_load, journal=str(journal))
    config, store = Generate(engine=engine, silent_s=3.0, load_s=3.0), Store(str(tmp_path / "runs"))
    prompts = prepare(Prepare(shard_size=8), store, "toy", ToyWorld(num_images=1))
    monkeypatch.setattr(engine_pool, "MOST_POOLS", 1)
    with pytest.raises(UserError) as caught:
        generate(config, store, MODEL, [(prompts, "clean")])
    assert re.fullmatch(
        rf"generate: {silence}, and neither had the 0 before it; the oldest units without an answer are "
        rf"{prompts.path(shard_name(0))} in the view clean; no row has failed, and the same command goes on; "
        r"--generate\.silent-s and --generate\.load-s set the times",
        users_line(caught.value) or "",
    )
    assert not names_in(store.uri("responses/m/toy/clean")), "nothing was committed"
    monkeypatch.undo()
    capsys.readouterr()
    (made,) = generate(config, store, MODEL, [(prompts, "clean")])
    assert re.search(rf"^generate: {silence}; new engines make the rest$", capsys.readouterr().err, re.MULTILINE)
    assert "num_error" not in made.counts
    asked = read_table(prompts.path(shard_name(0)))["prompt_id"].to_pylist()
    assert sorted(line.split()[2] for line in journal.read_text().splitlines()) == sorted(asked), "each once"
    silent = sorted(started.iterdir(), key=lambda file: file.stat().st_mtime_ns)[:2]
    deadline = time.monotonic() + engine_watch.ENDS_AFTER_S + 5
    while any(psutil.pid_exists(int(file.name)) for file in silent):
        assert time.monotonic() < deadline, "a silent engine keeps its memory"
        time.sleep(0.2)


class Slow:
    """Answers after so many tokens, each of which takes so long; computes nothing for `silent_s` before that."""

    def __init__(self, num_tokens: int, token_s: float = 0.1, silent_s: float = 0.0):
        self.num_tokens, self.token_s, self.silent_s = num_tokens, token_s, silent_s
        self.computed_at = time.monotonic() - 100  # it was idle

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        time.sleep(self.silent_s)
        for _ in range(self.num_tokens):
            time.sleep(self.token_s)
            self.computed_at = time.monotonic()
        if not self.num_tokens:
            raise TimeoutError("the engine's own")
        return [Response(prompt_id="a")]


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Calls that would end this process."""
    calls: list[int] = []
    monkeypatch.setattr(engine_watch, "end_soon", lambda: calls.append(1))
    return calls


def watched(engine: Slow) -> WatchedGenerator:
    return WatchedGenerator(engine, silent_s=0.5)  # type: ignore[arg-type]


def test_an_engine_may_take_as_long_as_it_likes_if_it_computes_tokens(ended: list[int]):
    assert watched(Slow(10)).generate([]) == [Response(prompt_id="a")]
    assert not ended


def test_an_engine_that_was_idle_for_long_is_not_silent_at_its_next_request(ended: list[int]):
    assert watched(Slow(1, silent_s=0.2)).generate([]) == [Response(prompt_id="a")]
    assert not ended


def test_an_engine_without_a_token_is_silent_and_its_process_ends(ended: list[int]):
    with pytest.raises(WorkerSilent, match=r"has computed no token for 0\.5 s, with 0 requests to answer$"):
        watched(Slow(1, silent_s=2.0)).generate([])
    assert ended == [1]


def test_a_model_that_does_not_load_in_time_is_given_up_and_one_that_loads_is_returned(ended: list[int]):
    assert loaded(lambda: 7, 5.0, "an engine for /m") == 7
    with pytest.raises(WorkerSilent, match=r"^an engine for /m on \S+ has not loaded after 0\.2 s$"):
        loaded(lambda: time.sleep(1.0), 0.2, "an engine for /m")
    assert ended == [1]


class Batches:
    """A worker of a stage that finishes a batch every 0.2 s, and then none for `silent_s` seconds."""

    computed_at = 0.0

    def __init__(self, num_batches: int, silent_s: float):
        self.num_batches, self.silent_s = num_batches, silent_s

    def load(self) -> "Batches":
        return self

    def commit(self, shard: str) -> int:
        for _ in range(self.num_batches):
            time.sleep(0.2)
            self.computed_at = time.monotonic()
        time.sleep(self.silent_s)
        return self.num_batches


def test_a_worker_may_take_long_for_a_shard_if_it_finishes_batches_and_is_given_up_if_it_does_not(ended: list[int]):
    made = ShardWorker(Batches(5, 0.0), "regenerate", (5.0, 0.5))({"shard": ["shard-0"]})  # type: ignore[arg-type]
    assert made == {"shard": ["shard-0"], "num_rows": [5]}
    assert not ended
    worker = ShardWorker(Batches(1, 2.0), "regenerate", (5.0, 0.5))  # type: ignore[arg-type]
    line = r"^a worker of regenerate on \S+ has finished no batch for 0\.5 s, in the shard shard-1$"
    with pytest.raises(WorkerSilent, match=line):
        worker({"shard": ["shard-1"]})
    assert ended == [1]


def test_shards_of_a_silent_worker_are_done_by_new_ones_and_then_the_stage_ends_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    given: list[list[str]] = []

    def pool(work: object, shards: list[str], *rest: object) -> Iterator[dict[str, object]]:
        given.append(list(shards))
        yield {"shard": shards[0], "num_rows": 1}
        if len(given) <= num_silent:
            raise RayTaskError("commit", "traceback", WorkerSilent("it is silent"))
        yield from ({"shard": shard, "num_rows": 1} for shard in shards[1:])

    monkeypatch.setattr(shard_pool, "pool", pool)
    num_silent = 2
    asked: Any = (None, list("abcde"), {}, 1, "contrast", (1.0, 1.0))
    assert [row["shard"] for row in shard_pool.committed(*asked)] == list("abcde")
    assert given == [list("abcde"), list("bcde"), list("cde")]
    assert capsys.readouterr().err.splitlines() == ["contrast: it is silent; new workers do the rest"] * 2
    num_silent = 9
    given.clear()
    with pytest.raises(UserError, match=r"^contrast: it is silent, and neither had the 2 before it; .* is d; no row"):
        list(shard_pool.committed(*asked))


def test_a_training_worker_that_finishes_no_batch_ends_and_says_so(tmp_path: Path):
    program = """
import time
from seva_ray.stages.training.silence import ends_if_silent
began, last = time.monotonic(), []
with ends_if_silent(1.0, lambda: last[-1] if last else 0.0, lambda line: print(line, flush=True)):
    for _ in range(8):
        time.sleep(0.25)
        last.append(time.monotonic())
with ends_if_silent(0.2, lambda: 0.0, print):
    pass
time.sleep(0.5)
print("after 8 batches", flush=True)
with ends_if_silent(1.0, lambda: last[-1], lambda line: print(line, flush=True)):
    time.sleep(60)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert done.returncode == 1, done.stderr
    first, second = done.stdout.splitlines()
    assert first == "after 8 batches"
    assert re.fullmatch(
        r"train: a worker on \S+ has finished no batch for 1 s, and is ended; --train\.silent-s sets the time", second
    )


def test_an_error_of_the_engine_is_its_own_error(ended: list[int]):
    with pytest.raises(TimeoutError, match="the engine's own"):
        watched(Slow(0)).generate([])
    assert not ended
