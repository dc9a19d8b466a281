"""Two jobs that start together on one name, on a disk and in an object store: one has it, the other is told."""

import json
import multiprocessing
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import pytest
import s3fs

from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.contents import contents
from seva_ray.core.errors import FingerprintMismatch, UserError
from seva_ray.core.storage import read_bytes, read_table
from seva_ray.sources import Table
from seva_ray.stages.prepare import Prepare, prepare
from tests.s3_server import s3_bucket

NUM_QUESTIONS = {"A": 6, "B": 9}
SHARD_SIZE = 2
NUM_PAIRS = 100
LEAD_S = 0.05
"""Time from giving two processes their work to the moment at which they begin, in seconds."""
OFFSETS_S = (0.0, -0.001, 0.001, -0.003, 0.003)
"""Times by which the second process begins later, in seconds."""


def work(root: str, path: str, at: float) -> str:
    """A job that begins at that time; what it says."""
    while time.time() < at:
        pass
    try:
        prepare(Prepare(shard_size=SHARD_SIZE), Store(root), "p", Table(path=path, image_root=os.path.dirname(path)))
    except UserError as error:
        return str(error)
    return "ok"


@dataclass(frozen=True)
class Two:
    """Processes that work on one name at the same time."""

    processes: Sequence[ProcessPoolExecutor]
    folder: Path

    def prepare(self, root: str, names: str, offset_s: float = 0.0) -> list[str]:
        """What each of them says, when one prepares the first name's questions and the other the second's."""
        at = time.time() + LEAD_S
        begun = [
            process.submit(work, root, str(self.folder / f"{name}.jsonl"), at + delay_s)
            for process, name, delay_s in zip(self.processes, names, (0.0, offset_s), strict=True)
        ]
        return [said.result(timeout=120) for said in begun]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    folder = tmp_path_factory.mktemp("questions")
    for name, number in NUM_QUESTIONS.items():
        rows = ({"question": f"{name} {index}?", "image": "a.png"} for index in range(number))
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with s3_bucket("two-jobs"):  # before the processes, which inherit its address
        processes = [ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) for _ in range(2)]
        two = Two(processes, folder)
        two.prepare(str(folder / "first"), "AA")  # which also imports what is needed
        yield two
        for process in processes:
            process.shutdown()


@dataclass
class Held:
    """Holds a thread where it is about to create a file under its final name, until it may go on."""

    thread: int = 0
    arrived: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    def before(self, create: Callable[..., Any]) -> Callable[..., Any]:
        def held(*given: Any, **options: Any) -> Any:
            if threading.get_ident() == self.thread and not self.arrived.is_set():
                self.arrived.set()
                assert self.released.wait(60)
            return create(*given, **options)

        return held


@pytest.mark.parametrize("place", ["disk", "s3"])
@pytest.mark.parametrize("same", [False, True], ids=["two recipes", "one recipe"])
def test_a_job_that_another_one_overtakes_between_its_look_and_its_first_file_does_not_take_the_name(
    place: str, same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    held = Held()
    for name in ("link", "rename", "replace"):
        monkeypatch.setattr(os, name, held.before(getattr(os, name)))
    monkeypatch.setattr(s3fs.S3FileSystem, "pipe_file", held.before(s3fs.S3FileSystem.pipe_file))

    def begun(root: str, number: int) -> Artifact:
        held.thread = threading.get_ident() if number else held.thread
        return Store(root).open("prompts/p", config={"number": 0 if same else number}).begin()

    parent = s3_bucket("overtaken") if place == "s3" else nullcontext(str(tmp_path.parent))
    with parent as uri, ThreadPoolExecutor(1) as job:
        root = f"{uri}/{tmp_path.name}"
        late = job.submit(begun, root, 1)
        assert held.arrived.wait(60)
        early = begun(root, 0)
        held.released.set()
        if same:
            assert (late.result().ours, early.ours) == (False, True), "the first one may remove it again"
        else:
            with pytest.raises(FingerprintMismatch, match="number: 0 -> 1"):
                late.result()
        assert json.loads(read_bytes(early.path("recipe.json"))) == early.recipe


@pytest.fixture(params=["disk", "s3"])
def root(request: pytest.FixtureRequest, two: Two, tmp_path: Path) -> str:
    return str(tmp_path / "runs") if request.param == "disk" else f"s3://two-jobs/{tmp_path.name}"


@pytest.mark.slow
def test_of_two_recipes_one_is_made_whole_and_the_other_job_is_told(two: Two, root: str):
    winners = Counter[str]()
    for number in range(NUM_PAIRS):
        said = two.prepare(f"{root}/{number}", "AB", OFFSETS_S[number % len(OFFSETS_S)])
        winner = made_by(two, f"{root}/{number}")
        winners[winner] += 1
        assert said["AB".index(winner)] == "ok"
        assert said["BA".index(winner)].startswith("prompts/p: made by another recipe (config.contents: ")
    print(f"{NUM_PAIRS} pairs of starts, none mixed, made by {dict(winners)}")


@pytest.mark.slow
def test_two_jobs_of_one_recipe_both_go_on_and_make_it_once(two: Two, root: str):
    for number in range(5):
        assert two.prepare(f"{root}/{number}", "AA") == ["ok", "ok"]
        assert made_by(two, f"{root}/{number}") == "A"


def made_by(two: Two, root: str) -> str:
    """Which source the recipe, the record and all shards are of."""
    artifact = Store(root).find("prompts/p")
    filesystem, path = fsspec.core.url_to_fs(artifact.uri)
    names = sorted(name.rpartition("/")[2] for name in filesystem.find(path))
    shards = [name for name in names if name.startswith("shard")]
    assert names == ["recipe.json", "record.json", *shards]
    assert artifact.recipe == json.loads(read_bytes(artifact.path("recipe.json")))
    questions = [row for shard in shards for row in read_table(artifact.path(shard))["question"].to_pylist()]
    (name,) = {question[0] for question in questions}
    assert len(questions) == artifact.counts["num_prompts"] == NUM_QUESTIONS[name]
    assert len(shards) == artifact.counts["num_shards"]
    assert artifact.recipe["config"]["contents"] == contents(str(two.folder / f"{name}.jsonl"))
    return name
