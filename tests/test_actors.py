"""Settings of Ray Data under which a job's actors run."""

from typing import Any

import pytest

from seva_ray.runtime import actors


@pytest.mark.parametrize(("alone", "limit"), [(True, actors.NEVER), (False, 0.5)])
def test_of_several_engines_on_a_single_machine_none_ends_because_it_waits(
    monkeypatch: pytest.MonkeyPatch, alone: bool, limit: float
):
    from ray.data import DataContext

    settings, found = DataContext.get_current().autoscaling_config, []
    monkeypatch.setattr(settings, "actor_pool_util_downscaling_threshold", 0.5)
    monkeypatch.setattr(actors, "is_one_node", lambda: alone)

    def dataset() -> Any:
        found.append(settings.actor_pool_util_downscaling_threshold)
        raise LookupError

    with pytest.raises(LookupError):
        next(actors.rows_of(dataset, "first", "others"))
    assert found == [limit]
    assert actors.NEVER < 0, "the use of an actor that waits is 0"
