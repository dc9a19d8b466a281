"""Shared by the chaos tests: the machines, an S3 server beside them, a model, and prompts."""

import tempfile
from collections.abc import Iterator

import pytest

from seva_ray.vlm.models import Model, model_at
from tests.chaos.machines import Machines
from tests.s3_server import s3_bucket


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A bucket; machines that are started after it reach it too."""
    with s3_bucket("chaos") as uri:
        yield uri


@pytest.fixture(scope="module")  # three nodes that are idle take CPU time from all tests that follow
def machines(s3: str) -> Iterator[Machines]:
    # Ray's sockets need a short path.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as directory:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAY_TMPDIR", directory)  # also keeps the address from every other Ray on this host
            machines = Machines()
        yield machines
        machines.cluster.shutdown()


@pytest.fixture(scope="session")
def model(toy_model: str) -> Model:
    return model_at(toy_model)
