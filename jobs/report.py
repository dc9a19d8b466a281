"""report alone: the page about a policy, from the artifacts it was made from -> `reports/<name>/index.html`.

python jobs/report.py --name toy
"""

import sys
import time
from dataclasses import dataclass, field

from seva_ray.core.artifacts import Store
from seva_ray.runtime.cli import run
from seva_ray.stages.report import Report, report


@dataclass(frozen=True, kw_only=True)
class ReportJob:
    """A page about a policy."""

    name: str
    """The policy: `policies/<name>`."""
    root: str = "runs"
    """Where artifacts are kept: a directory, or an fsspec URI such as s3://bucket/runs."""
    report: Report = field(default_factory=Report)


def main(config: ReportJob) -> None:
    store = Store(config.root)
    store.check_writable()
    report(config.report, store, config.name, command=" ".join(["python", *sys.argv]), began=time.time())


if __name__ == "__main__":
    run(main, {"toy": ReportJob(name="toy")}, "A page about a policy.")
