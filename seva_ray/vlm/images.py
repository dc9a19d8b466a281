"""Untrusted image files -> RGB images: checks paths and sizes of files, and has them decoded within limits.

In: a path under an image root (a local directory or an fsspec URI such as `s3://bucket/photos`), or the file's bytes.
Out: a decoded RGB image without metadata. Any fault of a file is an InputError with one line. (libtiff also writes its
own messages to stderr, which cannot be turned off for one file.)
"""

import os
import re
import socket
import unicodedata
import urllib.parse

from fsspec.implementations.local import LocalFileSystem
from PIL import Image

from seva_ray.core.errors import InputError
from seva_ray.core.listing import kind_of
from seva_ray.core.patience import StorageUnavailable, patiently, unless_it_hangs
from seva_ray.core.storage import locate
from seva_ray.vlm.decoder_process import decode_within_limits
from seva_ray.vlm.decoding import reason_of, shortened

SUFFIXES = ("jpg", "jpeg", "png", "webp")
"""Suffixes that are tried if a path names no file."""

MAX_PIXELS = 64_000_000
"""Default limit for the pixels of an image, and of the square that it is padded to where it is padded. PIL's own limit
(179 million) also applies."""

METADATA_BYTES = 2**24
"""How many bytes longer an encoded file may be than its raw RGBA pixels."""


def load_image(
    *, path: str | None, data: bytes | None, image_root: str | None, max_pixels: int = MAX_PIXELS, padded: bool = True
) -> Image.Image:
    """The decoded image, upright and RGB. If `data` is given, it is the file's content, and `path` is not read.
    `padded`: the image will be padded to a square, whose pixels count.

    An alpha channel is dropped as in LLaVA: transparent pixels show the colour stored under them.
    Raises: InputError; StorageUnavailable if the place does not answer, as the image may be fine;
    MemoryError if this machine has no memory left.
    Deviates: LLaVA ignores EXIF orientation, so it sees some photographs lying on their side.
    """
    name = "image bytes" if data is not None else f"image {shortened(repr(path))}"
    max_bytes = largest_file(max_pixels)
    if data is None:
        try:
            data = patiently(lambda: read_image(path, image_root, max_bytes), f"{image_root}/{path}", refusals=False)
        except StorageUnavailable:
            raise
        except FileNotFoundError:
            raise InputError(f"{name}: no such file under image_root{likely(path, image_root)}") from None
        except (OSError, ValueError, ImportError) as error:  # ImportError: the URI scheme is not installed
            raise InputError(f"{name}: {reason_of(error)}") from None
    try:
        if not data:
            raise InputError("the file is empty")
        if len(data) > max_bytes:
            raise InputError(f"more than {max_bytes:,} bytes")
        return decode_within_limits(data, max_pixels, padded)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


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


def largest_file(max_pixels: int) -> int:
    """The largest number of bytes of a file with an image of `max_pixels` pixels: as raw RGBA, and its metadata."""
    return 4 * max_pixels + METADATA_BYTES


def read_image(path: str | None, image_root: str | None, max_bytes: int = largest_file(MAX_PIXELS)) -> bytes:
    """The first `max_bytes` + 1 bytes of the file `path` under `image_root`. Raises: InputError; OSError, such as
    TimeoutError for a place that does not answer."""
    if path is None:
        raise InputError("the row has neither a path nor bytes")
    if not image_root:
        raise InputError("the row has a path, but there is no image_root to find it under")
    filesystem, root = locate(image_root)
    full = f"{root.rstrip('/')}/{_relative(path)}"

    def read() -> bytes:
        if isinstance(filesystem, LocalFileSystem):
            _check_local(root, full)
        with filesystem.open(full, "rb") as file:
            data: bytes = file.read(max_bytes + 1)
            return data

    return unless_it_hangs(read, f"{image_root}/{path}")


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
    if kind_of(LocalFileSystem(), root) != "directory":
        raise StorageUnavailable(f"image_root {root}: there is no such directory on {socket.gethostname()}")
    if not os.access(root, os.R_OK | os.X_OK):
        raise StorageUnavailable(f"image_root {root}: this process may not read it on {socket.gethostname()}")
    if kind_of(LocalFileSystem(), full) not in ("file", None):  # reading a pipe would block for ever
        raise InputError("not a regular file")


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
