"""Jobs: the command line, and errors as one line for what the user can mend, as a traceback for what is ours."""

import errno
import io
import os
import runpy
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, get_args

import pytest
import tyro
from ray.exceptions import RayTaskError
from ray.train import ControllerError, WorkerGroupError

from full import PRESETS
from seva_ray.core.errors import ConfigError, FingerprintMismatch, InputError, UserError
from seva_ray.dpo.config import Loss
from seva_ray.engines import AnyEngine, FakeEngine, TransformersEngine
from seva_ray.runtime import progress
from seva_ray.runtime.cli import users_line, with_choices, words_of
from seva_ray.runtime.fields import kebab
from seva_ray.runtime.short_help import short_help
from seva_ray.runtime.signals import kept
from seva_ray.sources import LlavaJson, ToyWorld
from seva_ray.stages.pair import Pair

COUNTS = {"ocr_vqa": 1, "textvqa": 2, "gqa": 3, "vg": 4, "coco": 5}
JOB = '''
from dataclasses import dataclass
from seva_ray.core.errors import ConfigError
from seva_ray.runtime.cli import run

@dataclass(frozen=True, kw_only=True)
class Job:
    size: int = 1
    """How many."""

    def __post_init__(self):
        if self.size < 0:
            raise ConfigError(f"size {self.size}: must be at least 0")

def main(config):
    print("ran with", config.size)
    if config.size == 7:
        raise KeyError("a defect")
    if config.size == 8:
        raise KeyboardInterrupt
    if config.size == 9:
        raise ConfigError("size 9: none left")
    if config.size == 10:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise RuntimeError("a library's own words for it")

run(main, {"small": Job(), "large": Job(size=5)}, "A job of a test.")
'''


@pytest.fixture(scope="module")
def script(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("jobs") / "job.py"
    path.write_text(JOB)
    return path


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def run_process(script: Path, *words: str) -> Done:
    """Run a job as a user does."""
    root = str(Path(__file__).parent.parent)
    command = [sys.executable, str(script), *words]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": root})
    return Done(done.returncode, done.stdout, done.stderr)


def run_job(script: Path, *words: str) -> Done:
    """The same in this process, which has loaded what a job needs: a process takes a second of CPU for that."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err), kept():
        patch.setattr(sys, "argv", [str(script), *words])
        patch.setattr(progress, "said_at", time.monotonic())  # otherwise a heartbeat may be due
        try:
            runpy.run_path(str(script), run_name="job_of_a_test")
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else 0
    return Done(code, out.getvalue(), err.getvalue())


# The command line


@pytest.mark.parametrize(
    ("words", "size"),
    [((), 1), (("small",), 1), (("large",), 5), (("--size", "3"), 3), (("large", "--size", "3"), 3)],
)
def test_a_preset_gives_the_defaults_and_the_first_is_the_default(script, words, size):
    done = run_job(script, *words)
    assert (done.returncode, done.stdout) == (0, f"ran with {size}\n")


def test_help_says_what_the_job_is_and_which_presets_there_are(script):
    done = run_job(script, "large", "--help")
    assert done.returncode == 0
    assert "A job of a test." in done.stdout
    assert "small, large; shown: large" in done.stdout
    assert "How many." in done.stdout
    assert "default: 5" in done.stdout


def test_an_unknown_preset_is_one_line_that_lists_the_known_ones(script):
    done = run_job(script, "huge", "--size", "3")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: huge: there is no preset of this name; the presets are small, large\n"


def test_an_unknown_option_or_a_wrong_type_is_refused(script):
    for words in (("--sise", "3"), ("--size", "three"), ("large", "small")):
        done = run_job(script, *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert words[-2].lstrip("-") in done.stderr or words[-1] in done.stderr
        assert "Traceback" not in done.stderr


def test_a_value_that_cannot_work_is_one_line_before_the_job_runs(script):
    done = run_job(script, "--size", "-3")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: size -3: must be at least 0\n"


def test_a_users_error_in_the_job_is_one_line(script):
    done = run_process(script, "--size", "9")
    assert (done.returncode, done.stderr) == (2, "error: size 9: none left\n")


def test_an_interrupt_is_one_line_also_if_a_library_raises_another_error_for_it(script):
    for done in (run_process(script, "--size", "8"), run_job(script, "--size", "10")):
        assert done.returncode == 130
        assert done.stderr == "interrupted: run the same command again to continue\n"


def test_a_defect_keeps_its_traceback(script):
    done = run_process(script, "--size", "7")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "KeyError: 'a defect'" in done.stderr


# What a user can mend


@pytest.mark.parametrize("kind", [UserError, ConfigError, InputError, FingerprintMismatch])
def test_every_users_error_is_its_own_line(kind):
    assert users_line(kind("beta -1: must be above 0")) == "beta -1: must be above 0"


def raised(function) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        function()
    return caught.value


def test_a_users_error_is_found_behind_what_libraries_wrapped_around_it():
    def explicitly():
        try:
            raise InputError("model x: no such directory")
        except InputError as error:
            raise RuntimeError("actor died") from error

    def on_the_way():
        try:
            raise InputError("model x: no such directory")
        except InputError:
            raise RuntimeError("cleaning up failed")  # noqa: B904

    def twice():
        try:
            explicitly()
        except RuntimeError as error:
            raise ValueError("job failed") from error

    for function in (explicitly, on_the_way, twice):
        assert users_line(raised(function)) == "model x: no such directory"


def in_a_worker(error: Exception) -> Exception:
    """The error as ray.get raises it."""
    return RayTaskError("work", "Traceback ...", error).as_instanceof_cause()


@pytest.mark.parametrize("error", [InputError("model x: gone"), ConfigError("beta -1: must be above 0")])
def test_a_users_error_of_a_remote_task_is_found(error):
    assert users_line(in_a_worker(error)) == str(error)


def test_a_users_error_of_a_training_worker_or_of_what_directs_them_is_found():
    failures = {0: RuntimeError("peer is gone"), 3: InputError("model x: no such directory")}
    assert users_line(WorkerGroupError("Training failed", failures)) == "model x: no such directory"
    assert users_line(ControllerError(InputError("train: no place"))) == "train: no place"
    full = OSError(errno.ENOSPC, "No space left on device", "/runs/policies/a/model")
    assert (
        users_line(WorkerGroupError("Training failed", {1: full})) == "/runs/policies/a/model: No space left on device"
    )


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_full_or_forbidden_disk_is_one_line(number):
    error = OSError(number, os.strerror(number), "/runs/a")
    assert users_line(error) == f"/runs/a: {os.strerror(number)}"
    assert users_line(in_a_worker(error)) == f"/runs/a: {os.strerror(number)}"
    assert users_line(OSError(number, os.strerror(number))) == f"storage: {os.strerror(number)}"


def test_a_defect_is_no_line():
    for error in (KeyError("x"), ValueError("x"), OSError(errno.EBADF, "Bad file descriptor"), AssertionError()):
        assert users_line(error) is None
        assert users_line(in_a_worker(error)) is None
    assert users_line(WorkerGroupError("Training failed", {0: RuntimeError("x")})) is None


def test_a_defect_that_replaced_a_users_error_on_purpose_is_a_defect():
    def replaced():
        try:
            raise InputError("row 3: no image")
        except InputError:
            raise AssertionError("rows are checked before") from None

    assert users_line(raised(replaced)) is None


def test_a_circle_of_causes_ends():
    one, other = RuntimeError("one"), RuntimeError("other")
    one.__cause__, other.__cause__ = other, one
    assert users_line(one) is None


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"name": "other name", "views": ("moco", "diffusion-500=2"), "controls": ()},
        {"source": LlavaJson(path="a b.json", image_root="images", seed=3)},
        {"source": LlavaJson(path="a", image_root="b", counts=COUNTS)},
        {"source": ToyWorld(num_images=5)},
        {"pair": Pair(max_per_source={"ocr_vqa": 4300, "textvqa": 6500}, keep_truncated=False)},
        {"train": replace(PRESETS["toy"].train, num_pairs=None, full=True, loss=Loss(name="ipo"), trackers=())},
        {"generate": replace(PRESETS["toy"].generate, engine=FakeEngine(num_words=7))},
    ],
)
def test_a_config_can_be_said_in_words_that_make_it_again(changed):
    default = PRESETS["toy"]
    config = replace(default, **changed)
    chosen, words = with_choices(default, words_of(default, config))
    assert tyro.cli(type(default), default=chosen, args=words) == config


def test_the_command_line_chooses_the_engine_which_then_has_its_own_defaults_and_options():
    toy = PRESETS["toy"]
    config, words = with_choices(toy, ["--name", "a", "--generate.engine", "transformers-engine"])
    assert (config.generate.engine, words) == (TransformersEngine(), ["--name", "a"])
    assert config.generate.decoding == toy.generate.decoding
    same, _ = with_choices(toy, ["--generate.engine=vllm-engine"])
    assert same == toy, "the engine that the preset has keeps the preset's settings"
    with pytest.raises(ConfigError, match=r"^--generate.engine sglang: must be one of vllm-engine, transformers-eng"):
        with_choices(toy, ["--generate.engine", "sglang"])
    help_ = short_help("python jobs/full.py", "", toy, ["generate.engine"])
    assert f"--generate.engine {{{','.join(kebab(kind.__name__) for kind in get_args(AnyEngine))}}}" in help_
    assert "--source {" not in help_


# What a job says first

WITH_ROOT = """
import sys, time
from dataclasses import dataclass
from seva_ray.runtime.cli import run

@dataclass(frozen=True, kw_only=True)
class Job:
    name: str = "a"
    root: str = "runs"

run(lambda config: print("ran"), {"small": Job(), "unnamed": Job(name="")}, "A job of a test.")
"""


def test_a_job_says_its_name_and_where_its_results_go_but_not_when_it_is_only_asked_about_itself(tmp_path):
    script = tmp_path / "job.py"
    script.write_text(WITH_ROOT)
    place = Path.cwd() / "runs"
    assert run_job(script).stderr == f"job a: root {place}\n"
    assert run_job(script, "--name", "b", "--root", "s3://bucket/runs").stderr == "job b: root s3://bucket/runs\n"
    assert run_job(script, "unnamed").stderr == f"job unnamed: root {place}\n"
    for words in (["--help"], ["--help-all"], ["--print-config"]):
        done = run_job(script, *words)
        assert (done.returncode, done.stderr) == (0, "")
        assert "ran" not in done.stdout
