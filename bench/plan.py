"""bench-plan: the wall time that a plan predicts against that of the real run -> build/bench/plan.json.

    python -m bench.plan        about three minutes on two cores

The generate stage, Ray Data and the clusters are real; the engine is the fake one, whose times of loading and serving
are set, so that two cores can hold several. Rates come from a probe in a cluster of its own, and are not fitted to the
runs.
"""

import os
import signal
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from bench.figures import Figure, keep, table
from bench.fresh import in_fresh_process, own_cluster
from bench.generate_growth import TinyPrompts
from bench.slow_start import SlowStart
from seva_ray.core.artifacts import Store
from seva_ray.dpo.config import Train
from seva_ray.engines.config import Generate
from seva_ray.planning.forecast import forecast
from seva_ray.planning.rates import Fleet, Rates
from seva_ray.planning.simulation import Faults
from seva_ray.runtime.cli import run
from seva_ray.runtime.progress import say
from seva_ray.stages.generate import generate
from seva_ray.stages.pair import Pair
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.stages.probe import Probe, probe
from seva_ray.stages.remaining_work import Run, remaining
from seva_ray.vlm.models import Model

RESULTS = Path("build/bench/plan.json")
COMMAND = "python -m bench.plan"
MODEL = Model(name="fake", directory=".", fingerprint="")
VIEWS = ("clean", "diffusion-300")
SECONDS_PER_REQUEST = 0.02


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A run to be predicted; each engine has a CPU of the cluster beside its own."""

    num_engines: int
    shard_size: int
    num_prompts: int
    killed_at_s: float | None = None
    """When the process of one engine is killed, in seconds after the start of the run."""

    @property
    def name(self) -> str:
        engines = f"{self.num_engines} engine{'s' if self.num_engines > 1 else ''}"
        killed = "" if self.killed_at_s is None else f", one killed after {self.killed_at_s:g} s"
        return f"{engines}, {self.num_prompts:,} prompts in units of {self.shard_size}{killed}"


SETTINGS = (
    Setting(num_engines=1, shard_size=64, num_prompts=640),
    Setting(num_engines=2, shard_size=32, num_prompts=1280),
    Setting(num_engines=3, shard_size=128, num_prompts=1536),
    Setting(num_engines=2, shard_size=100, num_prompts=1250, killed_at_s=20.0),
)


@dataclass(frozen=True, kw_only=True)
class BenchPlan:
    """What is predicted and then run."""

    only: tuple[int, ...] = field(default_factory=lambda: tuple(range(len(SETTINGS))))
    """Numbers of the settings to measure."""


def main(config: BenchPlan) -> None:
    rates = in_fresh_process(probed)
    say(f"plan: the probe says {rates}")
    figures: list[Figure] = []
    for number in config.only:
        setting = SETTINGS[number]
        predicted, measured = in_fresh_process(predict_and_run, setting, rates)
        say(f"plan: {setting.name}: predicted {predicted:.1f} s, measured {measured:.1f} s")
        figure = Figure(
            figure=f"predicted wall time off the measured one, {setting.name}",
            ratio=abs(predicted / measured - 1),
            target=0.15,
            better="lower",
            rival=f"the run: {predicted:.1f} predicted, {measured:.1f} s measured",
            command=COMMAND,
        )
        figures = keep(RESULTS, [figure])
    print(table(figures))


def probed() -> dict[str, float]:
    """Rates that a plan takes from its probe of 64 rows."""
    with tempfile.TemporaryDirectory() as root, own_cluster(num_cpus=2):
        store, config = Store(root), Generate(engine=SlowStart(seconds_per_request=SECONDS_PER_REQUEST))
        prompts = prepare(Prepare(), store, "tiny", TinyPrompts(num_prompts=1000))
        counts = probe(Probe(name="fake"), config, Pair(), store, MODEL, prompts, VIEWS).counts
        return {item.name: counts[item.name] for item in fields(Rates) if item.name in counts}


def predict_and_run(setting: Setting, rates: Mapping[str, float]) -> tuple[float, float]:
    """Wall time of generation in s: the predicted and the measured one."""
    with tempfile.TemporaryDirectory() as root, own_cluster(num_cpus=2 * setting.num_engines):
        store, journal = Store(f"{root}/runs"), Path(root, "journal")
        prompts = prepare(
            Prepare(shard_size=setting.shard_size), store, "tiny", TinyPrompts(num_prompts=setting.num_prompts)
        )
        config = Generate(
            engine=SlowStart(seconds_per_request=SECONDS_PER_REQUEST, journal=str(journal)),
            min_engines=setting.num_engines,
            max_engines=setting.num_engines,
        )
        predicted = predict(setting, rates, store, config, prompts.counts["num_prompts"])
        began = time.monotonic()
        if setting.killed_at_s is not None:
            threading.Thread(target=kill_one, args=(journal, setting.killed_at_s), daemon=True).start()
        generate(config, store, MODEL, [(prompts, view) for view in VIEWS])
        measured = time.monotonic() - began
        served = {line.split()[1] for line in journal.read_text(encoding="utf-8").splitlines()}
        assert len(served) == setting.num_engines + (setting.killed_at_s is not None), f"engines that served: {served}"
        return predicted, measured


def predict(setting: Setting, rates: Mapping[str, float], store: Store, config: Generate, num_prompts: int) -> float:
    asked = Run(
        name="bench",
        views=VIEWS[1:],
        controls=(),
        shard_size=setting.shard_size,
        num_test_prompts=0,
        generate=config,
        pair=Pair(),
        train=Train(),
        for_training={"CPU": 2},
    )
    work = remaining(asked, store, None, None, num_prompts)
    faults = Faults(preempted_at_s=() if setting.killed_at_s is None else (setting.killed_at_s,))
    fleet = Fleet(gpus_per_node=0, cpus_per_node=2)
    (stage,) = (
        stage
        for stage in forecast(work, Rates(**rates), fleet, faults, setting.num_engines).stages
        if stage.name == "generate"
    )
    return stage.wall_s


def kill_one(journal: Path, after_s: float) -> None:
    """The engine that was first to serve."""
    time.sleep(after_s)
    os.kill(int(journal.read_text(encoding="utf-8").split()[1]), signal.SIGKILL)


if __name__ == "__main__":
    run(main, {"all": BenchPlan()}, "Plans against runs.")
