"""Shared by the chaos tests: the machines, an S3 server beside them, a model, and prompts."""

import logging
import tempfile
from collections.abc import Iterator

import pytest
import s3fs
from moto.server import ThreadedMotoServer

from seva_ray.models import Model, model_at
from tests.chaos.machines import Machines


@pytest.fixture(scope="package")
def s3() -> Iterator[str]:
    """A bucket on a server of our own. Machines that are started after it reach it too."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "chaos")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "chaos")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("chaos")
        yield "s3://chaos"
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture(scope="package")
def machines(s3: str) -> Iterator[Machines]:
    # Ray's sockets need a short path.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as directory:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAY_TMPDIR", directory)  # also keeps the address from every other Ray on this host
            machines = Machines()
        yield machines
        machines.cluster.shutdown()


@pytest.fixture(scope="package")
def model(toy_model: str) -> Model:
    return model_at(toy_model)
