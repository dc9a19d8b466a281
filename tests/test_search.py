"""The search of a study: real Ray Tune over a space, with trials that ask a server whose gains are made up."""

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest
import ray

from seva_ray.core.errors import UserError
from seva_ray.dpo.config import Train
from seva_ray.stages.study.study_context import StudyContext
from seva_ray.stages.study.sweep import Search, TrialOutcome, outcome, tuner
from seva_ray.stages.study.tune_messages import without_tracebacks
from seva_ray.studies.space import Space

SPACE = Space(views=("diffusion-600",), betas=(0.5, 0.125, 0.375))
CONTEXT = cast(StudyContext, SimpleNamespace(train=Train(num_pairs=96)))
NOT_A_DIRECTORY = "policies: is not a directory"


@ray.remote(num_cpus=0)
class MadeUpServer:
    """A greater beta has a greater gain. The process of the trial that first asks for `killed_beta` is killed."""

    def __init__(self, failing_betas: list[float], killed_beta: float | None) -> None:
        self.failing_betas, self.killed_beta = failing_betas, killed_beta

    def measure(self, values: Mapping[str, Any], num_pairs: int | None) -> dict[str, Any]:
        if values["beta"] == self.killed_beta:
            self.killed_beta = None
            (trial,) = [
                process
                for process in psutil.Process(os.getppid()).children()  # of the node: this server, and the trials
                if process.cmdline() and process.cmdline()[0].startswith("ray::ImplicitFunc")
            ]
            trial.kill()
        if values["beta"] in self.failing_betas:
            raise UserError(NOT_A_DIRECTORY)
        return {"num_pairs": num_pairs or 0, "error": "", "gain": values["beta"]}


@pytest.fixture
def searched(ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[TrialOutcome]]:
    monkeypatch.setenv("TUNE_DISABLE_SIGINT_HANDLER", "1")
    monkeypatch.setenv("TUNE_PRINT_ALL_TRIAL_ERRORS", "1")  # what the search sets goes after the test
    monkeypatch.delenv("TUNE_PRINT_ALL_TRIAL_ERRORS")

    def search(config: Search, failing_betas: list[float], killed_beta: float | None = None) -> list[TrialOutcome]:
        """What a search has found that is begun, or gone on with, in the folder of this test."""
        server = MadeUpServer.options(name="made up").remote(failing_betas, killed_beta)  # type: ignore[attr-defined]
        try:
            return [outcome(found) for found in tuner(config, SPACE, CONTEXT, "made up", str(tmp_path)).fit()]
        finally:
            ray.kill(server)

    return search


def test_halving_measures_on_all_pairs_only_what_is_as_good_as_the_points_before_it(searched: Callable):
    config = Search(scheduler="asha", num_rungs=3, max_concurrent=1)  # one after the other: the order is the space's
    found = {item.point.beta: (item.num_pairs, item.error, item.lasts) for item in searched(config, [])}
    assert found == {0.5: ([24, 48, 96], "", True), 0.125: ([24], "", True), 0.375: ([24, 48], "", True)}


def test_a_trial_whose_process_is_killed_is_measured_all_the_same(searched: Callable):
    found = searched(Search(max_concurrent=1), [], killed_beta=0.125)
    assert {item.point.beta: (item.num_pairs, item.error) for item in found} == {
        beta: ([96], "") for beta in SPACE.betas
    }


def test_points_that_failed_are_tried_again_by_the_next_search_and_the_others_are_not(
    searched: Callable, caplog: pytest.LogCaptureFixture
):
    found = {item.point.beta: item for item in searched(Search(), failing_betas=[0.125])}
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR or record.exc_info]
    assert not said, "the server says why a point failed, and Tune repeats it in a traceback"
    assert [beta for beta, item in found.items() if item.error] == [0.125]
    assert NOT_A_DIRECTORY in found[0.125].error
    assert not found[0.125].lasts
    # The points that were measured would fail now.
    again = {item.point.beta: item for item in searched(Search(), failing_betas=[0.5, 0.375])}
    assert {beta: (item.num_pairs, item.error) for beta, item in again.items()} == {
        beta: ([96], "") for beta in SPACE.betas
    }


def test_of_an_error_in_tune_itself_the_line_that_names_it_is_left():
    said: list[str] = []

    class Keeps(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(self.format(record))

    tune, keeps = logging.getLogger("ray.tune.execution.experiment_state"), Keeps()
    tune.addHandler(keeps)
    try:
        without_tracebacks()
        try:
            raise TimeoutError("no answer\nfrom the store")
        except TimeoutError:
            tune.error("Saving %s failed:", "x", exc_info=True, stack_info=True)
        tune.error("Trials did not complete: %s", ["a"])
    finally:
        tune.removeHandler(keeps)
    assert said == ["Saving x failed: (TimeoutError: no answer)"]
