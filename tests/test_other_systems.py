"""macOS has no /proc, and its Python lacks some names that Linux has: what runs there must not need them."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

WITHOUT_LINUX = """
import builtins, errno, io, os, sys, time

LACKS = {errno: ("EREMOTEIO",), os: ("sched_getaffinity", "posix_fadvise", "memfd_create"),
         time: ("pthread_getcpuclockid",)}
for module, names in LACKS.items():
    for name in names:
        delattr(module, name)

def hidden(call):
    def checked(path, *given, **options):
        ours = os.sep + "seva_ray" + os.sep in sys._getframe(1).f_code.co_filename or "pathlib" in str(
            sys._getframe(1).f_code.co_filename)
        if ours and isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith("/proc"):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(path))
        return call(path, *given, **options)
    return checked

builtins.open, io.open = hidden(builtins.open), hidden(io.open)
os.readlink, os.stat = hidden(os.readlink), hidden(os.stat)
"""
"""Python imports it in every process before anything else: what our own code then asks of Linux is not there."""

WORK = """
import sys
from pathlib import Path
from seva_ray.core import directories, row_limit
from seva_ray.private.ray import num_cpus
from seva_ray.stages.export_pairs import ExportPairs, export_pairs
from seva_ray.stages.training import failures
from seva_ray.vlm.images import load_image
from tests.own_pairs import own_pairs

place = Path(sys.argv[1])
assert not Path("/proc/self/status").exists()
store, pairs = own_pairs(place)
print(export_pairs(ExportPairs(to=str(place / "out")), store, pairs.name))
image = load_image(path="00.jpg", data=None, image_root=str(place / "photos"))
print(image.size, row_limit.within(5.0, lambda: "a row"), num_cpus() > 0, oct(directories.umask()))
"""


def test_what_needs_no_gpu_and_no_vllm_works_without_linux(tmp_path: Path):
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_LINUX)
    done = subprocess.run(
        [sys.executable, "-c", WORK, str(tmp_path / "own")],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=300,
        umask=0o027,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "(40, 28) a row True 0o27"
