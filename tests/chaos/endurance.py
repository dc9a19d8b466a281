"""The long form of chaos: whole main jobs and studies, killed at random moments until so many kills have been made.

    python -m tests.chaos.endurance --kills 200                              hours; the same command goes on
    python -m tests.chaos.endurance --kind s3 --kills 40 --seconds 280       a piece of it

In a round one job makes everything from an empty root. Its driver, its engines, its encoding tasks and its training
workers are killed with SIGKILL at moments drawn from a seed, and a driver that has ended starts again. At the end the
results must equal those of a job that was left in peace, byte for byte. Each kill and each round is a line in
`<out>/<kind>.jsonl`, by which the next piece goes on. Kinds: `disk`; `s3`, whose server fails at random and is away for
a minute in each round, and which is begun anew by each piece; `study`.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import fsspec
import psutil

from seva_ray.core.contents import contents
from tests.chaos.machines import ENCODING_TASK, ENGINE_ACTOR, TRAINING_WORKER
from tests.conftest import random_model
from tests.s3_server import Faults, faulty_bucket

REPOSITORY = Path(__file__).parents[2]
VICTIMS = {"driver": 3, ENGINE_ACTOR: 3, ENCODING_TASK: 2, TRAINING_WORKER: 3}
"""How often each is chosen; only those that run are."""
QUIET_S = (1.0, 25.0)
"""Shortest and longest time between two kills, in seconds, on a machine on which a job's Ray starts in START_S. On a
slower or busy machine they are longer; otherwise every kill would come while the job starts."""
START_S = 6.0
ENDS_WITHIN_S = 30.0
"""Within this time after its driver nothing of a job runs any more. It is 10 s on a machine that is not loaded."""
AGENTS = {"ray::RuntimeEnvAgent", "ray::DashboardAgent"}
"""Ray's own processes that stay for a while if their cluster dies while it starts. They hold nothing; the journal names
them."""
MOST_KILLS = 25
"""Kills in one round of a piece; then the job is left in peace to its end."""
PATIENCE_S = 900.0
"""A job that has not ended after this long in peace hangs."""
RESULTS = ("responses/", "pairs/", "logps/", "policies/", "scores/")
"""What is compared, besides the tables of a study."""
CHANGING = ("record.json", "recipe.json", "/run/", "/tensorboard/", "/tune/", "log.json", ".owners", "num_workers.txt")
"""Files with times, places and curves in them."""


def command(kind: str, root: str, model: str) -> list[str]:
    small = ["--generate.engine", "transformers-engine", "--generate.decoding.max-new-tokens", "16"]
    small += ["--train.save-steps", "2", "--train.max-failures", "8", "--train.num-workers", "1"]
    small += ["--train.global-batch-size", "8", "--train.per-device-batch-size", "8", "--prepare.shard-size", "16"]
    small += ["--benchmarks.toy-images", "4", "--storage.wait-s", "300", "--root", root]
    source = ["source:toy-world", "--source.num-images", "30"]
    if kind == "study":
        words = ["sweep.py", "--name", "study", "--prompts", "toy", "--models", model, "--seeds", "0"]
        words += ["--space.views", "diffusion-900", "--space.betas", "0.1", "0.3", "--space.swapped", "--space.curve"]
        words += ["--space.curve-views", "--no-test-time", "--train.num-pairs", "48"]
    else:
        words = ["full.py", "--model", model, "--views", "diffusion-900", "--controls", "--train.num-repeats", "2"]
    return [sys.executable, str(REPOSITORY / "jobs" / words[0]), *words[1:], *small, *source]


def results(root: str) -> dict[str, str]:
    """A digest of each file with results, by its name under the root."""
    filesystem, path = fsspec.core.url_to_fs(root, use_listings_cache=False)
    start = len(path.rstrip("/")) + 1
    names = [name[start:] for name in filesystem.find(path)]
    kept = [
        name
        for name in names
        if name.startswith(RESULTS) and not name.endswith(".part") and not any(part in name for part in CHANGING)
    ]
    return {name: contents(f"{root}/{name}") for name in kept}


class Job:
    """One job, started as often as it takes."""

    def __init__(self, words: list[str], log: Path):
        self.words, self.log, self.num_starts = words, log, 0
        self.process: psutil.Popen | None = None

    def start(self) -> None:
        self.num_starts += 1
        kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        with self.log.open("ab") as log:
            self.process = psutil.Popen(
                self.words,
                env=kept | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def ended(self) -> int | None:
        return None if self.process is None else self.process.poll()

    def parts(self) -> list[psutil.Process]:
        """All that the job has started and that still runs."""
        assert self.process is not None
        with suppress(psutil.Error):
            return self.process.children(recursive=True)
        return []

    def has_cluster(self) -> bool:
        """Whether its Ray runs."""
        for part in self.parts():
            with suppress(psutil.Error):
                if part.name() == "raylet":
                    return True
        return False

    def victims(self) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {"driver": [self.process]}
        for part in self.parts():
            with suppress(psutil.Error, IndexError):
                for title in VICTIMS:
                    if part.cmdline()[0].startswith(title):
                        found.setdefault(title, []).append(part)
        return found

    def kill(self, random: Random) -> dict[str, Any]:
        """Kill one of its processes. Returns what was killed, and how long the rest of a driver took to end."""
        there = self.victims()
        title = random.choices(list(there), [VICTIMS[name] for name in there])[0]
        rest = self.parts()
        with suppress(psutil.NoSuchProcess):
            random.choice(there[title]).kill()
        if title != "driver":
            return {"victim": title.removeprefix("ray::")}
        assert self.process is not None
        self.process.wait()
        began = time.monotonic()
        _, alive = psutil.wait_procs(rest, timeout=ENDS_WITHIN_S)
        return {"victim": title, "rest_s": round(time.monotonic() - began, 1), "left": [named(part) for part in alive]}

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            rest = self.parts()
            self.process.kill()
            self.process.wait()
            psutil.wait_procs(rest, timeout=ENDS_WITHIN_S)


def named(process: psutil.Process) -> str:
    """The beginning of its command, by which a journal tells what it was."""
    with suppress(psutil.Error):
        return " ".join(process.cmdline()).strip()[:200]
    return "ended"


@contextmanager
def place(kind: str, out: Path) -> Iterator[tuple[str, Faults | None]]:
    """Where the rounds keep their results, and what makes its server fail."""
    if kind != "s3":
        yield str(out / kind), None
        return
    with faulty_bucket("endurance") as (uri, faults):
        yield uri, faults


def is_fine(text: str) -> bool:
    return "Traceback (most recent call last)" not in text and "*** SIG" not in text


def play(kind: str, out: Path, kills: int, seconds: float) -> None:
    """Go on until there are so many kills, or until the time is over. Raises: AssertionError if results differ."""
    out.mkdir(parents=True, exist_ok=True)
    journal, deadline = out / f"{kind}.jsonl", time.monotonic() + seconds
    if not (out / "start" / "config.json").exists():
        random_model(out / "start", seed=5)
    model = str(out / "start")

    def note(**line: Any) -> None:
        with journal.open("a") as file:
            file.write(json.dumps({"at": round(time.time(), 1), **line}) + "\n")
        print(json.dumps(line), flush=True)

    def lines() -> list[dict[str, Any]]:
        return [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []

    with place(kind, out) as (root, faults):
        while time.monotonic() < deadline and sum("victim" in line for line in lines()) < kills:
            number = sum("round" in line for line in lines())
            piece = f"-{int(time.time())}" if kind == "s3" else ""
            here = f"{root}/{number}{piece}"
            job = Job(command(kind, here, model), out / f"{kind}-{number}{piece}.log")
            random = Random(f"{kind} {number} {len(lines())}")
            if faults:
                faults.disturb(random, away_at=time.monotonic() + 30, away_s=60.0)
            try:
                ended = endure(job, random, deadline, note)
            finally:
                job.end()
                if faults:
                    faults.rest()
            text, expected = job.log.read_text(), in_peace(kind, out, model, deadline) if ended else None
            if expected is None:
                note(paused=number, starts=job.num_starts, fine=is_fine(text))
                continue
            found = results(here)
            differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
            note(round=number, starts=job.num_starts, files=len(found), differing=differing, fine=is_fine(text))
            assert not differing, differing
            assert is_fine(text), job.log


def in_peace(kind: str, out: Path, model: str, deadline: float) -> dict[str, str] | None:
    """The results of a job that is left in peace, which is run once; None if the time is over before its end."""
    root = out / ("study-in-peace" if kind == "study" else "in-peace")
    if not (root / "whole").exists():
        job = Job(command(kind, str(root), model), root.with_suffix(".log"))
        job.start()
        try:
            if waited(job, deadline) is None:
                return None
        finally:
            job.end()
        assert job.ended() == 0, job.log.read_text()[-3000:]
        (root / "whole").touch()
    found = results(str(root))
    assert found, "the job has results"
    return found


def waited(job: Job, deadline: float) -> int | None:
    while job.ended() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    return job.ended()


def endure(job: Job, random: Random, deadline: float, note: Any) -> bool:
    """Run the job with kills until it has ended well (True) or the time is over (False)."""
    job.start()
    num_kills = 0
    while time.monotonic() < deadline:
        quiet_s = random.uniform(*QUIET_S) if num_kills < MOST_KILLS else PATIENCE_S
        began = time.monotonic()
        while job.ended() is None and not job.has_cluster() and time.monotonic() < deadline:
            time.sleep(0.5)  # to be killed while it imports its libraries tells nothing
        quiet_s *= max(1.0, (time.monotonic() - began) / START_S)
        ended = waited(job, min(deadline, time.monotonic() + quiet_s))
        if ended == 0:
            return True
        if ended is not None:
            assert ended == 2, f"exit {ended}: {job.log.read_text()[-3000:]}"
            note(exit=ended, line=job.log.read_text().splitlines()[-1])
            job.start()
        elif time.monotonic() < deadline:
            assert num_kills < MOST_KILLS, "it hangs"
            killed = job.kill(random)
            num_kills += 1
            note(**killed)
            assert set(killed.get("left", [])) <= {*AGENTS, "ended"}, killed
            if killed["victim"] == "driver":
                job.start()
    return False


def given(about: str | None, folder: str, kinds: Sequence[str], counted: str, number: int) -> argparse.Namespace:
    """The command line of a program that goes on until it has `counted` so often, or until its time is over."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=kinds, default=kinds[0])
    parser.add_argument(f"--{counted}", type=int, default=number, dest="number")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--out", type=Path, default=REPOSITORY / "build" / folder)
    return parser.parse_args()


def main() -> None:
    words = given(__doc__, "chaos", ("disk", "s3", "study"), "kills", 200)
    play(words.kind, words.out, words.number, words.seconds)


if __name__ == "__main__":
    main()
