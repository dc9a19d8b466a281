"""Lists every run under a root with its headline, and writes one page with all of them: `<root>/index.html`.

python jobs/list.py --root runs
"""

from dataclasses import dataclass

from presets import USUAL, Job
from seva_ray.core.errors import InputError
from seva_ray.core.storage import exists
from seva_ray.runtime.cli import run
from seva_ray.stages.run_list import list_runs


@dataclass(frozen=True, kw_only=True)
class ListJob(Job):
    """List every run under a root."""


def main(config: ListJob) -> None:
    if not exists(config.root):
        raise InputError(f"root {config.root}: there is no such directory, so there is no run to list")
    lines, page = list_runs(config.store())
    lines = lines or [f"no policy was trained under {config.root} yet"]
    print(*lines, page, sep="\n", flush=True)


PRESETS = {"all": ListJob()}

if __name__ == "__main__":
    run(main, PRESETS, "List every run under a root, and write one page with all of them.", USUAL)
