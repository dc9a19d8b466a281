"""What Ray Train's controller is told, and which helper processes it does not start."""

import os
from pathlib import Path

import pytest
from ray import cloudpickle
from ray.train import RunConfig, ScalingConfig

from seva_ray.private.ray import POLL_VARIABLE, PREEMPTION_VARIABLE, controller_settings, trainer


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (POLL_VARIABLE, PREEMPTION_VARIABLE):
        monkeypatch.setenv(name, "")  # so that it is removed again after the test
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize(("one_node", "watches"), [(True, "0"), (False, None)])
def test_settings_take_effect_in_the_process_that_receives_them_and_in_no_other(
    unset: pytest.MonkeyPatch, one_node: bool, watches: str | None
):
    sent = cloudpickle.dumps(controller_settings(poll_s=0.2, one_node=one_node))
    assert POLL_VARIABLE not in os.environ
    cloudpickle.loads(sent)
    assert (os.environ[POLL_VARIABLE], os.environ.get(PREEMPTION_VARIABLE)) == ("0.2", watches)


def test_what_the_user_has_set_stays(unset: pytest.MonkeyPatch):
    unset.setenv(POLL_VARIABLE, "7")
    cloudpickle.loads(cloudpickle.dumps(controller_settings(poll_s=0.2, one_node=True)))
    assert os.environ[POLL_VARIABLE] == "7"


@pytest.mark.parametrize("one_node", [True, False])
def test_a_trainer_has_rays_callbacks_without_those_that_start_processes_for_nothing(tmp_path: Path, one_node: bool):
    from ray.train.torch import TorchTrainer

    given = {"scaling_config": ScalingConfig(num_workers=1), "run_config": RunConfig(storage_path=str(tmp_path))}
    usual, ours = (
        {type(item).__name__ for item in made._create_default_callbacks()}
        for made in (TorchTrainer(print, **given), trainer(print, one_node=one_node, **given))
    )
    assert usual - ours == {"DatasetsCallback"} | ({"PlacementGroupCleanerCallback"} if one_node else set())
    assert ours < usual
