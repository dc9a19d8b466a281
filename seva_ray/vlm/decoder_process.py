"""Decodes a large image file in a process of its own, whose CPU time and memory have a limit for each file.

A file of 60 MB may hold millions of empty chunks, comments or segments of metadata, on which PIL spends minutes or
gigabytes. Nothing can stop a decoder inside a process. A file that takes too much fails alone, and so does one that
crashes its decoder. The time is CPU time, so that no file fails because a machine is busy.
"""

import contextlib
import json
import math
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

from PIL import Image

from seva_ray.core.errors import InputError
from seva_ray.vlm.decoding import decode

LARGE = 2 * 2**20
"""Bytes of a file from which another process decodes it. No file that was tried took more than 6 s below this size."""
LIMIT_CPU_S = 20
"""CPU time for one file, in seconds. A photograph of 64 megapixels takes 1 to 3."""
LIMIT_BYTES = 2 * 2**30
"""Memory for one file, in bytes."""

PROGRAM = "import sys; sys.path.insert(0, sys.argv[1]); from seva_ray.vlm.decoder_process import serve; serve()"
PACKAGE = Path(__file__).parents[2]
LENGTH = struct.Struct("<Q")


def decode_within_limits(data: bytes, max_pixels: int, padded: bool) -> Image.Image:
    """What `decode` gives. Raises: InputError, also if a large file takes too much time or memory; MemoryError if the
    machine, which has no memory left, ended the other process."""
    if len(data) < LARGE:
        with contextlib.suppress(MemoryError):  # the other process tells whose fault it is
            return decode(data, max_pixels, padded)
    return decoder.decode(data, max_pixels=max_pixels, padded=padded, cpu_s=LIMIT_CPU_S, memory=LIMIT_BYTES)


class DecoderProcess:
    """A process that decodes one file after the other. It starts with the first file, and again after it was ended."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None

    def decode(self, data: bytes, **options: Any) -> Image.Image:
        with self.lock:
            process = self.process = self.process or started()
            assert process.stdin
            assert process.stdout
            try:
                with contextlib.suppress(BrokenPipeError):  # it has ended, and its status says why
                    send(process.stdin, json.dumps(options).encode(), data)
                answer = json.loads(receive(process.stdout))
                pixels = receive(process.stdout)
            except EOFError:
                self.end()
                raise error_of(process.wait(), options) from None
            except BaseException:  # such as Ctrl-C: what it says next would belong to this file
                process.kill()
                self.end()
                raise
        if reason := answer.get("error"):
            raise InputError(reason)
        return Image.frombytes("RGB", answer["size"], pixels)

    def end(self) -> None:
        assert self.process is not None
        with contextlib.suppress(BrokenPipeError), self.process:  # closes its pipes and waits for it
            pass
        self.process = None

    def forget(self) -> None:
        """A process that was forked from this one calls this: the decoding process answers only to the parent."""
        if self.process is not None:
            for pipe in (self.process.stdin, self.process.stdout):
                assert pipe
                os.close(pipe.fileno())
        self.__init__()  # type: ignore[misc]


def started() -> "subprocess.Popen[bytes]":
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(PACKAGE)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # libtiff writes its own messages there
        env=environment,
        start_new_session=True,  # Ctrl-C is for the job, which then ends this process
    )


def error_of(status: int, options: dict[str, Any]) -> Exception:
    """What the end of the process says about the file that it was decoding."""
    if status == -signal.SIGXCPU:
        return InputError(f"it takes more than {options['cpu_s']} s of CPU time to decode")
    if status == -signal.SIGKILL:
        return MemoryError("the process that decodes images was killed")
    return InputError(f"it crashes its decoder (status {status})")


def serve() -> None:
    """The other process: decode what comes until the parent has ended."""
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            options, data = json.loads(receive(source)), receive(source)
            answer: dict[str, Any]
            allow(options.pop("cpu_s"), options.pop("memory") + len(data))
            try:
                image = decode(data, **options)
                answer, pixels = {"size": image.size}, image.tobytes()
                del image
            except InputError as error:
                answer, pixels = {"error": str(error)}, b""
            except MemoryError:
                answer, pixels = {"error": "it takes too much memory to decode"}, b""
            send(sink, json.dumps(answer).encode(), pixels)
            data = pixels = b""


def allow(cpu_s: int, memory: int) -> None:
    """Let this process take so much more CPU time than it has taken so far, and on Linux so much more memory: other
    systems do not tell how much it has taken."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = math.ceil(used.ru_utime + used.ru_stime) + cpu_s
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
    with contextlib.suppress(FileNotFoundError):
        now = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + memory, resource.RLIM_INFINITY))


def send(file: IO[bytes], *parts: bytes) -> None:
    for part in parts:
        file.write(LENGTH.pack(len(part)))
        file.write(part)
    file.flush()


def receive(file: IO[bytes]) -> bytes:
    (length,) = LENGTH.unpack(exactly(file, LENGTH.size))
    return exactly(file, length)


def exactly(file: IO[bytes], length: int) -> bytes:
    found = file.read(length)
    if len(found) < length:
        raise EOFError
    return found


decoder = DecoderProcess()
os.register_at_fork(after_in_child=decoder.forget)
