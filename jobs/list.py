"""list every run under a root with its headline, and write one page with all of them: `<root>/index.html`.

python jobs/list.py --root runs
"""

from dataclasses import dataclass

from presets import USUAL, Job
from seva_ray.runtime.cli import run
from seva_ray.stages.run_list import list_runs


@dataclass(frozen=True, kw_only=True)
class ListJob(Job):
    """List every run under a root."""


def main(config: ListJob) -> None:
    lines, page = list_runs(config.store())
    print(*lines, page, sep="\n", flush=True)


PRESETS = {"all": ListJob()}

if __name__ == "__main__":
    run(main, PRESETS, "Every run under a root, and one page with all of them.", USUAL)
