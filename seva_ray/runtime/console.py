"""The console script `seva`: `seva full ...` runs the same job as `python jobs/full.py ...`.

The jobs lie beside the package: in a checkout in `jobs`, in an installation in `seva_ray_jobs`.
"""

import ast
import os
import sys
from pathlib import Path
from typing import NoReturn

import seva_ray

COMMAND = "SEVA_COMMAND"
"""The environment variable by which a job's help names the command that started it."""


def main() -> NoReturn:
    """Run the job that the first word names, in place of this process."""
    jobs, words = jobs_in(job_folder()), sys.argv[1:]
    name = words[0].replace("-", "_") if words else ""
    if not words or words[0] in ("--help", "-h", "help"):
        print(*lines_about(jobs), sep="\n")
        sys.exit(0)
    if name not in jobs:
        print(f"error: {words[0]}: there is no such job; the jobs are {', '.join(spoken(jobs))}", file=sys.stderr)
        sys.exit(2)
    os.environ[COMMAND] = f"seva {words[0]}"
    os.execv(sys.executable, [sys.executable, str(jobs[name]), *words[1:]])


def job_folder() -> Path:
    beside = Path(seva_ray.__file__).parent.parent
    return beside / "seva_ray_jobs" if (beside / "seva_ray_jobs").is_dir() else beside / "jobs"


def jobs_in(folder: Path) -> dict[str, Path]:
    """The jobs by their names. A file without a main part is what jobs share."""
    files = sorted(folder.glob("*.py"))
    return {file.stem: file for file in files if '__name__ == "__main__"' in file.read_text()}


def spoken(jobs: dict[str, Path]) -> list[str]:
    return [name.replace("_", "-") for name in jobs]


def lines_about(jobs: dict[str, Path]) -> list[str]:
    """The usage, and the first line of each job's docstring."""
    lines = ["usage: seva JOB [PRESET] [OPTIONS]", ""]
    for name, file in zip(spoken(jobs), jobs.values(), strict=True):
        about = (ast.get_docstring(ast.parse(file.read_text())) or "").splitlines()
        lines.append(f"  {name:14} {about[0] if about else ''}")
    return [*lines, "", "seva JOB --help shows the options of a job."]
