"""The bytes of an untrusted image file -> an upright 8-bit RGB image without metadata.

What a file may cost is limited by its header: its pixels, and the scans of a progressive JPEG. What that does not
limit, such as millions of empty chunks, takes long only in a large file, and `decoder_process` decodes those.
"""

import threading
import warnings
from io import BytesIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from seva_ray.core.errors import InputError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
"""Formats that are decoded. They are recognised by content, not by suffix. Vector formats, scripts and rarely used
decoders are left out."""

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

MAX_SCANS_PER_PIXEL = 32
"""How often a progressive JPEG of the largest size may go over its pixels. Cameras and libraries write about ten scans.
A scan may cost 53 bytes in the file and 0.2 s in the decoder, so a file of 1 MB could take half an hour."""

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


def decode(data: bytes, max_pixels: int, padded: bool) -> Image.Image:
    """The image of a file's bytes. `padded`: it will be padded to a square, whose pixels count.

    Raises: InputError with the reason, without a name of the file; MemoryError.
    """
    try:
        # PIL warns about broken metadata, sizes and palettes. The warnings that matter are errors here.
        with quiet, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return checked(data, max_pixels, padded)
    except MemoryError:
        raise
    except UnidentifiedImageError:
        raise InputError(found_instead(data)) from None
    except Exception as error:  # decoders raise all kinds of errors, and one file must not end a job
        raise InputError(reason_of(error)) from None


def checked(data: bytes, max_pixels: int, padded: bool) -> Image.Image:
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
        upright = turn_of(image)  # only after decoding: a TIFF turns itself upright and drops its tag
        rgb = to_rgb(image)
    if upright is not None:
        rgb = rgb.transpose(upright)
    rgb.info = {}
    return rgb


def turn_of(image: Image.Image) -> Image.Transpose | None:
    try:
        return UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # a photograph with broken EXIF is still a photograph
        return None


def to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # PIL would clip at 255 instead of scaling, so almost every 16-bit image would become white.
        return Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise InputError(f"mode {image.mode}: 32-bit brightness without a known white level cannot be shown in 8 bits")
    return image if image.mode == "RGB" else image.convert("RGB")  # for RGB, convert would only copy


def found_instead(data: bytes) -> str:
    """What the content of a file is that is no image in one of the known formats."""
    start = data[:200].lstrip().lower()
    kind = next((kind for mark, kind in OTHER_FORMATS if mark in (data[4:12], data[:12]) or start.startswith(mark)), "")
    return f"not an image in one of the formats {', '.join(FORMATS)}{kind and f', but {kind}'}"


def reason_of(error: Exception) -> str:
    """Why a file cannot be read or decoded, as the end of a line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return shortened(" ".join(str(error).split())) or type(error).__name__


def shortened(text: str, limit: int = 200) -> str:
    return text if len(text) <= limit else f"{text[:limit]}..."
