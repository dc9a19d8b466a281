"""lmms-eval runs benchmarks that are not in this package: how it is started, what its files say, and what went wrong.

It has an environment of its own (`make harness`) and is never imported. In: a command line. Out: its results and its
log of samples; those of two models give the rows of our score tables.
"""

import math
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from seva_ray.benchmarks.base import Tally
from seva_ray.core.checks import check_least
from seva_ray.core.errors import InputError
from seva_ray.core.fingerprints import execution
from seva_ray.scoring.intervals import Comparison, paired_bootstrap

NAME, VERSION = "lmms-eval", "0.7.3"
FIND_VERSION = "import importlib.metadata; print(importlib.metadata.version('lmms_eval'))"
SECRET = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD)$", re.IGNORECASE)
"""Environment variables whose names end like this are not passed on, because lmms-eval writes HF_TOKEN into its log."""


@dataclass(frozen=True, kw_only=True)
class Harness:
    """How lmms-eval is run."""

    kind: ClassVar[str] = "Harness"

    python: str = execution(".venv-harness/bin/python")
    """Python of the environment in which lmms-eval is installed. `make harness` makes the default one."""
    tasks_dir: str = execution("")
    """A folder with your own tasks (YAML files and their functions), used beside lmms-eval's. Their code is run."""
    model: str = "llava_hf"
    """lmms-eval's model class. The default reads LLaVA in the transformers format."""
    model_args: str = "pretrained={model},device={device},device_map={device}"
    """Arguments of the model class. The default allows no remote code, but some classes, such as `vllm`, do unless an
    argument forbids it."""
    limit: int = 0
    """Number of rows of each task, from the first one (0: all)."""
    download: bool = execution(False)
    """Let lmms-eval download a task's data. Otherwise the data must be in the hub's cache or where your task says."""
    keep_variables: tuple[str, ...] = execution(())
    """Names of secret environment variables to pass on anyway, such as OPENAI_API_KEY for tasks with a judge."""
    num_cpus: int = execution(1)
    """Number of CPUs for each run, besides one GPU if the cluster has any."""

    def __post_init__(self) -> None:
        check_least(self, 0, "limit")
        check_least(self, 1, "num_cpus")

    def command(self, task: str, device: str) -> list[str]:
        """The command. It runs in a directory with the model in `model` and writes to `out`. These paths have no comma,
        at which lmms-eval would split its options."""
        arguments = self.model_args.replace("{model}", "model").replace("{device}", device)
        words = [os.path.abspath(self.python), "-m", "lmms_eval", "--model", self.model, "--model_args", arguments]
        words += ["--tasks", task, "--batch_size", "1", "--output_path", "out", "--log_samples"]
        words += ["--verbosity", "WARNING", "--timezone", "UTC"]
        words += ["--include_path", os.path.abspath(self.tasks_dir)] if self.tasks_dir else []
        return words + (["--limit", str(self.limit)] if self.limit else [])

    def environment(self) -> dict[str, str]:
        offline = "0" if self.download else "1"
        kept = {
            name: value
            for name, value in os.environ.items()
            if name != "PYTHONPATH" and (name in self.keep_variables or not SECRET.search(name))
        }
        return kept | {"HF_HUB_OFFLINE": offline, "HF_DATASETS_OFFLINE": offline, "PYTHONSAFEPATH": "1"}


def check_installed(config: Harness) -> None:
    """Raises: InputError if lmms-eval is missing or has another version than the one whose files are read here."""
    try:
        found = subprocess.run([config.python, "-c", FIND_VERSION], capture_output=True, text=True)
    except OSError as error:
        raise InputError(f"harness.python {config.python}: {error.strerror}; `make harness` installs {NAME}") from None
    if found.returncode:
        raise InputError(f"harness.python {config.python}: has no {NAME}; `make harness` installs it")
    if (version := found.stdout.strip()) != VERSION:
        raise InputError(f"harness.python {config.python}: has {NAME} {version}, not {VERSION}")


def first_error(log: str) -> str:
    """The first error in a failed run's log, or the last line. If an error was raised again, its cause comes first."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"([A-Za-z_]+\.)*[A-Za-z]+(Error|Exception)\b", line)]
    return (errors[:1] or lines[-1:] or ["no output"])[0][:300]


def num_unanswered(log: str) -> int:
    """Number of questions that the model failed on. lmms-eval uses an empty answer for them and continues."""
    return len(re.findall(r"Error .* in generating", log))


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The scores of one model in one run."""

    values: Mapping[str, float]
    """The values that lmms-eval aggregates, by `<task> <metric>`."""
    of_questions: Mapping[str, Mapping[str, float]]
    """For each value that is a mean over questions: the score of each question, by its id."""
    asked: Mapping[str, str]
    """The text and the right answer of every question, by its id."""


def read_scores(results: Mapping[str, Any], samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> Scores:
    """The first error in a failed run's log, or its last line. An error that was raised again comes after its cause."""
    values: dict[str, float] = {}
    of_questions: dict[str, Mapping[str, float]] = {}
    asked: dict[str, str] = {}
    for task, metrics in results["results"].items():
        rows = {f"{task} {row['doc_id']}": row for row in samples.get(task, [])}
        if len(rows) < len(samples.get(task, [])):  # with several filters, a row does not say to which it belongs
            rows = {}
        asked |= {question: f"{row['input']}\n{row['target']}" for question, row in rows.items()}
        score_key = results["configs"].get(task, {}).get("score_key", "score")
        for key, value in metrics.items():
            metric, comma, filtered = key.partition(",")
            if not comma or "_stderr" in metric or not isinstance(value, int | float):
                continue
            name = f"{task} {metric}" + (f" {filtered}" if filtered != "none" else "")
            if results["higher_is_better"].get(task, {}).get(metric) is False:
                name += " (lower is better)"
            values[name] = float(value)
            scores = {question: number_of(row.get(metric), score_key) for question, row in rows.items()}
            found = {question: score for question, score in scores.items() if math.isfinite(score)}
            if factor := factor_of(list(found.values()), value):
                of_questions[name] = {question: factor * score for question, score in found.items()}
    return Scores(values=values, of_questions=of_questions, asked=asked)


def number_of(logged: Any, score_key: str) -> float:
    """A sample's score, which is a number or a field of a record; nan if there is none."""
    found = logged.get(score_key) if isinstance(logged, Mapping) else logged
    return float(found) if isinstance(found, int | float) else math.nan


def factor_of(scores: Sequence[float], value: float) -> float:
    """1 or 100 if the value is that factor times the mean of the samples' scores, to four digits, as some tasks round;
    otherwise 0. The files do not say which tasks average: others add up pairs or compute F1."""
    mean = math.fsum(scores) / len(scores) if scores else math.nan
    return next((factor for factor in (1.0, 100.0) if math.isclose(factor * mean, value, rel_tol=1e-4)), 0.0)


def compare_scores(start: Scores, policy: Scores, num_resamples: int, seed: int) -> list[Comparison]:
    """A row for each metric that both have. Only means over questions have an interval, and so a difference.

    Raises: InputError if the two runs asked different questions.
    """
    if start.asked != policy.asked:
        raise InputError("the two models were not asked the same questions: did the task's data change in between?")
    names = [name for name in start.values if name in policy.values]
    return [compare_metric(name, start, policy, num_resamples, seed) for name in names]


def compare_metric(name: str, start: Scores, policy: Scores, num_resamples: int, seed: int) -> Comparison:
    one, other = (side.of_questions.get(name, {}) for side in (start, policy))
    is_mean = bool(one) and one.keys() == other.keys()
    numbers = [*one.values(), *other.values()] if is_mean else [start.values[name], policy.values[name]]
    fraction = all(0 <= number <= 1 for number in numbers)
    factor, label = (100.0, name) if fraction else (1.0, f"{name} (own scale)")  # our tables show percent
    if not is_mean:
        unknown = math.nan
        return Comparison(
            metric=label,
            start=factor * start.values[name],
            start_low=unknown,
            start_high=unknown,
            policy=factor * policy.values[name],
            policy_low=unknown,
            policy_high=unknown,
            difference=unknown,
            difference_low=unknown,
            difference_high=unknown,
            num_images=len(start.asked),
        )

    def tally(scores: Mapping[str, float]) -> Tally:
        return Tally(image_ids=list(one), names=["score"], counts=np.array([[scores[question]] for question in one]))

    def metrics(sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {label: factor * sums["score"] / len(one)}

    (row,) = paired_bootstrap(tally(one), tally(other), metrics, num_resamples=num_resamples, seed=seed)
    return row
