"""Verifies every artifact of a root, and says what to do about each that is cut, changed, lost or stale.

python jobs/check.py --root runs
"""

from collections import Counter
from dataclasses import dataclass

from presets import Job
from seva_ray.core.artifacts import Store
from seva_ray.core.errors import InputError
from seva_ray.runtime.cli import run
from seva_ray.stages.check import check, summary


@dataclass(frozen=True, kw_only=True)
class CheckJob(Job):
    """Read all artifacts of a root, and compare them with their records."""


def main(config: CheckJob) -> None:
    states = Counter[str]()
    faults = []
    config.storage.take_effect()
    for finding in check(Store(config.root)):
        states[finding.state] += 1
        if finding.line:
            print(f"{finding.name}: {finding.state}: {finding.line}", flush=True)
        if finding.state == "at fault":
            faults.append(finding.name)
    print(f"{states.total():,} artifacts: {summary(states)}" if states else "there is no artifact", flush=True)
    if faults:
        raise InputError(f"{len(faults):,} of {states.total():,} artifacts are at fault; the first: {faults[0]}")


PRESETS = {"root": CheckJob()}

if __name__ == "__main__":
    run(main, PRESETS, "Verify every artifact of a root.")
