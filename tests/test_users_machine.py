"""What a user's machine may have wrong: addresses of clusters, a home that cannot be written, closed pipes, modes."""

import errno
import json
import os
import shlex
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pyarrow as pa
import pytest
import ray

from seva_ray.core import artifacts
from seva_ray.core.directories import write_directory
from seva_ray.core.errors import InputError
from seva_ray.core.home import cache_directory
from seva_ray.core.storage import write_table
from seva_ray.engines import units
from seva_ray.private.ray import address_for
from seva_ray.runtime import home
from seva_ray.runtime.address import CLIENT_SERVICE, HEAD_SERVICE, check_address
from seva_ray.runtime.cluster import join
from tests.ray_head import free_port
from tests.test_job import JOB
from tests.test_presets import JOBS

ROOT = str(Path(__file__).parent.parent)


@pytest.mark.parametrize(
    ("address", "line"),
    [
        ("http://127.0.0.1:8265", "this is the address of a dashboard, which `ray job submit` takes"),
        ("127.0.0.1:{port}", "nobody answers there (Connection refused); is the cluster running?"),
        ("no-such-host.invalid:6379", "nobody answers there"),
        ("127.0.0.1:123456", "nobody answers there"),
        ("ray://127.0.0.1:{port}", "nobody answers there (Connection refused); is the cluster running?"),
        ("localhost", "Invalid address format: localhost"),
        ("6379", "must be HOST:6379, or ray://HOST:10001"),
        (":6379", "must be HOST:6379, or ray://HOST:10001"),
        ("ray://127.0.0.1", "must be HOST:6379, or ray://HOST:10001"),
        ("ray://", "must be HOST:6379, or ray://HOST:10001"),
    ],
)
def test_an_address_where_no_cluster_listens_is_one_line_within_seconds(
    address: str, line: str, monkeypatch: pytest.MonkeyPatch
):
    address = address.format(port=free_port())
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr("seva_ray.runtime.cluster.connected", lambda: False)
    began = time.monotonic()
    with pytest.raises(InputError) as caught:
        join()
    assert str(caught.value).startswith(f"RAY_ADDRESS {address}: ")
    assert line in str(caught.value)
    assert time.monotonic() - began < 20


def test_an_address_that_a_cluster_has_left_behind_is_one_line_within_seconds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """`ray start` leaves this when its machine loses power. Without our check, Ray would wait for two minutes."""
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{free_port()}")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", set)  # of other clusters on this machine
    with pytest.raises(
        InputError, match=r"^RAY_ADDRESS auto: nobody answers at \S+:\d+, the last cluster of this machine "
    ):
        check_address("auto")


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_server_that_is_no_ray_cluster_is_one_line(scheme: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("seva_ray.runtime.address.CONNECT_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"{scheme}127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(InputError, match=f"^RAY_ADDRESS {address}: what answers there is no Ray cluster; by defau"):
            check_address(address)


def test_addresses_that_ray_knows_by_itself_are_left_to_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("seva_ray.runtime.address.address_for", lambda address: None)
    for address in ("local", "auto"):
        check_address(address)


@pytest.fixture
def serving() -> Iterator[Callable[..., str]]:
    """Starts a server of gRPC that has one method, and returns its address."""
    servers = []

    def serve(method: str, token: str = "") -> str:
        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            if token and ("authorization", f"Bearer {token}") not in context.invocation_metadata():
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
            return b""

        service, name = method.strip("/").split("/")
        handler = grpc.unary_unary_rpc_method_handler(answer)
        server = grpc.server(ThreadPoolExecutor(1))
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {name: handler}),))
        servers.append(server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        return f"127.0.0.1:{port}"

    yield serve
    for server in servers:
        server.stop(None)


def test_a_cluster_that_answers_is_left_to_ray(serving: Callable[..., str]):
    check_address(serving(HEAD_SERVICE))
    check_address(f"ray://{serving(CLIENT_SERVICE)}")


def test_the_port_of_heads_and_that_of_clients_are_told_apart(serving: Callable[..., str]):
    """Ray tries either for half a minute and longer."""
    with pytest.raises(InputError, match=r"what answers there is not the head of a Ray cluster; by default it is HOST"):
        check_address(serving(CLIENT_SERVICE))
    with pytest.raises(InputError, match=r"what answers there takes no clients by ray://; by default it is HOST:6379"):
        check_address(f"ray://{serving(HEAD_SERVICE)}")


def test_another_token_than_the_clusters_is_one_line(serving: Callable[..., str], monkeypatch: pytest.MonkeyPatch):
    """Ray tries it for 20 s, with a warning every second."""
    monkeypatch.setattr("ray._private.authentication.authentication_utils.is_token_auth_enabled", lambda: True)
    monkeypatch.setattr(
        "ray._private.authentication.grpc_authentication_client_interceptor._get_authentication_metadata_tuple",
        lambda: (("authorization", "Bearer mine"),),
    )
    check_address(serving(HEAD_SERVICE, token="mine"))
    with pytest.raises(InputError, match=r"what answers there takes another token; RAY_AUTH_MODE and RAY_AUTH_TOKEN "):
        check_address(serving(HEAD_SERVICE, token="theirs"))


def test_a_head_that_listens_on_loopback_alone_is_joined_there(
    serving: Callable[..., str], monkeypatch: pytest.MonkeyPatch
):
    """By itself Ray takes another address of this machine for 127.0.0.1, and tries that for minutes."""
    monkeypatch.setattr("ray._private.ray_constants.ENABLE_RAY_CLUSTER", True)
    monkeypatch.setattr("ray._private.worker._global_node", None)
    monkeypatch.setattr("ray._private.services.node_ip_address_from_perspective", lambda _: "127.0.0.2")
    place = serving(HEAD_SERVICE)
    assert address_for(place) != place
    check_address(place)
    assert address_for(place) == place, "what Ray then connects to"


MISMATCH = """Version mismatch: The cluster was started with:
    Ray: 2.54.0
    Python: 3.11.7
This process on node 127.0.0.1 was started with:
    Ray: 2.60.0
    Python: 3.11.7
"""


LATE = "The current node timed out during startup. This could happen because the raylet failed to startup\nor the GCS."


@pytest.mark.parametrize(
    "error", [RuntimeError(MISMATCH), ValueError("odd\naddress"), ConnectionError("none"), Exception(LATE)]
)
def test_whatever_ray_says_at_the_start_is_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch):
    """Its messages, raised here: two versions of Ray are not at hand."""

    def fails(**_: object) -> None:
        raise error

    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr("seva_ray.runtime.address.address_for", lambda address: None)
    monkeypatch.setattr("seva_ray.runtime.cluster.connected", lambda: False)
    monkeypatch.setattr(ray, "init", fails)
    with pytest.raises(InputError) as caught:
        join()
    line = str(caught.value)
    assert line.startswith("RAY_ADDRESS auto: no connection to a Ray cluster there; ")
    assert "\n" not in line
    assert isinstance(error, ConnectionError) or " ".join(str(error).split()) in line


@pytest.mark.parametrize(("num_late", "is_there"), [(0, True), (1, True), (2, False)])
def test_a_machine_too_busy_to_start_ray_in_time_gets_a_second_start(
    num_late: int, is_there: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    starts: list[object] = []

    def init(**given: object) -> None:
        starts.append(given)
        if len(starts) <= num_late:
            raise Exception(LATE)

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("seva_ray.runtime.cluster.connected", lambda: False)
    monkeypatch.setattr("seva_ray.runtime.metrics.joined", lambda: None)
    monkeypatch.setattr(ray, "init", init)
    if is_there:
        join()
    else:
        with pytest.raises(InputError, match="Ray cannot start here: The current node timed out during startup"):
            join()
    assert len(starts) == min(num_late + 1, 2)
    assert ("started once more" in capsys.readouterr().err) == (num_late > 0)


READ_ONLY_HOME = """
import json, os
from seva_ray.runtime.home import use_other_places
use_other_places()
names = ("HF_HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR", "RAY_AUTH_TOKEN")
print(json.dumps({name: os.environ.get(name) for name in names}))
"""


def environment_with(home: Path, mount: str) -> dict[str, str]:
    """What the environment is in a process whose home is `home`, mounted so."""
    home.mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "XDG_CACHE_HOME")}
    script = f'mount -t tmpfs -o {mount} tmpfs {shlex.quote(str(home))} && exec "$0" -c "$1"'
    done = subprocess.run(
        ["unshare", "--mount", "bash", "-c", script, sys.executable, READ_ONLY_HOME],
        env=kept | {"HOME": str(home), "PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
    )
    if "unshare failed" in done.stderr or "permission denied" in done.stderr:
        pytest.skip("no right to a mount namespace here")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_home_that_cannot_be_written_is_replaced_for_what_libraries_keep_there(tmp_path: Path):
    found = environment_with(tmp_path / "home", "ro")
    assert found["HF_HOME"] == f"{tmp_path}/home/.cache/huggingface"
    assert len(found["RAY_AUTH_TOKEN"]) == 64
    assert os.access(Path(found["XDG_CACHE_HOME"]).parent, os.W_OK)
    assert Path(found["MPLCONFIGDIR"]).parent == Path(found["XDG_CACHE_HOME"]).parent
    assert set(environment_with(tmp_path / "home", "rw").values()) <= {None, os.environ.get("HF_HOME")}
    assert environment_with(tmp_path / "home", "nr_inodes=1")["RAY_AUTH_TOKEN"], "a disk that is full"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the variables that `use_other_places` may set; they are as before afterwards."""
    for name in (*home.PLACES, "HF_HOME", "RAY_AUTH_TOKEN", "RAY_ADDRESS", "TMPDIR"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.parametrize("place", ["/dev/null", "/nonexistent", "/proc"])
@pytest.mark.usefixtures("environment")
def test_a_home_that_is_no_directory_or_takes_no_file_is_replaced(place: str, monkeypatch: pytest.MonkeyPatch):
    """Rights do not tell: root may write everywhere, and anybody may write to /dev/null."""
    monkeypatch.setenv("HOME", place)
    home.use_other_places()
    caches = Path(os.environ["XDG_CACHE_HOME"])
    assert caches.parent.is_dir()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert cache_directory("seva_ray") == caches / "seva_ray"


@pytest.mark.usefixtures("environment")
def test_a_relative_home_is_one_place_for_all_processes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "some/where")
    home.use_other_places()
    assert Path(os.environ["HOME"]).is_dir()
    assert Path(os.environ["HOME"]).is_absolute()


@pytest.mark.usefixtures("environment")
def test_what_another_user_has_made_in_a_home_is_replaced_and_the_rest_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """As after a job under sudo. /proc takes the place of a directory of root's: nobody can write there."""
    monkeypatch.setenv("HOME", str(tmp_path))
    home.use_other_places()
    assert "XDG_CACHE_HOME" not in os.environ
    assert "RAY_AUTH_TOKEN" not in os.environ
    assert cache_directory("seva_ray") == tmp_path / ".cache" / "seva_ray"
    (tmp_path / ".ray").symlink_to("/proc")
    (tmp_path / ".config").symlink_to("/proc")
    home.use_other_places()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert Path(os.environ["XDG_CACHE_HOME"]).parent.is_dir()
    assert os.environ["HF_HOME"] == f"{tmp_path}/.cache/huggingface", "models are read there"


@pytest.mark.usefixtures("environment")
def test_a_tmpdir_that_cannot_be_written_is_replaced_for_ray_too_and_a_line_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("TMPDIR", "/proc")
    home.use_other_places()
    assert os.environ["TMPDIR"] == tempfile.gettempdir() != "/proc"
    assert (
        capsys.readouterr().err == f"TMPDIR /proc: cannot be written; temporary files are in {tempfile.gettempdir()}\n"
    )

    def none() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp', '/var/tmp']")

    monkeypatch.setattr("tempfile.gettempdir", none)
    with pytest.raises(InputError, match=r"^No usable temporary directory found in .*: TMPDIR must name a directory "):
        home.use_other_places()


@pytest.mark.parametrize(("words", "status"), [("--help", 0), ("--print-config", 0), ("", 141), ("2>&1", 141)])
def test_a_reader_that_has_read_enough_ends_a_job_quietly(words: str, status: int, tmp_path: Path):
    script = tmp_path / "job.py"
    script.write_text(JOB)
    job = f"{shlex.quote(sys.executable)} {script} {words}"
    closed = f"set -o pipefail; {{ sleep 0.2; {job}; }} | true"  # the reader has gone before the first line
    done = subprocess.run(["bash", "-c", closed], env=os.environ | {"PYTHONPATH": ROOT}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (status, "")


def test_a_terminal_that_cannot_show_a_name_gets_it_in_escapes(tmp_path: Path):
    script = tmp_path / "job.py"
    script.write_text(JOB.replace('print("ran with"', 'print("\uac00\ub098"'), encoding="utf-8")
    ascii_only = os.environ | {"PYTHONPATH": ROOT, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, script], env=ascii_only, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "\\uac00\\ub098 1\n"), done.stderr


def test_weights_can_be_read_by_whoever_may_read_other_files(tmp_path: Path):
    made = tmp_path / "made" / "inner"
    made.mkdir(parents=True)
    (made / "model.safetensors").touch(mode=0o600)
    before = os.umask(0o027)
    try:
        write_directory(str(tmp_path / "model"), str(tmp_path / "made"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "model" / "inner" / "model.safetensors").stat().st_mode) == 0o640


def test_a_file_of_responses_says_which_versions_made_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    uri, table = str(tmp_path / "responses.parquet"), pa.table({"prompt_id": ["a"]})
    write_table(uri, table)
    assert units.other_versions(uri) == [], "files of older versions do not say"
    write_table(uri, table.replace_schema_metadata({units.VERSIONS: json.dumps(artifacts.versions())}))
    assert units.other_versions(uri) == []
    monkeypatch.setattr(units, "versions", lambda: artifacts.versions() | {"torch": "9.9.9"})
    (change,) = units.other_versions(uri)
    assert change.startswith("torch ")
    assert change.endswith(" -> 9.9.9")


@pytest.mark.parametrize("job", JOBS)
def test_a_python_without_the_packages_is_one_line_that_names_the_one_to_use(job: str):
    file = Path(__file__).parent.parent / "jobs" / f"{job}.py"
    bare = [sys.executable, "-S", "-E", str(file)]  # no installed package can be imported
    done = subprocess.run(bare, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"error: {sys.executable} (Python 3.")
    assert "lacks seva_ray and tyro and ray: start the job with .venv/bin/python" in done.stderr
