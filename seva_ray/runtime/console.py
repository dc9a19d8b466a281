"""The console script `seva`: `seva full ...` runs the same job as `python jobs/full.py ...`.

The jobs lie beside the package: in a checkout in `jobs`, in an installation in `seva_ray_jobs`.
"""

import ast
import os
import sys
from pathlib import Path
from typing import NoReturn

import seva_ray
from seva_ray.core.errors import suggestion

COMMAND = "SEVA_COMMAND"
"""The environment variable by which a job's help names the command that started it."""


def main() -> NoReturn:
    """Run the job that the first word names, in place of this process."""
    jobs, words = jobs_in(job_folder()), sys.argv[1:]
    name = words[0].replace("-", "_") if words else ""
    if not words or words[0] in ("--help", "-h", "help"):
        print(*lines_about(jobs), sep="\n")
        sys.exit(0)
    if name == "completion":
        print(completion(spoken(jobs)))
        sys.exit(0)
    if name not in jobs:
        known = f"the jobs are {', '.join(spoken(jobs))}{suggestion(words[0], spoken(jobs))}"
        print(f"error: {words[0]}: there is no such job; {known}", file=sys.stderr)
        sys.exit(2)
    os.environ[COMMAND] = f"seva {words[0]}"
    os.execv(sys.executable, [sys.executable, str(jobs[name]), *words[1:]])


def job_folder() -> Path:
    beside = Path(seva_ray.__file__).parent.parent
    return beside / "seva_ray_jobs" if (beside / "seva_ray_jobs").is_dir() else beside / "jobs"


def jobs_in(folder: Path) -> dict[str, Path]:
    """The jobs by their names. A file without a main part is what jobs share."""
    files = sorted(folder.glob("*.py"))
    return {file.stem: file for file in files if '__name__ == "__main__"' in file.read_text(encoding="utf-8")}


def spoken(jobs: dict[str, Path]) -> list[str]:
    return [name.replace("_", "-") for name in jobs]


def lines_about(jobs: dict[str, Path]) -> list[str]:
    """The usage, and the first line of each job's docstring."""
    lines = ["usage: seva JOB [PRESET] [OPTIONS]", ""]
    for name, file in zip(spoken(jobs), jobs.values(), strict=True):
        about = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").splitlines()
        lines.append(f"  {name:14} {about[0] if about else ''}")
    return [
        *lines,
        "",
        "seva JOB --help shows the options of a job.",
        'eval "$(seva completion)" in bash completes jobs, presets and options.',
    ]


def completion(jobs: list[str]) -> str:
    """A script for bash. When the options of a job are first needed, the job itself is asked for them, by tyro's own
    completion; `cli.run` puts the job's presets before it."""
    return COMPLETION.replace("JOBS", " ".join(jobs))


COMPLETION = r"""
_seva() {
  local job=${COMP_WORDS[1]} word=${COMP_WORDS[COMP_CWORD]} name presets
  if [[ $COMP_CWORD -eq 1 ]]; then
    COMPREPLY=($(compgen -W "JOBS" -- "$word"))
    return
  fi
  name=_tyro_seva_${job//-/_} presets=_seva_presets_${job//-/_}
  # tyro's script also registers itself, for a command of one word: that is left out.
  if ! declare -F "$name" >/dev/null; then
    eval "$(seva "$job" --tyro-print-completion bash 2>/dev/null | grep -v '^ *complete ')"
  fi
  if [[ $COMP_CWORD -eq 2 && $word != -* ]]; then
    COMPREPLY=($(compgen -W "${!presets}" -- "$word"))
    return
  fi
  local skipped=2
  [[ ${COMP_WORDS[2]} == -* ]] || skipped=3
  COMP_WORDS=("seva $job" "${COMP_WORDS[@]:skipped}")
  COMP_CWORD=$((COMP_CWORD - skipped + 1))
  declare -F "$name" >/dev/null && "$name"
}
complete -F _seva seva
""".strip()
