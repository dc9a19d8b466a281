"""Large image files are decoded in a process of their own: what takes too much time or memory there fails alone."""

import os
import resource
import signal
import struct
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from seva_ray.core.errors import InputError
from seva_ray.vlm import decoder_process
from seva_ray.vlm.decoder_process import LARGE, decode_within_limits, decoder
from seva_ray.vlm.images import MAX_PIXELS, load_image
from tests.test_images import encoded, png, png_chunk


@pytest.fixture(autouse=True)
def own_process() -> Iterator[None]:
    """Each test starts with no process, and leaves none."""
    yield
    if decoder.process is not None:
        decoder.process.kill()
        decoder.end()


def decoded(data: bytes) -> Image.Image:
    return decode_within_limits(data, MAX_PIXELS, padded=True)


def large_photo(kind: str = "PNG") -> tuple[Image.Image, bytes]:
    """An image of noise, whose file is large, and the file."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (900, 1000, 3), dtype=np.uint8))
    data = encoded(image, kind)
    assert len(data) > LARGE
    return image, data


def jpeg_with(segments: bytes) -> bytes:
    jpeg = encoded(Image.new("RGB", (64, 64)), "JPEG")
    return jpeg[:2] + segments + jpeg[2:]


def gif_with(blocks: bytes) -> bytes:
    """A GIF with these blocks between its header and its picture."""
    gif = encoded(Image.new("P", (8, 8)), "GIF")
    start = 13 + 3 * 2 ** ((gif[10] & 7) + 1) * (gif[10] >> 7)
    return gif[:start] + blocks + gif[start:]


def tiff_with(count: int) -> bytes:
    """A TIFF of 8 x 8 px that names the place of its only strip `count` times."""
    short, long = "<HHIHxx", "<HHII"
    entries = [
        struct.pack(long, 256, 4, 1, 8), struct.pack(long, 257, 4, 1, 8), struct.pack(short, 258, 3, 1, 8),
        struct.pack(short, 259, 3, 1, 1), struct.pack(short, 262, 3, 1, 1), struct.pack(long, 273, 4, count, 200),
        struct.pack(short, 277, 3, 1, 1), struct.pack(long, 278, 4, 1, 8), struct.pack(long, 279, 4, 1, 64),
    ]  # fmt: skip
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4)
    return head.ljust(200, b"\0") + struct.pack("<I", 8) * count


def bmp_with(runs: bytes, side: int = 7900) -> bytes:
    """A BMP of run-length encoded 8-bit pixels."""
    start = 14 + 40 + 1024
    head = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(runs), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start) + head + bytes(1024) + runs


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_a_large_file_is_decoded_to_the_same_pixels(kind: str) -> None:
    image, data = large_photo(kind)
    found = decoded(data)
    assert decoder.process is not None, "it was decoded in another process"
    assert np.array_equal(np.asarray(found), np.asarray(image))
    assert (found.mode, found.info) == ("RGB", {})


def test_a_small_file_starts_no_process() -> None:
    decoded(png(16, 16))
    assert decoder.process is None


def test_a_broken_large_file_is_one_line_and_the_next_one_is_decoded_by_the_same_process(tmp_path) -> None:
    image, data = large_photo()
    (tmp_path / "a.png").write_bytes(data[:-100_000])
    with pytest.raises(InputError, match=r"^image 'a.png': image file is truncated"):
        load_image(path="a.png", data=None, image_root=str(tmp_path))
    process = decoder.process
    assert np.array_equal(np.asarray(decoded(data)), np.asarray(image))
    assert decoder.process is process


SLOW = {
    "millions of empty PNG chunks": lambda: png(8, 8, png_chunk(b"abCd", b"") * 2_000_000),
    "millions of JPEG segments": lambda: jpeg_with(b"\xff\xe5\0\2" * 5_000_000),
    "many EXIF segments": lambda: jpeg_with((b"\xff\xe1\xff\xf0Exif\0\0" + bytes(0xFFF0 - 8)) * 900),
    "millions of GIF comments": lambda: gif_with(b"\x21\xfe\x01x\0" * 4_000_000),
    "runs of one pixel in a BMP": lambda: bmp_with(b"\1\7" * 5_000_000),
}


USUAL = ("millions of empty PNG chunks", "runs of one pixel in a BMP")
"""One has a loop in Python and the other one in C. The rest are other loops of the same two kinds."""


@pytest.mark.parametrize(
    "name", [name if name in USUAL else pytest.param(name, marks=pytest.mark.slow) for name in SLOW]
)
def test_a_large_file_that_takes_too_long_fails_and_the_next_one_is_decoded(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a limit of 1 s, so that the test is short: the files take 3 to 20 s, and larger ones take minutes."""
    monkeypatch.setattr(decoder_process, "LIMIT_CPU_S", 1)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with pytest.raises(InputError, match="it takes more than 1 s of CPU time to decode"):
        decoded(SLOW[name]())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 5
    assert decoded(large_photo()[1]).size == (1000, 900)


LARGE_IN_MEMORY = {
    "GIF comments": lambda: gif_with(b"\x21\xfe" + b"\1x" * 8_000_000 + b"\0"),
    "places of strips in a TIFF": lambda: tiff_with(5_000_000),
}


@pytest.mark.parametrize("name", LARGE_IN_MEMORY)
def test_a_large_file_that_takes_too_much_memory_fails_and_the_next_one_is_decoded(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder_process, "LIMIT_BYTES", 2**26)  # for a short test; it is 2 GiB
    with pytest.raises(InputError, match="it takes too much memory to decode"):
        decoded(LARGE_IN_MEMORY[name]())
    assert decoded(large_photo()[1]).size == (1000, 900)


@pytest.mark.parametrize(
    ("number", "error", "said"),
    [
        (signal.SIGSEGV, InputError, "it crashes its decoder"),
        (signal.SIGKILL, MemoryError, "the process that decodes images was killed"),
    ],
)
def test_a_crash_is_the_files_fault_and_a_kill_is_the_machines(number: int, error: type[Exception], said: str) -> None:
    _, data = large_photo()
    decoded(data)
    assert decoder.process is not None
    os.kill(decoder.process.pid, number)
    decoder.process.wait()
    with pytest.raises(error, match=said):
        decoded(data)
    assert decoded(data).size == (1000, 900)


def test_a_forked_process_uses_a_process_of_its_own() -> None:
    image, data = large_photo()
    decoded(data)
    child = os.fork()
    if not child:
        found = decoded(data)
        assert decoder.process is not None
        decoder.process.kill()
        os._exit(0 if np.array_equal(np.asarray(found), np.asarray(image)) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert np.array_equal(np.asarray(decoded(data)), np.asarray(image))


def test_threads_take_turns() -> None:
    image, data = large_photo()
    found: list[Image.Image] = []
    threads = [threading.Thread(target=lambda: found.append(decoded(data))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(np.asarray(one), np.asarray(image)) for one in found)
    assert len(found) == 4


def test_it_ends_with_its_parent() -> None:
    _, data = large_photo()
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        decoded(data)
        assert decoder.process is not None
        os.write(writer, str(decoder.process.pid).encode())
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    pid = int(os.read(reader, 20))
    deadline = time.monotonic() + 60
    while running(pid):
        assert time.monotonic() < deadline, "it still waits for files"
        time.sleep(0.05)


def running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
