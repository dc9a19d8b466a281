"""Images that were replaced since a prompt set was made are noticed: without a read if possible, or by `verify`."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from seva_ray.core.artifacts import Store
from seva_ray.core.errors import FingerprintMismatch
from seva_ray.core.storage import write_bytes
from seva_ray.sources import Table
from seva_ray.stages import image_digests, image_facts
from seva_ray.stages.image_digests import sample_of
from seva_ray.stages.prepare import Prepare, prepare
from tests.s3_server import s3_bucket


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "runs"))


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """One file of three questions, and images beside it, of which one is missing."""
    (tmp_path / "data" / "images").mkdir(parents=True)
    for name in "ab":
        (tmp_path / "data" / "images" / f"{name}.png").write_bytes(b"image " + name.encode())
    rows = [{"question": f"Is it {name}?", "image": f"{name}.png"} for name in "abc"]
    (tmp_path / "data" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Table(path=str(tmp_path / "data" / "rows.jsonl"), image_root=str(tmp_path / "data" / "images"))


@pytest.fixture
def unsampled(monkeypatch: pytest.MonkeyPatch) -> str:
    """An image that is not in the sample of which the record has digests, as most of a large set are not."""
    monkeypatch.setattr(image_digests, "NUM_IMAGES", 1)
    (sampled,) = sample_of(["a.png", "b.png"])
    return "b.png" if sampled == "a.png" else "a.png"


def test_an_image_of_another_size_is_noticed_without_a_read_and_with_its_old_contents_all_is_well(
    store: Store, table: Table, monkeypatch: pytest.MonkeyPatch
):
    prepare(Prepare(), store, "x", table)
    image = Path(str(table.image_root)) / "a.png"
    old, times = image.read_bytes(), image.stat()
    monkeypatch.setattr(image_facts, "digest_of", lambda *_: pytest.fail("an image is read"))
    prepare(Prepare(), store, "x", table)
    image.write_bytes(b"another image")
    line = r"^prompts/x: an image is another one .*: a.png under .* has 13 bytes, and had 7; choose another name for"
    with pytest.raises(FingerprintMismatch, match=line):
        prepare(Prepare(), store, "x", table)
    prepare(Prepare(), store, "y", table)
    image.write_bytes(old)
    os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))
    prepare(Prepare(), store, "x", table)


def test_an_image_that_was_written_again_is_compared_by_its_digest_if_one_is_known(
    store: Store, table: Table, unsampled: str, capsys: pytest.CaptureFixture[str]
):
    image = Path(str(table.image_root)) / unsampled
    prepare(Prepare(), store, "plain", table)
    prepare(Prepare(verify=True), store, "verified", table)
    os.utime(image, ns=(1, 1))
    capsys.readouterr()
    prepare(Prepare(), store, "verified", table)
    assert "written again" not in capsys.readouterr().err
    prepare(Prepare(), store, "plain", table)
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("prepare plain: 1 images under ")
    assert said.endswith(f"such as {unsampled}; they are taken for the same, as no digest of them is known")
    image.write_bytes(b"image X")
    with pytest.raises(FingerprintMismatch, match=f"^prompts/verified: .* {unsampled} under .* has other contents"):
        prepare(Prepare(), store, "verified", table)


def test_of_an_image_in_the_sample_a_digest_is_always_known(store: Store, table: Table):
    prepare(Prepare(), store, "x", table)
    image = Path(str(table.image_root)) / "a.png"
    os.utime(image, ns=(1, 1))
    prepare(Prepare(), store, "x", table)
    image.write_bytes(b"image A")
    with pytest.raises(FingerprintMismatch, match=r"^prompts/x: .* a.png under .* has other contents"):
        prepare(Prepare(), store, "x", table)


def test_verify_reads_what_has_the_same_size_and_time(store: Store, table: Table):
    prepare(Prepare(verify=True), store, "x", table)
    image = Path(str(table.image_root)) / "b.png"
    times = image.stat()
    image.write_bytes(b"image B")
    os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))
    prepare(Prepare(), store, "x", table)
    with pytest.raises(FingerprintMismatch, match=r"^prompts/x: .* b.png under .* has other contents"):
        prepare(Prepare(verify=True), store, "x", table)


def test_what_is_known_of_images_is_no_part_of_the_prompts(store: Store, table: Table):
    """Otherwise all answers would be made again when it is noted."""
    plain = prepare(Prepare(), store, "x", table)
    verified = prepare(Prepare(verify=True), store, "x", table)
    assert verified.contents == plain.contents != ""
    assert verified.fingerprint == plain.fingerprint


def test_an_image_in_an_object_store_is_known_by_its_tag(store: Store, table: Table, unsampled: str):
    with s3_bucket("replaced") as uri:
        for image in Path(str(table.image_root)).iterdir():
            write_bytes(f"{uri}/images/{image.name}", image.read_bytes())
        source = replace(table, image_root=f"{uri}/images")
        prepare(Prepare(), store, "x", source)
        prepare(Prepare(), store, "x", source)
        write_bytes(f"{uri}/images/{unsampled}", b"image X")
        with pytest.raises(FingerprintMismatch, match=f"^prompts/x: .* {unsampled} under s3://.* is another file"):
            prepare(Prepare(), store, "x", source)
