"""A driver reads what it needs of a remote model without its weights."""

import shutil
from pathlib import Path

import fsspec
import pytest

from seva_ray.core import digests, node_cache, outlines
from seva_ray.core.directories import write_directory
from seva_ray.core.errors import InputError
from seva_ray.core.outlines import local_outline
from seva_ray.vlm.model_files import weight_headers
from seva_ray.vlm.model_shape import shape_of
from seva_ray.vlm.models import model_at
from tests.s3_server import s3_bucket

LARGE = 1_000_000
"""Bytes of a large file in these tests: less than the toy's weights take, and more than its vocabulary."""


def space_of(directory: str) -> int:
    return sum(512 * file.stat().st_blocks for file in Path(directory).rglob("*"))


def test_a_local_directory_is_its_own_outline(tmp_path: Path):
    assert local_outline(str(tmp_path)) == str(tmp_path)


def test_the_driver_checks_names_and_measures_a_remote_model_without_fetching_its_weights(
    toy_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    for module, name in ((outlines, "LARGE_BYTES"), (digests, "KEPT_BYTES")):
        monkeypatch.setattr(module, name, LARGE)
    expected = model_at(toy_model)
    with s3_bucket("outlines") as root:
        write_directory(f"{root}/toy", str(shutil.copytree(toy_model, tmp_path / "copy")))
        assert model_at(f"{root}/toy").fingerprint == expected.fingerprint
        outline = local_outline(f"{root}/toy")
        assert local_outline(f"{root}/toy") == outline
    weights = Path(outline, "model.safetensors")
    assert weights.stat().st_size == Path(toy_model, "model.safetensors").stat().st_size > LARGE
    assert weight_headers(outline) == weight_headers(toy_model)
    assert shape_of(outline) == shape_of(toy_model)
    assert space_of(outline) < LARGE
    assert not (tmp_path / ".cache/seva_ray").exists(), "nothing was copied as a whole"


def test_a_store_that_does_not_say_when_files_change_is_copied_as_a_whole(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(outlines, "LARGE_BYTES", 10)
    monkeypatch.setattr(node_cache, "tag_of", lambda item, names: None)
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/outlines/model.safetensors", b"0123456789")
    try:
        assert Path(local_outline("memory://outlines"), "model.safetensors").read_bytes() == b"0123456789"
    finally:
        memory.rm("/outlines", recursive=True)


def test_a_remote_directory_that_is_not_there_is_one_line():
    with pytest.raises(InputError, match="memory://outlines-nothing: no such directory"):
        local_outline("memory://outlines-nothing")


def test_a_large_file_that_is_no_weights_becomes_a_file_of_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(outlines, "LARGE_BYTES", 10)
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/outlines/video", b"\xff" * 50)
    try:
        copy = Path(local_outline("memory://outlines", str(tmp_path)), "video")
        assert copy.read_bytes() == b"\xff" * 8 + bytes(42)
    finally:
        memory.rm("/outlines", recursive=True)
