"""A node's copies of remote directories stay within a limit, and no copy goes that a process holds."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from seva_ray.core import node_cache
from seva_ray.core.errors import InputError
from seva_ray.core.node_cache import LIMIT_VARIABLE, local_directory, remove_oldest
from seva_ray.core.storage import write_bytes

SIZE = 1000


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv(LIMIT_VARIABLE, str(3 * SIZE))
    node_cache.release()
    uri = f"memory://{tmp_path.name}"
    for name in "abcd":
        write_bytes(f"{uri}/{name}/weights", name.encode() * SIZE)
    yield uri
    filesystem, path = fsspec.core.url_to_fs(uri)
    filesystem.rm(path, recursive=True)


def copied(remote: str, names: str, cache: Path) -> list[Path]:
    """The copies, each asked for an hour after the one before."""
    copies = []
    for place, name in enumerate(names):
        copies.append(Path(local_directory(f"{remote}/{name}", str(cache))))
        os.utime(copies[-1], (place * 3600, place * 3600))
    return copies


def test_the_copy_that_was_asked_for_longest_ago_goes_when_the_limit_is_reached(remote: str, tmp_path: Path):
    a, b, c = copied(remote, "abc", tmp_path / "cache")
    assert [path.exists() for path in (a, b, c)] == [True, True, True]
    local_directory(f"{remote}/a", str(tmp_path / "cache"))
    (d,) = copied(remote, "d", tmp_path / "cache")
    assert [path.exists() for path in (a, b, c, d)] == [True, False, True, True]
    assert (Path(local_directory(f"{remote}/b", str(tmp_path / "cache"))) / "weights").read_bytes() == b"b" * SIZE


def test_a_copy_that_another_process_holds_stays(remote: str, tmp_path: Path):
    a, b, c = copied(remote, "abc", tmp_path / "cache")
    node_cache.release()
    code = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_SH); print(); input()"
    other = subprocess.Popen([sys.executable, "-c", code, str(a)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None
    other.stdout.readline()
    (d,) = copied(remote, "d", tmp_path / "cache")
    assert [path.exists() for path in (a, b, c, d)] == [True, False, True, True]
    other.communicate(b"\n", timeout=60)
    remove_oldest(tmp_path / "cache", SIZE)
    assert not a.exists()


def test_half_made_copies_of_killed_processes_go(remote: str, tmp_path: Path):
    copied(remote, "a", tmp_path / "cache")
    (tmp_path / "cache" / "0123.part").mkdir()
    copied(remote, "b", tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.part"))


def test_a_limit_that_is_no_number_is_one_line(remote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(LIMIT_VARIABLE, "10G")
    with pytest.raises(InputError, match="SEVA_NODE_CACHE_BYTES '10G': must be a number of bytes"):
        local_directory(f"{remote}/a", str(tmp_path / "cache"))
