"""An engine that computes nothing is given up: its units are made by another one, and no row fails."""

import re
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from seva_ray.core.artifacts import Store
from seva_ray.core.errors import UserError
from seva_ray.core.records import Response
from seva_ray.core.shards import shard_name
from seva_ray.core.storage import names_in, read_table
from seva_ray.engines import Request
from seva_ray.engines.config import Generate
from seva_ray.runtime.cli import users_line
from seva_ray.sources import ToyWorld
from seva_ray.stages import engine_pool, engine_watch
from seva_ray.stages.engine_watch import EngineSilent, WatchedGenerator
from seva_ray.stages.generate import generate
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.vlm.models import Model
from tests.silent_engine import SilentEngine

MODEL = Model(name="m", directory="/nowhere", fingerprint="m")


@pytest.mark.slow
def test_units_of_silent_engines_are_made_by_another_one_and_a_job_without_any_ends_in_a_line(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    started, journal = tmp_path / "started", tmp_path / "journal"
    started.mkdir()
    engine = SilentEngine(started=str(started), num_silent=2, journal=str(journal))
    config, store = Generate(engine=engine, silent_s=1.0), Store(str(tmp_path / "runs"))
    prompts = prepare(Prepare(shard_size=8), store, "toy", ToyWorld(num_images=1))
    monkeypatch.setattr(engine_pool, "MOST_POOLS", 1)
    with pytest.raises(UserError) as caught:
        generate(config, store, MODEL, [(prompts, "clean")])
    silence = r"an engine on \S+ has computed no token for 1 s, with 8 requests to answer"
    assert re.fullmatch(
        rf"generate: {silence}, and neither had the 0 before it; the oldest units without an answer are "
        rf"{prompts.path(shard_name(0))} in the view clean; no row has failed, and the same command goes on; "
        r"--generate\.silent-s sets the time",
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
    with pytest.raises(EngineSilent, match=r"has computed no token for 0\.5 s, with 0 requests to answer$"):
        watched(Slow(1, silent_s=2.0)).generate([])
    assert ended == [1]


def test_an_error_of_the_engine_is_its_own_error(ended: list[int]):
    with pytest.raises(TimeoutError, match="the engine's own"):
        watched(Slow(0)).generate([])
    assert not ended
