"""harness: starting model and policy on tasks of lmms-eval -> a run for each task and model, and scores for each task.

A run is a Ray task that starts a process in lmms-eval's own environment. Its artifact `harness/<task>/<model>` holds
the results file, the logged samples and the log, so that a killed job repeats only the missing runs. The runs of both
models give `scores/lmms-eval-<task>/<policy>`, which tables and reports show like any other score.
"""

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path

from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.errors import ConfigError, InputError
from seva_ray.core.node_cache import local_directory
from seva_ray.core.ownership import owned
from seva_ray.core.scratch import scratch_directory
from seva_ray.core.storage import names_in, read_bytes, write_bytes
from seva_ray.runtime.cli import users_line
from seva_ray.runtime.cluster import join
from seva_ray.runtime.heartbeat import waiting
from seva_ray.runtime.progress import say
from seva_ray.runtime.renewal import made_once, to_be_made
from seva_ray.runtime.resources import GENERATION, Need, check_places, has_gpus, kind, options
from seva_ray.scoring.lmms_eval import (
    NAME,
    VERSION,
    Harness,
    Scores,
    check_installed,
    compare_scores,
    first_error,
    num_unanswered,
    read_scores,
)
from seva_ray.stages.score_files import Evaluate
from seva_ray.vlm.models import Model

TERMINAL_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
SAMPLES_FILE = re.compile(r"\d+_\d+_samples_(.+\.jsonl)")


def score_tasks(
    config: Harness, evaluate: Evaluate, store: Store, tasks: Sequence[str], start: Model, policy: Model
) -> list[Artifact]:
    """Makes one score artifact for each task. Raises: InputError if a run failed; the runs that succeeded are kept."""
    for task in tasks:
        if not re.fullmatch(r"[\w.+=-]+", task):
            raise ConfigError(f"tasks: {task!r} is not the name of a task; separate the names by spaces")
    check_installed(config)
    runs = run_all(config, store, [(task, model) for task in tasks for model in (start, policy)])
    return [
        compare_runs(config, evaluate, store, task, runs[task, start.name], runs[task, policy.name], policy.name)
        for task in tasks
    ]


def run_all(config: Harness, store: Store, work: Sequence[tuple[str, Model]]) -> dict[tuple[str, str], Artifact]:
    """The runs, by task and model name. Missing runs are made side by side if the cluster has room."""
    opened = [open_run(config, store, task, model) for task, model in work]
    with owned(store.root, [run.name for run in opened if not run.complete]):
        return run_alone(config, store, work)


def run_alone(config: Harness, store: Store, work: Sequence[tuple[str, Model]]) -> dict[tuple[str, str], Artifact]:
    """The same as `run_all`, while no other job makes any of these runs."""
    runs = {(task, model.name): open_run(config, store, task, model) for task, model in work}
    missing = {(task, model.name): model for task, model in work if not runs[task, model.name].complete}
    if not missing:
        return runs
    import ray

    runs |= {key: to_be_made(runs[key]) for key in missing}
    join()
    need = {"CPU": config.num_cpus, "GPU": 1 if has_gpus() else 0} | kind(GENERATION)
    check_places(Need(f"a run of {NAME}", 1, need, smaller={"CPU": "--harness.num-cpus"}))
    say(f"harness: {len(missing)} runs of {NAME} {VERSION} to do")
    run = ray.remote(run_task).options(**options(need))
    pending = {
        run.remote(config, task, model.directory, runs[task, name], "cuda" if need["GPU"] else "cpu"): (task, name)
        for (task, name), model in missing.items()
    }
    failures = []
    while pending:
        with waiting(f"harness: waiting for {len(pending)} runs of {NAME}"):
            (done,), _ = ray.wait(list(pending))
        task, name = pending.pop(done)
        try:
            num_questions = ray.get(done)
        except Exception as error:
            line = users_line(error)
            if line is None:
                raise
            failures.append(f"{task} on {name}: {line}")
            say(f"harness: {failures[-1]}")
            continue
        runs[task, name] = runs[task, name].finish({"num_questions": num_questions})
        say(f"harness: {task} on {name}: {num_questions:,} questions, {runs[task, name].seconds:.0f} s")
    if failures:
        raise InputError(f"harness: {len(failures)} of {len(missing)} runs failed; {failures[0]}")
    return runs


def open_run(config: Harness, store: Store, task: str, model: Model) -> Artifact:
    recipe = {"harness": NAME, "version": VERSION, "task": task, "asked": config, "model": model.fingerprint}
    if config.tasks_dir:
        recipe["tasks_dir"] = digest_of(Path(config.tasks_dir))
    return store.open(f"harness/{task}/{model.name}", config=recipe, made_from={model.name: model.contents})


def digest_of(folder: Path) -> str:
    """A digest of the files that define tasks, without the data that they name. Raises: InputError without any."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".yaml", ".yml", ".py"))
    if not files:
        raise InputError(f"harness.tasks_dir {folder}: contains no task files (YAML)")
    named = [f"{path.relative_to(folder)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n" for path in files]
    return hashlib.sha256("".join(named).encode()).hexdigest()[:16]


def run_task(config: Harness, task: str, model_directory: str, artifact: Artifact, device: str) -> int:
    """Make one run, write its files into `artifact` and return the number of questions.

    Raises: InputError with the first error in the log and the place of the log.
    """
    check_installed(config)  # the driver's machine was checked before; this is the machine of the run
    with scratch_directory("seva-harness-") as scratch:
        os.symlink(os.path.abspath(local_directory(model_directory)), f"{scratch}/model")
        with open(f"{scratch}/log", "wb") as log_file:
            code = subprocess.run(
                config.command(task, device),
                cwd=scratch,
                env=config.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=subprocess.STDOUT,
            ).returncode
        log = TERMINAL_COLOURS.sub("", Path(scratch, "log").read_text(encoding="utf-8", errors="replace"))
        results = sorted(Path(scratch, "out").rglob("*_results.json"))
        fault = ""
        if code or not results:  # lmms-eval may exit with 0 after an error
            hint = " (--harness.download fetches data)" if "OfflineMode" in first_error(log) else ""
            fault = f"{first_error(log)}{hint}"
        elif unanswered := num_unanswered(log):
            fault = f"the model failed on {unanswered:,} questions"
        else:
            artifact.begin()  # a failed run leaves the name free
        write_bytes(artifact.path("log.txt"), log.encode())
        if fault:
            raise InputError(f"{fault}; its log: {artifact.path('log.txt')}")
        for path in Path(scratch, "out").rglob("*.jsonl"):
            if match := SAMPLES_FILE.fullmatch(path.name):
                write_bytes(artifact.path("samples", match[1]), path.read_bytes())
        write_bytes(artifact.path("results.json"), results[0].read_bytes())
    return len(scores_of_run(artifact.uri).asked)


def scores_of_run(uri: str) -> Scores:
    names = sorted(names_in(f"{uri}/samples"))
    lines = {name.removesuffix(".jsonl"): read_bytes(f"{uri}/samples/{name}").splitlines() for name in names}
    samples = {task: [json.loads(line) for line in of_task] for task, of_task in lines.items()}
    return read_scores(json.loads(read_bytes(f"{uri}/results.json")), samples)


def compare_runs(
    config: Harness, evaluate: Evaluate, store: Store, task: str, start: Artifact, policy: Artifact, name: str
) -> Artifact:
    """Compare the scores of both runs."""
    recipe = {"evaluate": evaluate, "harness": NAME, "version": VERSION, "task": task}
    return made_once(
        store,
        lambda: store.open(f"scores/{NAME}-{task}/{name}", config=recipe, inputs=[start, policy], later_is_new=True),
        lambda artifact: compared_runs(config, evaluate, artifact, task, start, policy),
        counted=False,
    )


def compared_runs(
    config: Harness, evaluate: Evaluate, artifact: Artifact, task: str, start: Artifact, policy: Artifact
) -> Artifact:
    """Compare the scores of both runs, while no other job does it."""
    of_start, of_policy = scores_of_run(start.uri), scores_of_run(policy.uri)
    try:
        rows = compare_scores(of_start, of_policy, num_resamples=evaluate.num_resamples, seed=evaluate.seed)
    except InputError as error:
        raise InputError(f"{task}: {error}; remove {start.uri} or {policy.uri}") from None
    artifact = artifact.begin()
    write_bytes(artifact.path("comparisons.json"), json.dumps([asdict(row) for row in rows], indent=1).encode())
    counts = {
        "protocol": f"{NAME} {VERSION} {task}",
        "num_images": len(of_start.asked),
        "num_metrics": len(rows),
        "harness": {
            "limit": config.limit,
            "without_difference": [row.metric for row in rows if not isfinite(row.difference)],
        },
    }
    say(f"evaluate {NAME}-{task}: {len(rows)} metrics on {len(of_start.asked):,} questions")
    return artifact.finish(counts)
