"""The console script `seva`: the same jobs by other words, in a checkout and in a wheel."""

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from seva_ray.runtime import cli, console
from tests.environment import pythonpath

ROOT = Path(__file__).parent.parent
JOBS = console.jobs_in(ROOT / "jobs")


def started(monkeypatch: pytest.MonkeyPatch, *words: str) -> list[list[str]]:
    """What the script runs in its place."""
    begun: list[list[str]] = []
    monkeypatch.setattr(sys, "argv", ["seva", *words])
    monkeypatch.setattr(os, "execv", lambda path, words: begun.append([path, *words]))
    monkeypatch.delenv(console.COMMAND, raising=False)
    begin: Callable[[], None] = console.main  # it never comes back, except here
    begin()
    return begun


def test_a_word_is_a_job_and_the_other_words_are_its_own(monkeypatch: pytest.MonkeyPatch):
    (begun,) = started(monkeypatch, "import-pairs", "toy", "--name", "x")
    assert begun == [sys.executable, sys.executable, str(ROOT / "jobs" / "import_pairs.py"), "toy", "--name", "x"]
    assert os.environ.pop(console.COMMAND) == "seva import-pairs"


def test_every_job_is_listed_with_its_first_line_and_what_jobs_share_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["seva"])
    with pytest.raises(SystemExit) as exit_:
        console.main()
    assert exit_.value.code == 0
    shown = capsys.readouterr().out.splitlines()
    assert set(JOBS) == {file.stem for file in (ROOT / "jobs").glob("*.py")} - {
        "presets",
        "experiments",
        "python_check",
    }
    assert any(line.split()[:1] == ["full"] and "from prompts and a starting model" in line for line in shown)
    assert len(shown) == len(JOBS) + 5


def test_an_unknown_job_is_one_line_with_the_jobs_that_there_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["seva", "fulll"])
    with pytest.raises(SystemExit) as exit_:
        console.main()
    assert exit_.value.code == 2
    assert capsys.readouterr().err.startswith("error: fulll: there is no such job; the jobs are browse, check, ")


def test_in_an_installation_the_jobs_are_found_beside_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(console.seva_ray, "__file__", str(tmp_path / "seva_ray" / "__init__.py"))
    assert console.job_folder() == tmp_path / "jobs"
    (tmp_path / "seva_ray_jobs").mkdir()
    assert console.job_folder() == tmp_path / "seva_ray_jobs"


def test_a_wheel_has_every_package_and_the_jobs():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {".".join(file.parent.relative_to(ROOT).parts) for file in ROOT.glob("seva_ray/**/__init__.py")}
    assert set(settings["packages"]) == found | {"seva_ray_jobs"}
    assert settings["package-dir"] == {"seva_ray_jobs": "jobs"}


def test_the_help_names_the_command_that_asked_for_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    import prepare as job

    for command, usage in (
        ("seva prepare", "usage: seva prepare [PRESET]"),
        ("", "usage: python jobs/prepare.py [PRE"),
    ):
        monkeypatch.setenv(console.COMMAND, command)
        monkeypatch.setattr(sys, "argv", ["jobs/prepare.py", "--help"])
        with pytest.raises(SystemExit):
            cli.run(job.main, job.PRESETS, "About the job.")
        assert capsys.readouterr().out.startswith(usage)


def test_in_bash_jobs_presets_and_options_are_completed(tmp_path: Path):
    seva = tmp_path / "seva"
    seva.write_text(f"#!/bin/sh\nexec {sys.executable} -c 'from seva_ray.runtime.console import main; main()' \"$@\"\n")
    seva.chmod(0o755)
    typed = (
        ("fu",),
        ("full", "llava-13b-d"),
        ("full", "llava-7b", "--train.be"),
        ("full", "--until", "pa"),
        ("x", "-"),
    )
    lines = ['eval "$(seva completion)"', "complete -p seva"]
    for words in typed:
        lines += [f"COMP_WORDS=(seva {' '.join(words)}) COMP_CWORD={len(words)} COMPREPLY=()", "_seva"]
        lines.append('echo "found: ${COMPREPLY[*]}"')
    environment = os.environ | {"PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment |= {"PYTHONPATH": pythonpath()}
    script = "\n".join(lines)
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment, timeout=120)
    registered, *found = done.stdout.splitlines()
    assert registered == "complete -F _seva seva", done.stderr
    assert found == [
        "found: full", "found: llava-13b-diffusion800", "found: --train.beta", "found: pair", "found: ",
    ]  # fmt: skip
