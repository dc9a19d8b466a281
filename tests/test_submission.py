"""What travels with a submitted job, what its records say of it, and where its results may go."""

import json
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import create_package

from seva_ray.core.artifacts import Store
from seva_ray.core.errors import ConfigError
from seva_ray.core.provenance import git_commit
from seva_ray.core.submission import current_submission
from seva_ray.private.ray import SUBMISSION
from seva_ray.stages.export import Export, export

CHECKOUT = Path(__file__).parent.parent
SECRET = "hunter2"


def submitted(**runtime_env: object) -> str:
    """What Ray tells a submitted driver."""
    metadata = {"job_submission_id": "raysubmit_1", "job_name": "raysubmit_1", "git_commit": "0123456789ab"}
    return json.dumps({"runtime_env": runtime_env, "metadata": metadata})


@pytest.fixture
def in_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job whose working directory Ray copied."""
    environment = {"working_dir": "gcs://_ray_pkg_1.zip", "env_vars": {"B_TOKEN": SECRET, "A": "1"}}
    monkeypatch.setenv(SUBMISSION, submitted(**environment))


def test_only_what_jobs_are_made_of_travels_and_it_is_small(tmp_path: Path):
    checkout, package = tmp_path / "checkout", tmp_path / "package.zip"
    code = ("jobs", "seva_ray")
    for name in code:
        shutil.copytree(CHECKOUT / name, checkout / name)
    for name in (".rayignore", ".gitignore"):
        shutil.copy(CHECKOUT / name, checkout)
    for name in ("runs/a/model.safetensors", ".venv/bin/python", ".git/config", "build/x", "docs/x.png"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text("x")
    for name in (
        ".env",
        "auth_token",
        "weights.safetensors",
        "jobs/__pycache__/x.pyc",
        "seva_ray/toy/__pycache__/x.pyc",
    ):
        (checkout / name).parent.mkdir(exist_ok=True)
        (checkout / name).write_text("x")
    excludes = get_runtime_env_default_excludes()
    create_package(str(checkout), package, include_gitignore=True, include_parent_dir=False, excludes=excludes)
    found = {name for name in zipfile.ZipFile(package).namelist() if not name.endswith("/")}
    needed = {
        str(path.relative_to(checkout))
        for name in code
        for path in (checkout / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert found == needed
    assert package.stat().st_size < 2e6


@pytest.mark.usefixtures("in_a_copy")
def test_a_record_names_the_submitted_job_its_commit_and_variables_without_their_values(tmp_path: Path):
    record = Store(str(tmp_path)).open("a", config=1).finish({}).record
    assert record is not None
    assert record["git_commit"] == "0123456789ab"
    assert record["submission"] == {
        "id": "raysubmit_1",
        "git_commit": "0123456789ab",
        "runtime_env": {"working_dir": "gcs://_ray_pkg_1.zip", "env_vars": ["A", "B_TOKEN"]},
    }
    assert SECRET not in (tmp_path / "a" / "record.json").read_text()


@pytest.mark.usefixtures("in_a_copy")
def test_what_a_worker_finishes_names_the_job_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store, opened = Store(str(tmp_path)), Store(str(tmp_path)).open("b", config=1)
    sent = pickle.dumps((store, opened))
    monkeypatch.delenv(SUBMISSION)
    store, opened = pickle.loads(sent)
    for artifact in (store.open("a", config=1), opened):
        record = artifact.finish({}).record
        assert record["submission"]["id"] == "raysubmit_1"


def test_a_job_that_nobody_submitted_has_the_commit_of_its_checkout(tmp_path: Path):
    record = Store(str(tmp_path)).open("a", config=1).finish({}).record
    assert record is not None
    assert record["submission"] is None
    assert record["git_commit"] == git_commit()


def test_passwords_and_queries_of_addresses_are_not_recorded(monkeypatch: pytest.MonkeyPatch):
    environment = {
        "working_dir": f"https://{SECRET}@host/code.zip?X-Signature={SECRET}",
        "pip": {
            "packages": [
                "tyro>=1.0",
                f"x @ git+https://me:{SECRET}@host/x.git@v1",
                f"--index-url=http://a:{SECRET}@b/c",
            ]
        },
        "conda": {"variables": {"TOKEN": SECRET}},
    }
    monkeypatch.setenv(SUBMISSION, submitted(**environment))
    job = current_submission()
    assert job is not None
    assert SECRET not in json.dumps(job)
    assert job["runtime_env"]["working_dir"] == "https://host/code.zip"
    assert job["runtime_env"]["pip"]["packages"] == [
        "tyro>=1.0",
        "x @ git+https://host/x.git@v1",
        "--index-url=http://b/c",
    ]


@pytest.mark.usefixtures("in_a_copy")
def test_results_that_would_be_lost_with_the_copy_of_the_working_directory_are_refused(tmp_path: Path):
    line = "would be lost with this job's copy of the working directory; name a bucket, or an absolute path"
    with pytest.raises(ConfigError, match=f"root runs: {line}"):
        Store("runs")
    store = Store(str(tmp_path))
    with pytest.raises(ConfigError, match=f"to exported: {line}"):
        export(Export(to="exported"), store, "toy")
    for root in (str(tmp_path / "runs"), "s3://bucket/runs", "~/runs"):
        Store(root)


@pytest.mark.parametrize("environment", [{}, {"working_dir": "local:///opt/seva_ray"}], ids=["none", "in place"])
def test_a_relative_root_is_fine_where_nothing_was_copied(environment: dict, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(SUBMISSION, submitted(**environment))
    assert Store("runs").root == str(Path("runs").resolve())
