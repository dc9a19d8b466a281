"""Untrusted images: every mode comes out as upright RGB, every bad file as one line."""

import os
import struct
import threading
import unicodedata
import warnings
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any, NoReturn

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image, ImageFile, PngImagePlugin

from seva_ray.core import patience
from seva_ray.core.errors import InputError
from seva_ray.core.patience import WAIT_VARIABLE, StorageUnavailable
from seva_ray.vlm.images import load_image, pad_to_square
from tests.real_photos import photo, write_photos

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("photos")
    write_photos(folder)
    return str(folder / "images")


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(data: bytes, **options: Any) -> Image.Image:
    return load_image(path=None, data=data, image_root=None, **options)


def corners() -> Image.Image:
    """3x2, with a colour of its own in three corners: every turn and flip of it looks different."""
    image = Image.new("RGB", (3, 2), WHITE)
    for place, colour in {(0, 0): RED, (2, 0): GREEN, (0, 1): BLUE}.items():
        image.putpixel(place, colour)
    return image


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *before: bytes, num_rows: int | None = None) -> bytes:
    """A black 1-bit PNG, with chunks before its pixels; `num_rows` are there of the height it claims."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    pixels = png_chunk(b"IDAT", zlib.compress(bytes((width + 7) // 8 + 1) * (num_rows or height)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(before) + pixels + png_chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("path", "size", "original"),
    [
        ("ocr_vqa/page.jpg", (384, 191), "skimage/page.png"),  # L
        ("ocr_vqa/leaflet.jpg", (384, 191), "skimage/page.png"),  # a GIF called .jpg
        ("ocr_vqa/handwriting.jpg", (448, 172), "skimage/text.png"),  # turned by EXIF 6
        ("textvqa/astronaut.jpg", (512, 512), "skimage/astronaut.png"),
        ("textvqa/rocket.jpg", (640, 427), "skimage/rocket.jpg"),  # CMYK
        ("textvqa/motorcycle.jpg", (741, 500), "skimage/motorcycle_left.png"),  # turned by EXIF 3
        ("textvqa/coins.png", (384, 303), "skimage/coins.png"),  # I;16
        ("gqa/cat.png", (451, 300), "skimage/chelsea.png"),  # P with transparency
        ("gqa/camera.png", (512, 512), "skimage/camera.png"),  # LA
        ("gqa/china.jpg", (640, 427), "sklearn/china.jpg"),
    ],
)
def test_a_photograph_looks_the_same_in_every_mode(
    photos: str, path: str, size: tuple[int, int], original: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = load_image(path=path, data=None, image_root=photos)
    assert (image.mode, image.size, image.info) == ("RGB", size, {})
    difference = np.asarray(image).astype(int) - np.asarray(photo(original).convert("RGB")).astype(int)
    assert np.abs(difference).mean() < 6  # of 255: JPEG and a palette of 64 colours change a little


def test_shapes_at_the_edge_are_read(photos: str) -> None:
    assert load_image(path="gqa/dot.png", data=None, image_root=photos).size == (1, 1)
    assert load_image(path="ocr_vqa/banner.jpg", data=None, image_root=photos).size == (3000, 40)


@pytest.mark.parametrize(
    ("image", "kind", "expected"),
    [
        (Image.new("1", (2, 2), 1), "PNG", WHITE),
        (Image.new("L", (2, 2), 100), "BMP", (100, 100, 100)),
        (Image.new("LA", (2, 2), (100, 0)), "PNG", (100, 100, 100)),
        (Image.new("RGBA", (2, 2), (9, 8, 7, 0)), "PNG", (9, 8, 7)),
        (Image.new("RGBA", (2, 2), (9, 8, 7, 128)), "TIFF", (9, 8, 7)),
        (Image.new("CMYK", (2, 2), (0, 255, 255, 0)), "TIFF", RED),
        (Image.new("YCbCr", (2, 2), (255, 128, 128)), "TIFF", WHITE),
        (Image.fromarray(np.full((2, 2), 65535, np.uint16)), "PNG", WHITE),
        (Image.fromarray(np.full((2, 2), 100 * 257 + 128, np.uint16)), "TIFF", (100, 100, 100)),
        (Image.fromarray(np.full((2, 2), 100 * 257 + 129, np.uint16)), "TIFF", (101, 101, 101)),
    ],
)
def test_each_mode_becomes_the_rgb_it_stands_for(image: Image.Image, kind: str, expected: tuple[int, ...]) -> None:
    result = decoded(encoded(image, kind))
    assert result.mode == "RGB"
    assert {result.getpixel((x, y)) for x in range(2) for y in range(2)} == {expected}


def test_a_palette_with_transparency_keeps_its_colours_and_prints_nothing() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *GREEN])
    image.putpixel((1, 0), 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = decoded(encoded(image, "PNG", transparency=bytes([0, 128])))
    assert [result.getpixel((x, 0)) for x in range(2)] == [RED, GREEN]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, GREEN, BLUE)]
    lossless = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **lossless)
    assert decoded(data).getpixel((1, 1)) == RED


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (1, ((3, 2), (RED, GREEN, BLUE, WHITE))),
        (2, ((3, 2), (GREEN, RED, WHITE, BLUE))),
        (3, ((3, 2), (WHITE, BLUE, GREEN, RED))),
        (4, ((3, 2), (BLUE, WHITE, RED, GREEN))),
        (5, ((2, 3), (RED, BLUE, GREEN, WHITE))),
        (6, ((2, 3), (BLUE, RED, WHITE, GREEN))),
        (7, ((2, 3), (WHITE, GREEN, BLUE, RED))),
        (8, ((2, 3), (GREEN, WHITE, RED, BLUE))),
        (99, ((3, 2), (RED, GREEN, BLUE, WHITE))),
    ],
)
def test_exif_orientation_is_undone_once(kind: str, orientation: int, expected: tuple) -> None:
    """Expected: the size, and the corners top left, top right, bottom left, bottom right."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    result = decoded(encoded(corners(), kind, exif=exif))
    right, bottom = result.width - 1, result.height - 1
    found = tuple(result.getpixel(place) for place in [(0, 0), (right, 0), (0, bottom), (right, bottom)])
    assert (result.size, found) == expected


def test_broken_exif_does_not_cost_the_photograph() -> None:
    profile = PngImagePlugin.PngInfo()
    profile.add_text("Raw profile type exif", "\nexif\n4\nno hex")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decoded(encoded(corners(), "PNG", pnginfo=profile)).size == (3, 2)
        cut = b"Exif\0\0II*\0\x08\0\0\0\xff\xff broken"
        assert decoded(encoded(corners(), "JPEG", exif=cut)).size == (3, 2)


BAD_FILES = {
    "empty": (b"", "the file is empty"),
    "avif": (b"\0\0\0\x1cftypavif\0\0\0\0", "WEBP, BMP, GIF, TIFF, but AVIF; save it as JPEG or PNG"),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0", "but HEIC; save it as JPEG or PNG"),
    "git lfs": (b"version https://git-lfs.github.com/spec/v1\n", "but a pointer of Git LFS; `git lfs pull` fetches"),
    "web page": (b"\n<!DOCTYPE html><html>404", "but a web page"),
    "text": (b"this is a text\n", "not an image in one of the formats JPEG, PNG, WEBP, BMP, GIF, TIFF"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg' width='1' height='1'/>", "not an image in one of the formats"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "not an image in one of the formats"),
    "ppm": (encoded(Image.new("RGB", (4, 4)), "PPM"), "not an image in one of the formats"),
    "ico": (encoded(Image.new("RGB", (4, 4)), "ICO"), "not an image in one of the formats"),
    "jpeg 2000": (encoded(Image.new("RGB", (4, 4)), "JPEG2000"), "not an image in one of the formats"),
    "icns": (encoded(Image.new("RGBA", (16, 16)), "ICNS"), "not an image in one of the formats"),
    "a whole avif": (b"\0\0\0\x20ftypavif\0\0\0\0avifmif1miaf" + bytes(64), "not an image in one of the formats"),
    "half a jpeg": (encoded(photo("skimage/coffee.png"), "JPEG")[:20_000], "truncated"),
    "half a png": (encoded(photo("skimage/coffee.png"), "PNG")[:200_000], "truncated"),
    "head of a jpeg": (encoded(photo("skimage/coffee.png"), "JPEG")[:100], "Truncated"),
    "float tiff": (encoded(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"), "mode F"),
    "int tiff": (encoded(Image.new("I", (2, 2), 70_000), "TIFF"), "mode I"),
}


@pytest.mark.parametrize(("data", "reason"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_file_is_one_line_with_the_reason(data: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(data)
    for options in ({"path": None, "data": data}, {"path": "photo.jpg", "data": None}):
        with pytest.raises(InputError) as caught:
            load_image(image_root=str(tmp_path), **options)
        name = "image 'photo.jpg': " if options["path"] else "image bytes: "
        assert str(caught.value).startswith(name)
        assert reason in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_bomb_is_refused_by_its_header() -> None:
    with pytest.raises(InputError, match="9000x9000 has more than 64,000,000 pixels"):
        decoded(png(9000, 9000))  # 10 KB, and less than what PIL itself warns of
    with pytest.raises(InputError, match="exceeds limit"):
        decoded(png(60_000, 60_000, num_rows=1))
    assert decoded(png(8000, 8000)).size == (8000, 8000)


def test_a_strip_that_would_be_a_bomb_once_padded_is_refused() -> None:
    with pytest.raises(InputError, match="60000x1 padded to a square has more than 64,000,000 pixels"):
        decoded(png(60_000, 1))
    with pytest.raises(InputError, match="1x101 padded"):
        decoded(png(1, 101), max_pixels=10_000)
    assert decoded(png(1, 100), max_pixels=10_000).size == (1, 100)


def test_a_small_file_that_would_take_minutes_to_decode_is_refused_at_once() -> None:
    jpeg = encoded(Image.new("RGB", (4000, 4000)), "JPEG", progressive=True)
    last = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    bomb = jpeg[:-2] + 20_000 * last + jpeg[-2:]
    with pytest.raises(InputError, match=r"4000x4000 in 20,0\d\d scans would take too long to decode"):
        decoded(bomb)
    for kept in (jpeg, encoded(photo("skimage/coffee.png"), "JPEG", progressive=True)[:-2] + 100 * last + jpeg[-2:]):
        assert decoded(kept)


def test_a_text_chunk_that_unpacks_to_more_than_the_image_is_refused() -> None:
    bomb = zlib.compress(bytes(100_000_000), 9)
    assert len(bomb) < 100_000
    for chunk in (png_chunk(b"zTXt", b"Comment\0\0" + bomb), png_chunk(b"iTXt", b"Comment\0\1\0\0\0" + bomb)):
        with pytest.raises(InputError, match="too large"):
            decoded(png(16, 16, chunk))


def test_a_file_longer_than_any_image_of_its_size_is_not_read_to_its_end(tmp_path: Path) -> None:
    with open(tmp_path / "long.jpg", "wb") as file:
        file.truncate(10**11)  # sparse
    with pytest.raises(InputError, match=r"image 'long.jpg': more than 16,817,216 bytes"):
        load_image(path="long.jpg", data=None, image_root=str(tmp_path), max_pixels=10_000)


@pytest.mark.parametrize(
    "path",
    [
        "../secret.png",
        "a/../../secret.png",
        "a/..",
        "..\\secret.png",
        "a\\..\\..\\secret.png",
        "%2e%2e/secret.png",
        "{tmp}/secret.png",
        "//host/secret.png",
        "\\\\host\\secret.png",
        "C:\\secret.png",
        "c:secret.png",
        "file://{tmp}/secret.png",
        "s3://bucket/secret.png",
        "secret.png::{tmp}/secret.zip",
        "secret.png\0.jpg",
        "",
        ".",
    ],
)
def test_a_path_that_leads_out_of_the_root_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "root" / "a").mkdir(parents=True)
    photo("skimage/camera.png").save(tmp_path / "secret.png")
    with pytest.raises(InputError, match=r"only paths under image_root|leaves image_root|names no file") as caught:
        load_image(path=path.replace("{tmp}", str(tmp_path)), data=None, image_root=str(tmp_path / "root"))
    assert "\n" not in str(caught.value)


def test_links_under_the_root_are_followed_as_they_are_the_users_own(tmp_path: Path) -> None:
    root, other = tmp_path / "root", tmp_path / "other disk"
    root.mkdir()
    other.mkdir()
    corners().save(other / "a.png")
    (root / "coco").symlink_to(other)
    (root / "b.png").symlink_to(other / "a.png")
    (tmp_path / "entrance").symlink_to(root)
    for image_root in (root, tmp_path / "entrance"):
        for path in ("./coco//a.png", "b.png"):
            assert load_image(path=path, data=None, image_root=str(image_root)).size == (3, 2)
        with pytest.raises(InputError, match="leaves image_root"):
            load_image(path="coco/../b.png", data=None, image_root=str(image_root))


def test_a_machine_without_the_root_says_nothing_about_the_image(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailable, match=r"image_root .*not mounted: there is no such directory on "):
        load_image(path="a.png", data=None, image_root=str(tmp_path / "not mounted"))


def test_a_root_that_may_not_be_read_says_nothing_about_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(tmp_path))  # root may read everything
    with pytest.raises(StorageUnavailable, match="this process may not read it on "):
        load_image(path="a.png", data=None, image_root=str(tmp_path))


def test_what_is_no_regular_file_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to("loop.png")
    for path, reason in {
        "pipe.png": "not a regular file",
        "folder.png": "not a regular file",
        "loop.png": "symbolic links",
        "missing.png": "no such file under image_root",
        "x" * 300: "File name too long",
    }.items():
        with pytest.raises(InputError, match=reason) as caught:
            load_image(path=path, data=None, image_root=str(tmp_path))
        assert len(str(caught.value)) < 300


def test_a_remote_root_is_read_and_guarded_like_a_local_one() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/photos/a/corners.png", encoded(corners(), "PNG"))
    memory.pipe_file("/secret.png", encoded(corners(), "PNG"))
    assert load_image(path="./a/corners.png", data=None, image_root="memory://photos").getpixel((0, 0)) == RED
    for path, reason in {"a/none.png": "no such file", "../secret.png": "leaves", "/secret.png": "absolute"}.items():
        with pytest.raises(InputError, match=reason):
            load_image(path=path, data=None, image_root="memory://photos")


class StoreThatIsAway(MemoryFileSystem):
    """A store whose network is down."""

    protocol = "away"

    def _open(self, path: str, *args: object, **options: object) -> NoReturn:
        raise ConnectionResetError("connection reset by peer")


def test_a_store_that_cannot_be_reached_is_not_the_images_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WAIT_VARIABLE, "0")
    fsspec.register_implementation("away", StoreThatIsAway, clobber=True)
    with pytest.raises(StorageUnavailable, match=r"away://photos/a\.png: .*connection reset by peer"):
        load_image(path="a.png", data=None, image_root="away://photos")


class StoreThatHangs(MemoryFileSystem):
    """A mount whose server is gone: a read never ends."""

    protocol = "hangs"
    released = threading.Event()

    def _open(self, path: str, *args: object, **options: object) -> NoReturn:
        self.released.wait()
        raise ConnectionResetError("the test has ended")


def test_a_read_that_never_ends_is_given_up_and_is_not_the_images_fault(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(WAIT_VARIABLE, "0.5")
    monkeypatch.setattr(patience, "LINE_EVERY_S", 0.2)
    fsspec.register_implementation("hangs", StoreThatHangs, clobber=True)
    try:
        with pytest.raises(StorageUnavailable, match=r"hangs://photos/a\.png: .*a read has not ended within 0\.5 s"):
            load_image(path="a.png", data=None, image_root="hangs://photos")
    finally:
        StoreThatHangs.released.set()
    assert "hangs://photos/a.png: a read has not ended: waiting up to 0.5 s" in caplog.messages


def test_a_row_without_image_or_root_says_so() -> None:
    with pytest.raises(InputError, match="neither a path nor bytes"):
        load_image(path=None, data=None, image_root="/tmp")
    with pytest.raises(InputError, match="no image_root"):
        load_image(path="a.png", data=None, image_root=None)
    with pytest.raises(InputError, match="nosuch"):
        load_image(path="a.png", data=None, image_root="nosuch://bucket")


def test_pil_is_left_as_it_was() -> None:
    before = (
        Image.MAX_IMAGE_PIXELS,
        ImageFile.LOAD_TRUNCATED_IMAGES,
        PngImagePlugin.MAX_TEXT_CHUNK,
        warnings.filters[:],
    )
    decoded(png(16, 16))
    with pytest.raises(InputError):
        decoded(b"no image")
    after = (
        Image.MAX_IMAGE_PIXELS,
        ImageFile.LOAD_TRUNCATED_IMAGES,
        PngImagePlugin.MAX_TEXT_CHUNK,
        warnings.filters[:],
    )
    assert after == before


@pytest.mark.parametrize(
    ("size", "offset"), [((3, 2), (0, 0)), ((5, 2), (0, 1)), ((2, 5), (1, 0)), ((4, 2), (0, 1)), ((3, 3), (0, 0))]
)
def test_padding_centres_the_image_with_the_smaller_half_of_the_border_first(
    size: tuple[int, int], offset: tuple[int, int]
) -> None:
    square = pad_to_square(Image.new("RGB", size, RED), BLUE)
    expected = np.full((max(size), max(size), 3), BLUE)
    expected[offset[1] : offset[1] + size[1], offset[0] : offset[0] + size[0]] = RED
    assert np.array_equal(np.asarray(square), expected)


@pytest.mark.parametrize(
    ("there", "asked", "help"),
    [
        ("a.JPG", "a.jpg", ", but 'a.JPG' is there"),
        ("a.png", "a", ", but 'a.png' is there"),
        ("b/a.png", "b\\a.png", ", but 'b/a.png' is there"),
        (
            "\uc0ac\uc9c4.png",
            unicodedata.normalize("NFD", "\uc0ac\uc9c4.png"),
            ", but the same name in another Unicode form is",
        ),
        ("a.png", "c.png", None),
    ],
)
def test_a_missing_file_with_nearly_the_name_of_another_says_so(
    tmp_path: Path, there: str, asked: str, help: str | None
) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / there).write_bytes(b"")
    with pytest.raises(InputError) as caught:
        load_image(path=asked, data=None, image_root=str(tmp_path))
    assert f"no such file under image_root{help or ''}" in str(caught.value)
    assert help is not None or str(caught.value).endswith("no such file under image_root")
