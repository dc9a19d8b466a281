"""Contents of directories, as a node's copy and a recipe follow them; and files that are written once."""

import base64
import errno
import hashlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from seva_ray.core import patience
from seva_ray.core.contents import contents, names_and_sizes
from seva_ray.core.node_cache import local_directory
from seva_ray.core.storage import (
    exists,
    names_in,
    read_bytes,
    remove,
    write_bytes,
    write_new,
    write_parts,
)
from seva_ray.runtime.cli import users_line
from tests.s3_server import s3_bucket

Entry = dict[str, Any]


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_bucket("storage") as uri:
        yield uri


class Listing(MemoryFileSystem):
    """A store in memory, whose listing of a file is that of another kind of store."""

    protocol = "listing"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    entry: ClassVar[Callable[[bytes, int], Entry]]
    """Makes the entry of a file from its bytes and the number of the write."""

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        found = super().ls(path, detail=True, **kwargs)
        for item in found:
            if item["type"] == "file":
                data = self.store[item["name"]].getvalue()
                number = int(item.pop("created") * 1e6)
                item.update(type(self).entry(data, number))
        return found if detail else sorted(item["name"] for item in found)


def gcsfs_entry(data: bytes, number: int) -> Entry:
    """The entry that gcsfs 2026.10 gives, which forwards the object resource of Google Cloud Storage."""
    return {
        "kind": "storage#object",
        "generation": str(number),
        "metageneration": "1",
        "storageClass": "STANDARD",
        "md5Hash": base64.b64encode(hashlib.md5(data).digest()).decode(),
        "crc32c": "AAAAAA==",
        "etag": f"C{number}=",
    }


def gcsfs_composed(data: bytes, number: int) -> Entry:
    """An object that was uploaded in parts has no md5Hash."""
    return {name: value for name, value in gcsfs_entry(data, number).items() if name != "md5Hash"}


def adlfs_entry(data: bytes, number: int) -> Entry:
    """The entry that adlfs 2026.8 gives."""
    return {"metadata": None, "content_settings": {}, "etag": f'"0x8D{number:X}"', "tags": None}


def sftp_entry(data: bytes, number: int) -> Entry:
    return {"uid": 0, "gid": 0, "mtime": number / 1e6}


def bare_entry(data: bytes, number: int) -> Entry:
    return {}


ENTRIES = [gcsfs_entry, gcsfs_composed, adlfs_entry, sftp_entry, bare_entry]
STORES = ["memory", "s3", *(entry.__name__ for entry in ENTRIES)]


@pytest.fixture
def remote(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The URI of an empty place in a store whose listings are those of `request.param`."""
    if request.param == "s3":
        yield f"{request.getfixturevalue('s3')}/{tmp_path.name}"
        return
    if request.param != "memory":
        (entry,) = (entry for entry in ENTRIES if entry.__name__ == request.param)
        monkeypatch.setattr(Listing, "entry", staticmethod(entry), raising=False)
        fsspec.register_implementation("listing", Listing, clobber=True)
    uri = f"{'memory' if request.param == 'memory' else 'listing'}://{tmp_path.name}"
    yield uri
    filesystem, path = fsspec.core.url_to_fs(uri)
    filesystem.rm(path, recursive=True)


def put(uri: str, data: bytes) -> None:
    filesystem, path = fsspec.core.url_to_fs(uri)
    filesystem.pipe_file(path, data)


@pytest.mark.parametrize("remote", STORES, indirect=True)
def test_a_model_that_was_made_again_with_equal_sizes_is_fetched_again(remote: str, tmp_path: Path):
    cache = str(tmp_path / "cache")
    for text in (b"OLD!", b"NEW!", b"OLD!"):
        put(f"{remote}/model/config.json", b"{}")
        put(f"{remote}/model/inner/weights", text)
        copy = Path(local_directory(f"{remote}/model", cache))
        assert (copy / "inner/weights").read_bytes() == text
        assert local_directory(f"{remote}/model", cache) == str(copy)
        assert not [name for name in os.listdir(cache) if name.endswith(".part")]


@pytest.mark.parametrize("remote", STORES, indirect=True)
def test_a_copy_is_left_as_it_is_while_the_store_has_the_same_files(remote: str, tmp_path: Path):
    cache = str(tmp_path / "cache")
    put(f"{remote}/model/weights", b"1234")
    copy = Path(local_directory(f"{remote}/model", cache))
    (copy / "weights").write_text("touched")
    again = Path(local_directory(f"{remote}/model", cache))
    assert again == copy
    assert (again / "weights").read_text() == "touched", "it was fetched a second time and put in the first's place"
    (copy / "weights").unlink()
    copy.rmdir()
    assert (Path(local_directory(f"{remote}/model", cache)) / "weights").read_bytes() == b"1234"


@pytest.mark.parametrize("remote", STORES, indirect=True)
def test_contents_of_a_remote_directory_change_when_a_file_is_edited_to_the_same_size(remote: str):
    put(f"{remote}/data/a.jsonl", b'{"question": "Is it red?"}')
    first = contents(f"{remote}/data")
    assert contents(f"{remote}/data") == first
    put(f"{remote}/data/a.jsonl", b'{"question": "Is it fox?"}')
    assert contents(f"{remote}/data") != first
    assert names_and_sizes(f"{remote}/data") == names_and_sizes(f"{remote}/data/")


@pytest.mark.parametrize("remote", ["memory", "s3", "gcsfs_entry", "sftp_entry", "bare_entry"], indirect=True)
def test_contents_of_an_equal_copy_are_equal_where_the_store_lets_them_be_known(remote: str):
    for name in ("here", "there"):
        put(f"{remote}/{name}/a.jsonl", b"one")
        put(f"{remote}/{name}/deep/b.jsonl", b"two")
    assert contents(f"{remote}/here") == contents(f"{remote}/there")


def test_contents_of_a_local_directory_name_every_byte_and_no_time_or_place(tmp_path: Path):
    for name in ("here", "there"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "a.bmp").write_bytes(b"an image")
    first = contents(str(tmp_path / "here"))
    os.utime(tmp_path / "there/deep/a.bmp", (1, 1))
    assert contents(str(tmp_path / "there")) == first
    (tmp_path / "here/deep/a.bmp").write_bytes(b"in mages")
    assert contents(str(tmp_path / "here")) != first


def test_what_is_no_readable_file_does_not_stop_the_digest_of_its_directory(tmp_path: Path):
    (tmp_path / "a.jpg").write_bytes(b"1")
    (tmp_path / "lost.jpg").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "linked").symlink_to(tmp_path, target_is_directory=True)
    first = contents(str(tmp_path))
    assert contents(str(tmp_path)) == first
    (tmp_path / "nowhere").write_bytes(b"there now")
    assert contents(str(tmp_path)) != first


# A file that is written only where there is none


@pytest.mark.parametrize("remote", ["memory", "s3", "bare_entry"], indirect=True)
def test_a_new_file_is_never_written_over_another_one(remote: str):
    check_write_new(remote)


def test_a_new_file_on_a_disk_is_never_written_over_another_one_and_leaves_no_part(tmp_path: Path):
    check_write_new(f"{tmp_path}/inner")
    assert os.listdir(tmp_path / "inner") == ["file"]


def test_a_disk_without_links_has_new_files_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def link(part: str, path: str) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "link", link)
    check_write_new(f"{tmp_path}/inner")
    assert os.listdir(tmp_path / "inner") == ["file"]


def test_a_link_whose_answer_was_lost_is_seen_to_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Over NFS the client asks again, and is then told that the name is taken: by itself."""
    link = os.link

    def link_twice(part: str, path: str) -> None:
        link(part, path)
        link(part, path)

    monkeypatch.setattr(os, "link", link_twice)
    check_write_new(f"{tmp_path}/inner")


def check_write_new(root: str) -> None:
    assert write_new(f"{root}/file", b"first")
    assert not write_new(f"{root}/file", b"second")
    assert read_bytes(f"{root}/file") == b"first"


class Vanishing(MemoryFileSystem):
    """A store whose files are removed by another process whenever this one has made sure that they exist."""

    protocol = "vanishing"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    def exists(self, path: str, **kwargs: Any) -> bool:
        found = super().exists(path, **kwargs)
        for name in [name for name in self.store if name.startswith(self._strip_protocol(path))]:
            del self.store[name]
        return found


def test_a_file_that_another_process_removes_in_the_same_moment_is_no_error():
    fsspec.register_implementation("vanishing", Vanishing, clobber=True)
    for work in (names_in, remove):
        write_bytes("vanishing://d/a", b"1")
        work("vanishing://d" if work is names_in else "vanishing://d/a")
    assert names_in("vanishing://nothing") == set()
    remove("vanishing://nothing/a")


@pytest.mark.parametrize("root", ["disk", "memory://parts"])
def test_a_file_in_parts_is_written_as_a_whole_or_not_at_all(tmp_path: Path, root: str):
    uri = f"{tmp_path / root}/file" if "://" not in root else f"{root}/file"

    def broken() -> Iterator[bytes]:
        yield b"one"
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        write_parts(uri, broken)
    assert not exists(uri)
    write_parts(uri, lambda: [b"one", b"two"])
    assert read_bytes(uri) == b"onetwo"
    assert names_in(uri.rpartition("/")[0]) == {"file"}


@pytest.mark.parametrize("there", [None, b"another's"])
def test_a_new_file_whose_reply_was_lost_is_still_this_process_s_own(
    tmp_path: Path, there: bytes | None, monkeypatch: pytest.MonkeyPatch
):
    uri, real = f"memory://{tmp_path.name}/mark", MemoryFileSystem.pipe_file
    lost: list[int] = []
    if there:
        write_bytes(uri, there)

    def pipe_file(*given: Any, **options: Any) -> None:
        real(*given, **options)
        lost.append(1)
        if len(lost) == 1:
            raise ConnectionResetError(errno.ECONNRESET, "reset by peer")

    monkeypatch.setattr(patience, "PAUSES_S", (0.0,))
    monkeypatch.setattr(MemoryFileSystem, "pipe_file", pipe_file)
    assert write_new(uri, b"mine") == (there is None)
    assert read_bytes(uri) == (there or b"mine")


def not_signed_in(uri: str) -> None:
    raise import_module("botocore.exceptions").NoCredentialsError  # the error of s3fs' own client


@pytest.mark.parametrize(
    ("ask", "uri", "line"),
    [
        (exists, "foo://bucket/x", "foo://bucket/x: Protocol not known: foo"),
        (exists, "gs://bucket/x", "gs://bucket/x: Please install gcsfs to access Google Storage"),
        (exists, "hf://owner/name", "hf://owner/name: Cannot reach https://huggingface.co/"),
        (patience.patient(not_signed_in), "s3://bucket/x", "s3://bucket/x: Unable to locate credentials"),
    ],
    ids=["unknown", "not-installed", "hub", "not-signed-in"],
)
def test_a_place_that_cannot_be_asked_is_one_line_at_once(
    ask: Callable[[str], object], uri: str, line: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    if uri.startswith("gs") and importlib.util.find_spec("gcsfs"):
        pytest.skip("gcsfs is installed")
    found = None
    try:
        ask(uri)
    except Exception as error:  # each library has its own
        found = users_line(error)
    assert found is not None
    assert found.startswith(line)
