"""The sbatch script starts a head, then workers, then the job, whose exit code is its own. Slurm and Ray are stand-ins
that write down how they were called: there is no Slurm here."""

import os
import re
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "cluster" / "slurm" / "seva.sbatch"

STAND_IN = """#!/usr/bin/env bash
if [[ $* == "list nodes"* ]]; then
    grep "^srun" "$CALLS" | sed "s/.*/node_id/" # as many nodes as there are steps by now
fi
echo "${0##*/} $*" >>"$CALLS"
case "${0##*/} $*" in
srun*) exec sleep 60 ;;
"ray job submit"*) exit "$JOB_EXIT" ;;
esac
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where a job is submitted: with stand-ins for its environment, and a token at home."""
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("srun", "ray", "scontrol"):
        (programs / name).write_text(STAND_IN)
        (programs / name).chmod(0o755)
    (programs / "sleep").write_text('#!/bin/sh\n[ "$1" = 2 ] || exec /bin/sleep "$1"\n')  # no pause between questions
    (programs / "sleep").chmod(0o755)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("a token")
    return tmp_path


def run(directory: Path, *words: str, **variables: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """The script on two nodes of 8 GPUs, and the calls that it made."""
    slurm = {
        "SLURM_SUBMIT_DIR": str(directory),
        "SLURM_JOB_ID": "123456",
        "SLURM_NNODES": "2",
        "SLURM_CPUS_PER_TASK": "64",
        "SLURM_GPUS_ON_NODE": "8",
        "SLURMD_NODENAME": "first",
        "HOME": str(directory),
        "CALLS": str(directory / "calls"),
        "JOB_EXIT": "0",
    }
    command = ["bash", str(SCRIPT), *words]
    done = subprocess.run(command, env=os.environ | slurm | variables, capture_output=True, text=True, timeout=60)
    calls = directory / "calls"
    return done, calls.read_text().splitlines() if calls.exists() else []


def test_the_script_is_correct_bash() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)


def test_a_head_then_workers_then_the_job(directory: Path) -> None:
    done, calls = run(directory, "jobs/full.py", "llava-7b", "--root", "/shared/runs")
    assert done.returncode == 0, done.stderr
    steps = sorted(call for call in calls if call.startswith("srun"))
    assert len(steps) == 2
    (head,) = [step for step in steps if " --head " in step]
    (workers,) = [step for step in steps if step != head]
    assert " --nodes=1 --nodelist=first " in head
    assert " --nodes=1 --exclude=first " in workers
    for step, cpus in ((head, 62), (workers, 64)):
        assert '--num-gpus=8 --resources={"generation": 8, "training": 8} ' in step
        assert f" --num-cpus={cpus} " in step
    (job,) = [call for call in calls if call.startswith("ray job submit")]
    looks = [place for place, call in enumerate(calls) if call.startswith("ray list nodes")]
    assert calls.index(head) < calls.index(workers) < looks[-1] < calls.index(job)
    assert job.endswith("python jobs/full.py llava-7b --root /shared/runs")
    (address,) = [word for word in workers.split() if word.startswith("--address=")]
    assert address.removeprefix("--address=").split(":") == [
        next(word for word in head.split() if word.startswith("--node-ip-address=")).split("=")[1],
        next(word for word in head.split() if word.startswith("--port=")).split("=")[1],
    ]


@pytest.mark.parametrize("job_id", ["1", "5999", "123456789"])
def test_ports_are_none_that_ray_or_linux_gives_away(job_id: str, directory: Path) -> None:
    """Ray does not start where they are: `ray start --help`, --min-worker-port and --max-worker-port."""
    _, calls = run(directory, "jobs/full.py", SLURM_JOB_ID=job_id)
    (head,) = [call for call in calls if " --head " in call]
    ports = [int(port) for port in re.findall(r" --(?:dashboard-)?port=(\d+)", head)]
    assert len(set(ports)) == 2
    assert all(19999 < port < 32768 for port in ports)


def test_on_one_node_there_are_no_workers(directory: Path) -> None:
    done, calls = run(directory, "jobs/full.py", SLURM_NNODES="1")
    assert done.returncode == 0, done.stderr
    assert len([call for call in calls if call.startswith("srun")]) == 1


def test_the_jobs_exit_code_is_the_scripts(directory: Path) -> None:
    assert run(directory, "jobs/full.py", JOB_EXIT="7")[0].returncode == 7


def test_without_a_token_nothing_starts(directory: Path) -> None:
    (directory / ".ray" / "auth_token").unlink()
    done, calls = run(directory, "jobs/full.py")
    assert (done.returncode, calls) == (2, [])
    assert "ray get-auth-token --generate" in done.stderr


@pytest.mark.parametrize("which", ["--nodelist", "--exclude"])
def test_a_node_that_does_not_start_ends_the_script(which: str, directory: Path) -> None:
    lost = STAND_IN.replace("srun*)", f'*"{which}="*) exit 1 ;;\nsrun*)').replace(
        "s/.*/node_id/", f"/{which}/d;s/.*/node_id/"
    )
    for name in ("srun", "ray"):
        (directory / ".venv" / "bin" / name).write_text(lost)
    done, calls = run(directory, "jobs/full.py")
    assert done.returncode == 1
    assert "a node did not start" in done.stderr
    assert [call for call in calls if "job submit" in call] == []
