"""Untrusted image files -> RGB images: checks paths and sizes before decoding, then turns common modes into 8-bit RGB.

In: a path under an image root (a local directory or an fsspec URI such as `s3://bucket/photos`), or the file's bytes.
Out: a decoded RGB image without metadata. Any fault of a file is an InputError with one line. (libtiff also writes its
own messages to stderr, which cannot be turned off for one file.)
"""

import os
import re
import socket
import threading
import unicodedata
import urllib.parse
import warnings
from io import BytesIO

import fsspec
import numpy as np
from fsspec.implementations.local import LocalFileSystem
from PIL import Image, UnidentifiedImageError

from seva_ray.core.errors import InputError
from seva_ray.core.patience import StorageUnavailable, patiently

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
"""Formats that are decoded. They are recognised by content, not by suffix. Vector formats, scripts and rarely used
decoders are left out."""

SUFFIXES = ("jpg", "jpeg", "png", "webp")
"""Suffixes that are tried if a path names no file."""

OTHER_FORMATS = (
    (b"ftypavif", "AVIF; save it as JPEG or PNG"),
    (b"ftypheic", "HEIC; save it as JPEG or PNG"),
    (b"ftypheix", "HEIC; save it as JPEG or PNG"),
    (b"ftypmif1", "HEIC; save it as JPEG or PNG"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "JPEG 2000; save it as JPEG or PNG"),
    (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "JPEG XL; save it as JPEG or PNG"),
    (b"version https://git-lfs", "a pointer of Git LFS; `git lfs pull` fetches the image"),
    (b"<!doctype html", "a web page"),
    (b"<html", "a web page"),
    (b"<svg", "SVG; save it as PNG"),
    (b"<?xml", "XML, such as SVG; save it as PNG"),
    (b"%pdf", "PDF; save its page as PNG"),
    (b"8bps", "a Photoshop file; save it as PNG"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"pk\x03\x04", "a zip archive"),
)
"""How other files begin that people have among their images (ISO media files: bytes 4 to 12), and what they are."""

MAX_PIXELS = 64_000_000
"""Default limit for the pixels of an image, and of the square that it is padded to where it is padded. PIL's own limit
(179 million) also applies."""

MAX_SCANS_PER_PIXEL = 32
"""How often a progressive JPEG of the largest size may go over its pixels. Cameras and libraries write about ten scans.
A scan may cost 53 bytes in the file and 0.2 s in the decoder, so a file of 1 MB could take half an hour."""

METADATA_BYTES = 2**24
"""How many bytes longer an encoded file may be than its raw RGBA pixels."""

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that undoes each EXIF orientation. Source: EXIF 2.32, tag 0x0112."""

ORIENTATION = 0x0112
START_OF_JPEG, START_OF_SCAN = b"\xff\xd8", b"\xff\xda"

quiet = threading.Lock()
"""Warnings are silenced for the whole process. Two threads that did it at once would leave each other's filters."""


def load_image(
    *, path: str | None, data: bytes | None, image_root: str | None, max_pixels: int = MAX_PIXELS, padded: bool = True
) -> Image.Image:
    """The decoded image, upright and RGB. If `data` is given, it is the file's content, and `path` is not read.
    `padded`: the image will be padded to a square, whose pixels count.

    An alpha channel is dropped as in LLaVA: transparent pixels show the colour stored under them.
    Raises: InputError; StorageUnavailable if the place does not answer, as the image may be fine.
    Deviates: LLaVA ignores EXIF orientation, so it sees some photographs lying on their side.
    """
    name = "image bytes" if data is not None else f"image {_short(repr(path))}"
    max_bytes = largest_file(max_pixels)
    if data is None:
        try:
            data = patiently(lambda: read_image(path, image_root, max_bytes), f"{image_root}/{path}", refusals=False)
        except StorageUnavailable:
            raise
        except FileNotFoundError:
            raise InputError(f"{name}: no such file under image_root{likely(path, image_root)}") from None
        except (OSError, ValueError, ImportError) as error:  # ImportError: the URI scheme is not installed
            raise InputError(f"{name}: {_reason(error)}") from None
    try:
        if not data:
            raise InputError("the file is empty")
        if len(data) > max_bytes:
            raise InputError(f"more than {max_bytes:,} bytes")
        # PIL warns about broken metadata, sizes and palettes. The warnings that matter are errors here.
        with quiet, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _decode(data, max_pixels, padded)
    except UnidentifiedImageError:
        raise InputError(f"{name}: {found_instead(data)}") from None
    except Exception as error:  # decoders raise all kinds of errors, and one file must not end a job
        raise InputError(f"{name}: {_reason(error)}") from None


def pad_to_square(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """The image centred on a square of `colour`.

    Source: `expand2square` of haotian-liu/LLaVA, llava/mm_utils.py: the smaller half of an odd border comes first.
    """
    side = max(image.size)
    if image.size == (side, side):
        return image
    square = Image.new("RGB", (side, side), colour)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def _decode(data: bytes, max_pixels: int, padded: bool) -> Image.Image:
    with Image.open(BytesIO(data), formats=FORMATS) as image:  # reads the header only
        width, height = image.size
        if width * height > max_pixels:
            raise InputError(f"{width}x{height} has more than {max_pixels:,} pixels")
        if padded and max(width, height) ** 2 > max_pixels:
            raise InputError(f"{width}x{height} padded to a square has more than {max_pixels:,} pixels")
        num_scans = data.count(START_OF_SCAN) if data.startswith(START_OF_JPEG) else 1
        if width * height * num_scans > max_pixels * MAX_SCANS_PER_PIXEL:
            raise InputError(f"{width}x{height} in {num_scans:,} scans would take too long to decode")
        image.load()
        upright = _upright(image)  # only after decoding: a TIFF turns itself upright and drops its tag
        rgb = _to_rgb(image)
    if upright is not None:
        rgb = rgb.transpose(upright)
    rgb.info = {}
    return rgb


def _upright(image: Image.Image) -> Image.Transpose | None:
    try:
        return UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # a photograph with broken EXIF is still a photograph
        return None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # PIL would clip at 255 instead of scaling, so almost every 16-bit image would become white.
        return Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise InputError(f"mode {image.mode}: 32-bit brightness without a known white level cannot be shown in 8 bits")
    return image if image.mode == "RGB" else image.convert("RGB")  # for RGB, convert would only copy


def largest_file(max_pixels: int) -> int:
    """The largest number of bytes of a file with an image of `max_pixels` pixels: as raw RGBA, and its metadata."""
    return 4 * max_pixels + METADATA_BYTES


def read_image(path: str | None, image_root: str | None, max_bytes: int = largest_file(MAX_PIXELS)) -> bytes:
    """The first `max_bytes` + 1 bytes of the file `path` under `image_root`. Raises: InputError, OSError."""
    if path is None:
        raise InputError("the row has neither a path nor bytes")
    if not image_root:
        raise InputError("the row has a path, but there is no image_root to find it under")
    filesystem, root = fsspec.core.url_to_fs(image_root)
    full = f"{root.rstrip('/')}/{_relative(path)}"
    if isinstance(filesystem, LocalFileSystem):
        _check_local(root, full)
    with filesystem.open(full, "rb") as file:
        return file.read(max_bytes + 1)


def _relative(path: str) -> str:
    """The path as it is joined to a root. Raises: InputError if it could lead out of the root."""
    parts = [urllib.parse.unquote(part) for part in re.split(r"[/\\]", path)]
    if path.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", path):
        raise InputError("the path is absolute, but only paths under image_root are read")
    if ".." in parts or "://" in path or "::" in path or "\0" in path:
        raise InputError("the path leaves image_root")
    inner = "/".join(part for part in path.split("/") if part not in ("", "."))
    if not inner:
        raise InputError("the path names no file")
    return inner


def _check_local(root: str, full: str) -> None:
    """Raises: InputError where the file is no regular file; StorageUnavailable where this machine lacks the root, so
    that the image may be fine elsewhere. Links under the root are the user's own, such as `coco` on another disk."""
    if not os.path.isdir(root):
        raise StorageUnavailable(f"image_root {root}: there is no such directory on {socket.gethostname()}")
    if not os.access(root, os.R_OK | os.X_OK):
        raise StorageUnavailable(f"image_root {root}: this process may not read it on {socket.gethostname()}")
    if os.path.exists(full) and not os.path.isfile(full):  # reading a pipe would block for ever
        raise InputError("not a regular file")


def found_instead(data: bytes) -> str:
    """What the content of a file is that is no image in one of the known formats."""
    start = data[:200].lstrip().lower()
    kind = next((kind for mark, kind in OTHER_FORMATS if mark in (data[4:12], data[:12]) or start.startswith(mark)), "")
    return f"not an image in one of the formats {', '.join(FORMATS)}{kind and f', but {kind}'}"


def likely(path: str | None, image_root: str | None) -> str:
    """What helps if the path names no file, but a file that is there has nearly this name; else an empty text."""
    if path is None or not image_root or not os.path.isdir(image_root):
        return ""
    slashes = path.replace("\\", "/")
    stem, dot, suffix = slashes.rpartition(".")
    near = [slashes, *(unicodedata.normalize(form, slashes) for form in ("NFC", "NFD"))]
    near += [f"{stem}.{other}" for other in (suffix.lower(), suffix.upper(), *SUFFIXES)] if dot else []
    near += [f"{slashes}.{other}" for other in SUFFIXES]
    there = next((name for name in near if os.path.isfile(os.path.join(image_root, name))), None)
    if there is None:
        return ""
    same = unicodedata.normalize("NFC", there) == unicodedata.normalize("NFC", path)
    return ", but the same name in another Unicode form is there" if same else f", but {there!r} is there"


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return _short(" ".join(str(error).split())) or type(error).__name__


def _short(text: str, limit: int = 200) -> str:
    return text if len(text) <= limit else f"{text[:limit]}..."
