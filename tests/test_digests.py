"""Digests of large files are kept, wherever the files lie."""

from pathlib import Path
from typing import Any

import fsspec
import pytest

from seva_ray.core import digests


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the files that were read to hash them."""
    paths: list[str] = []
    real = digests.sha256_of

    def counted(filesystem: Any, path: str) -> str:
        paths.append(path)
        return real(filesystem, path)

    monkeypatch.setattr(digests, "sha256_of", counted)
    monkeypatch.setattr(digests, "KEPT_BYTES", 1)
    return paths


def test_a_large_file_is_hashed_once_and_again_when_it_changes(
    tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
):
    file, cache = tmp_path / "weights", tmp_path / "cache"
    file.write_bytes(b"first")

    def digest() -> str:
        return digests.digest(file, str(cache))

    first = digest()
    assert digest() == first
    assert len(hashed) == 2, "a file that is only just written may be written again in the same tick of the clock"
    monkeypatch.setattr(digests, "SETTLED_S", -1.0)
    assert [digest() for _ in range(3)] == [first] * 3
    assert len(hashed) == 3
    file.write_bytes(b"other")
    assert digest() != first
    monkeypatch.setattr(digests, "KEPT_BYTES", 100)
    assert digest() != first
    assert len(hashed) == 5, "small files are always hashed"


def test_a_large_file_in_an_object_store_is_hashed_once_for_each_tag_that_the_store_gives_it(
    tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
):
    uri, cache, tags = "memory://digests/weights", tmp_path / "cache", {"ETag": "a"}
    memory = fsspec.filesystem("memory")
    real = type(memory).info
    monkeypatch.setattr(type(memory), "info", lambda self, path, **more: real(self, path, **more) | tags)
    local = tmp_path / "same"
    local.write_bytes(b"first")
    try:
        memory.pipe_file("/digests/weights", b"first")
        first = digests.digest(uri, str(cache))
        assert first == digests.digest(local, str(cache))
        hashed.clear()
        assert digests.digest(uri, str(cache)) == first
        assert not hashed
        memory.pipe_file("/digests/weights", b"other")
        tags["ETag"] = "b"
        assert digests.digest(uri, str(cache)) != first
        tags.clear()  # without a tag nothing shows a change
        digests.digest(uri, str(cache))
        digests.digest(uri, str(cache))
        assert len(hashed) == 3
    finally:
        memory.rm("/digests", recursive=True)
