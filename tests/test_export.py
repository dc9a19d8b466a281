"""Export through jobs/export.py, its push against a hub on loopback; all of it real but the hub."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from seva_ray.core.artifacts import Store
from seva_ray.core.directories import write_directory
from tests.environment import pythonpath
from tests.hub import Hub, serving

TOKEN = "hf_thisisasecret"
REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def root(toy_model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Artifacts as training leaves them, as far as an export reads them."""
    store = Store(str(tmp_path_factory.mktemp("runs")))
    pairs = store.open("pairs/toy/toy/moco", config={}).finish({"views": {"moco": {"kept": 10, "equal": 2}}})
    policy = store.open("policies/toy", config={"train": {"beta": 0.1}}, inputs=[pairs])
    write_directory(policy.path("model"), str(shutil.copytree(toy_model, tmp_path_factory.mktemp("copies") / "toy")))
    policy.finish({"num_pairs": 10, "num_steps": 2, "start": {"name": "toy-1"}})
    return store.root


def push(root: str, hub: Hub, to: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(REPOSITORY / "jobs" / "export.py"), "--root", root, "--name", "toy"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": TOKEN,
        "HF_HOME": str(to.parent / "hub"),
        "HF_HUB_DISABLE_XET": "1",
        "PYTHONPATH": pythonpath(),
    }
    return subprocess.run(
        [*command, "--export.to", str(to), "--export.push", "user/name"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_all_files_arrive_whole_in_a_private_repository_and_the_token_goes_no_further_than_a_header(root, tmp_path):
    with serving(Hub()) as hub:
        done = push(root, hub, tmp_path / "exported")
    assert done.returncode == 0, done.stderr
    assert [repository["visibility"] for repository in hub.created] == ["private"]
    exported = {path.name: path.read_bytes() for path in (tmp_path / "exported").iterdir()}
    assert hub.files == exported
    assert b"# toy" in hub.files["README.md"]
    assert hub.files["model.safetensors"] == Path(root, "policies/toy/model/model.safetensors").read_bytes()
    assert TOKEN not in done.stdout + done.stderr
    for request in hub.requests:
        assert (request.authorization == f"Bearer {TOKEN}") == ("user/name" in request.line or "POST" in request.line)
        assert TOKEN not in request.line + request.headers.replace(f"Bearer {TOKEN}", "")
        assert TOKEN.encode() not in request.body


@pytest.mark.parametrize(
    ("fails_at", "status", "line"),
    [
        ("/api/repos/create", 401, "401 Unauthorized"),
        ("/api/repos/create", 500, "500 Internal Server Error"),
        ("/api/repos/create", None, "disconnected"),
        ("/commit/", 403, "not today"),
        ("/large/", 403, "model.safetensors' to the Hub. 403 Forbidden: not today"),
    ],
)
def test_a_hub_that_fails_is_one_line_and_status_2(root, tmp_path, fails_at, status, line):
    with serving(Hub(fails_at=fails_at, status=status)) as hub:
        done = push(root, hub, tmp_path / "exported")
    assert done.returncode == 2, done.stderr
    start, *said = (text for text in done.stderr.splitlines() if not text.startswith("model.safetensors: ") and text)
    assert start == f"export toy: root {root}"
    (error,) = said
    assert error.startswith("error: push user/name: ")
    assert line in error
    assert TOKEN not in done.stdout + done.stderr
    assert not hub.files
    assert not (tmp_path / "exported").exists()
