"""Two and three jobs at once on one root, on a disk and on S3, until so many have started.

    python -m tests.chaos.together --starts 100                 the same command goes on where it was
    python -m tests.chaos.together --kind s3 --starts 50        those on an S3 server of its own

A job makes prompts, answers by the engine without a model in two generations, between which it keeps its engines, and
pairs, all under the same names. In a round two or three of them start within a moment on an empty root: of one recipe,
or of two. In every third round the first is killed with SIGKILL, and starts again. At the end of a round the root must
be, byte for byte, that of one job alone. Each job must have ended well, or with the line that the name is taken.
Without a kill each question was answered once in each view. Each round is a line in `<out>/<kind>.jsonl`.
"""

import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from seva_ray.core.artifacts import Store
from seva_ray.core.errors import UserError
from seva_ray.engines import FakeEngine
from seva_ray.engines.config import Generate
from seva_ray.private.ray import CORE_SETTINGS
from seva_ray.runtime.cli import quiet
from seva_ray.runtime.kept_engines import kept_engines
from seva_ray.sources import ToyWorld
from seva_ray.stages.check import check
from seva_ray.stages.generate import generate
from seva_ray.stages.pair import Pair, pair
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.vlm.models import model_at
from tests.chaos.endurance import REPOSITORY, given, results
from tests.chaos.machines import Machines
from tests.conftest import random_model
from tests.s3_server import s3_bucket

NUM_IMAGES = {"A": 8, "B": 9}
"""The recipes differ in the images of their source."""
VIEWS = ("clean", "diffusion-500", "moco")
TAKEN = ": made by another recipe ("
LATER_S = (0.0, 0.0, 0.02, 0.3, 2.0)
"""By how much a job may start after the first one, in seconds."""
PATIENCE_S = 240.0
PROCESSES = multiprocessing.get_context("forkserver")
"""Each job is a process of its own, forked from one that has imported what jobs need."""
PRELOADED = ["ray.data", "seva_ray.stages.generate", "seva_ray.stages.pair", "tests.chaos.endurance", "tests.s3_server"]
"""What that process imports. This module is not among it, because a process of a job runs it as its main module."""


def job(root: str, model: str, recipe: str, journal: str) -> None:
    """Prompts, answers and pairs of one recipe."""
    store = Store(root)
    prompts = prepare(Prepare(shard_size=8), store, "p", ToyWorld(num_images=NUM_IMAGES[recipe]))
    config, start = Generate(engine=FakeEngine(journal=journal, seconds_per_request=0.002)), model_at(model)
    with kept_engines():
        chosen, *rejected = generate(config, store, start, [(prompts, view) for view in VIEWS[:2]])
        rejected += generate(config, store, start, [(prompts, VIEWS[2])])
        pair(Pair(), store, prompts, chosen, rejected)


def job_in_process(root: str, model: str, recipe: str, journal: str, log: str) -> None:
    """A job in this process, which was started for it: it ends with 2 and a line as a job does."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    quiet()
    try:
        job(root, model, recipe, journal)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(2)


class Round:
    """Some jobs on one root."""

    def __init__(self, root: str, folder: Path, model: str):
        self.root, self.folder, self.model = root, folder, model
        self.journal = folder / "journal"

    def start(self, recipe: str, number: int) -> Any:
        about = (self.root, self.model, recipe, str(self.journal), str(self.folder / f"{number}.log"))
        process = PROCESSES.Process(target=job_in_process, args=about)
        process.start()
        return process

    def play(self, recipes: str, delays_s: Sequence[float], kill_after_s: float | None) -> dict[str, Any]:
        """Start a job of each recipe. Kill the first after that time, and start it again. Returns what they said."""
        jobs = []
        for number, (recipe, delay_s) in enumerate(zip(recipes, delays_s, strict=True)):
            time.sleep(delay_s)
            jobs.append(self.start(recipe, number))
        try:
            if kill_after_s is not None:
                time.sleep(kill_after_s)
                jobs[0].kill()
                jobs[0].join()
                jobs[0] = self.start(recipes[0], 0)
            for process in jobs:
                process.join(PATIENCE_S)
                assert process.exitcode is not None, f"it hangs: {self.folder}"
        finally:
            for process in jobs:
                process.kill()
        said = [(self.folder / f"{number}.log").read_text() for number in range(len(jobs))]
        return {"codes": [process.exitcode for process in jobs], "said": said}

    def answered(self) -> Counter[str]:
        """How often each question was answered."""
        lines = self.journal.read_text().splitlines() if self.journal.exists() else []
        return Counter(line.split()[2] for line in lines)


def faults(of: Round, recipes: str, killed: bool, said: Mapping[str, Any], alone: Mapping[str, Any]) -> list[str]:
    """What is wrong with the root after a round."""
    found, expected = results(of.root), {recipe: digests for recipe, (digests, _) in alone.items()}
    made = [recipe for recipe in set(recipes) if expected[recipe] == found]
    wrong = [] if made else [f"mixed or not whole: {sorted(found)}"]
    for number, (recipe, code) in enumerate(zip(recipes, said["codes"], strict=True)):
        last = (said["said"][number].splitlines() or [""])[-1]
        good = [recipe] == made if code == 0 else code == 2 and recipe not in made and TAKEN in last
        if not good:
            wrong.append(f"job {number} of {recipe}: exit {code}: {said['said'][number][-1500:]}")
    wrong += [f"{each.name}: {each.line or each.state}" for each in check(Store(of.root)) if each.state != "whole"]
    if made and not killed and of.answered() != alone[made[0]][1]:
        wrong.append(f"{of.answered().total()} answers in place of {alone[made[0]][1].total()}")
    return wrong


@contextmanager
def place(kind: str, out: Path) -> Iterator[str]:
    """Where the roots of the rounds lie."""
    if kind == "s3":
        with s3_bucket("together") as uri:
            yield uri
    else:
        yield str(out / "roots")


def play(kind: str, out: Path, starts: int, seconds: float) -> None:
    """Go on until so many jobs have started, or the time is over. Raises: AssertionError if a root is wrong."""
    out.mkdir(parents=True, exist_ok=True)
    journal, deadline = out / f"{kind}.jsonl", time.monotonic() + seconds
    shutil.rmtree(out / "roots", ignore_errors=True)
    model = random_model(Path(tempfile.mkdtemp(dir=out)) / "toy", seed=5)

    def lines() -> list[dict[str, Any]]:
        return [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []

    with place(kind, out) as roots, cluster() as address, tempfile.TemporaryDirectory(dir=out) as scratch:
        os.environ |= {"RAY_ADDRESS": address, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}

        def a_round(name: str) -> Round:
            folder = Path(scratch, name)
            folder.mkdir()
            return Round(f"{roots}/{name}", folder, model)

        alone = {}
        for recipe in NUM_IMAGES:
            of = a_round(f"alone-{recipe}")
            said = of.play(recipe, [0.0], None)
            assert said["codes"] == [0], said["said"]
            alone[recipe] = results(of.root), of.answered()
            assert set(alone[recipe][1].values()) == {len(VIEWS)}, alone[recipe][1]
        while time.monotonic() < deadline and sum(line["starts"] for line in lines()) < starts:
            number = len(lines())
            random = Random(f"{kind} {number}")
            recipes = random.choice(["AA", "AB", "BA", "AAA", "AAB", "ABA", "BAA"])
            killed = number % 3 == 2
            delays_s = [0.0, *(random.choice(LATER_S) for _ in recipes[1:])]
            of = a_round(str(number))
            said = of.play(recipes, delays_s, random.uniform(3.0, 12.0) if killed else None)
            wrong = faults(of, recipes, killed, said, alone)
            line = {"round": number, "starts": len(recipes), "recipes": recipes, "killed": killed, "wrong": wrong}
            with journal.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)
            assert not wrong, wrong


@contextmanager
def cluster() -> Iterator[str]:
    """The address of a cluster of two machines, which all jobs share."""
    with (
        tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as directory,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("RAY_TMPDIR", directory)
        for name, value in CORE_SETTINGS.items():
            patch.setenv(name, value)
        machines = Machines()
        try:
            yield machines.cluster.address
        finally:
            machines.cluster.shutdown()


def main() -> None:
    words = given(__doc__, "together", ("disk", "s3"), "starts", 100)
    play(words.kind, words.out, words.number, words.seconds)


if __name__ == "__main__":
    from tests.chaos import together  # under its own name, as the processes of the jobs import it

    together.PROCESSES.set_forkserver_preload(together.PRELOADED)
    together.main()
