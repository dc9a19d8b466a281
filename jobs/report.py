"""Writes the page about a policy, from the artifacts that made it -> `reports/<name>/index.html`.

python jobs/report.py --name toy
"""

import sys
import time
from dataclasses import dataclass, field

from presets import USUAL, Job
from seva_ray.runtime.cli import run
from seva_ray.stages.report import report
from seva_ray.stages.report_inputs import Report


@dataclass(frozen=True, kw_only=True)
class ReportJob(Job):
    """Write the page about a policy."""

    name: str
    """The policy: `policies/<name>`."""
    report: Report = field(default_factory=Report)


def main(config: ReportJob) -> None:
    store = config.store()
    report(config.report, store, config.name, command=" ".join(["python", *sys.argv]), began=time.time())


PRESETS = {name: ReportJob(name=name) for name in ("toy", "toy-qwen")}

if __name__ == "__main__":
    run(main, PRESETS, "Write the page about a policy.", USUAL)
