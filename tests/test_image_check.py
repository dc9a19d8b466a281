"""Images are opened before a model loads: a wrong directory is told with its reason, and broken images by a limit."""

from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from seva_ray.core.errors import InputError
from seva_ray.core.patience import StorageUnavailable
from seva_ray.core.records import PROMPT_SCHEMA, Prompt, table
from seva_ray.core.storage import read_table, write_table
from seva_ray.stages import image_check
from seva_ray.stages.image_check import try_images

Check = Callable[[Sequence[int], float], None]
"""Checks images of which those with these numbers are not there, with this limit."""


def written(root: Path, prompts: Sequence[Prompt], shard_size: int = 10) -> list[str]:
    shards = [list(prompts[start : start + shard_size]) for start in range(0, len(prompts), shard_size)]
    uris = [str(root / f"shard-{number:06d}.parquet") for number in range(len(shards))]
    for uri, rows in zip(uris, shards, strict=True):
        write_table(uri, table(rows, PROMPT_SCHEMA))
    return uris


def prompt(number: int, **fields: object) -> Prompt:
    return Prompt(prompt_id=f"p{number}", image_id=str(number), question="what?", source="own", **fields)  # type: ignore[arg-type]


@pytest.fixture
def check(tmp_path: Path) -> Check:
    def check(missing: Sequence[int], max_unreadable: float) -> None:
        for number in set(range(40)) - set(missing):
            Image.new("RGB", (2, 2)).save(tmp_path / f"{number}.png")
        shards = written(tmp_path / "prompts", [prompt(number, image_path=f"{number}.png") for number in range(40)])
        try_images(shards, str(tmp_path), 10**6, max_unreadable)

    return check


def test_a_set_without_any_image_is_one_line_with_the_reason_and_the_place(check: Check, tmp_path: Path):
    with pytest.raises(InputError) as caught:
        check(range(40), 1.0)
    line = str(caught.value)
    assert line.startswith(f"generate: 40 of 40 images under {tmp_path} cannot be opened")
    assert line.endswith(".png': no such file under image_root")
    assert "\n" not in line


def test_a_share_above_the_limit_is_an_error_and_one_below_it_is_not(check: Check):
    check(range(10), 0.25)
    with pytest.raises(InputError, match="10 of 40 images"):
        check(range(10), 0.24)
    check(range(39), 1.0)


def test_images_inside_the_prompts_are_opened_too_and_rows_with_an_error_do_not_count(tmp_path: Path):
    file = BytesIO()
    Image.new("RGB", (2, 2)).save(file, "PNG")
    good, bad = prompt(0, image_bytes=file.getvalue()), prompt(1, image_bytes=b"no image")
    unusable = [prompt(number, error="no question") for number in range(2, 9)]
    try_images(written(tmp_path / "a", [good, *unusable]), None, 10**6, 0.0)
    with pytest.raises(InputError, match=r"generate: 1 of 1 images cannot be opened.*p1.*not an image"):
        try_images(written(tmp_path / "b", [bad, *unusable]), None, 10**6, 1.0)
    try_images(written(tmp_path / "c", unusable), None, 10**6, 0.0)


def test_no_more_than_a_sample_is_opened_from_a_few_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    opened: list[str | None] = []
    monkeypatch.setattr(image_check, "load_image", lambda path, **given: opened.append(path))
    shards = written(tmp_path, [prompt(number, image_path=str(number)) for number in range(400)])
    try_images(shards, str(tmp_path), 10**6, 1.0)
    assert len(set(opened)) == 64
    assert len({int(path or 0) // 10 for path in opened}) == 8


def test_of_images_inside_the_prompts_only_one_shard_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A shard may hold 128 MB of them."""
    read: list[tuple[str, list[str]]] = []

    def noted(uri: str, columns: list[str]):
        read.append((uri, columns))
        return read_table(uri, columns)

    monkeypatch.setattr(image_check, "read_table", noted)
    opened: list[bytes | str] = []
    monkeypatch.setattr(image_check, "load_image", lambda path, data, **given: opened.append(path or data))
    mixed = [prompt(number, image_bytes=b"%d" % number) for number in range(200)]
    mixed[5::10] = [prompt(number, image_path=str(number)) for number in range(5, 200, 10)]
    try_images(written(tmp_path, mixed, shard_size=50), str(tmp_path), 10**6, 1.0)
    assert len(opened) > 40
    assert len([uri for uri, columns in read if "image_bytes" in columns]) == 1
    assert len({int(found) // 50 for found in opened if isinstance(found, bytes)}) == 1


def test_a_place_that_does_not_answer_is_not_counted_as_unreadable_images(check: Check, tmp_path: Path):
    shards = written(tmp_path / "d", [prompt(number, image_path=f"{number}.png") for number in range(4)])
    with pytest.raises(StorageUnavailable, match="there is no such directory on"):
        try_images(shards, str(tmp_path / "not mounted"), 10**6, 1.0)
