"""The borders between modules, as tests: import-linter's contracts (pyproject.toml), and what an import costs."""

import ast
import graphlib
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import tyro

import full
from tests.finished_run import finish

ROOT = Path(__file__).parent.parent
JOBS = sorted(file.stem for file in ROOT.glob("jobs/*.py"))
HEAVY = {
    "torch", "transformers", "ray", "vllm", "matplotlib", "pandas", "datasets", "optuna", "diffusers", "scipy",
    "sklearn",
}  # fmt: skip
"""Libraries that take half a second or more to load. A job that only shows its help or an error needs none of them."""


def loaded_by(*modules: str) -> set[str]:
    """The libraries that a fresh Python holds after importing these modules."""
    code = f"import sys, {', '.join(modules)}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def modules_of(*patterns: str) -> list[str]:
    files = sorted(file for pattern in patterns for file in ROOT.glob(pattern))
    return [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]


def test_the_import_contracts_hold() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


class File(NamedTuple):
    """What a file of code imports, also inside functions, and its calls that open, read or write a file as text."""

    modules: set[str]
    texts: list[ast.Call]


@cache
def files() -> dict[Path, File]:
    """Every file of code. They are read once, because that takes seconds."""
    found = {}
    for path in (path for folder in ("seva_ray", "jobs", "bench") for path in ROOT.glob(f"{folder}/**/*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        modules |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
        found[path] = File(modules, [node for node in nodes if isinstance(node, ast.Call) and is_text(node)])
    return found


def imports_of_rooms() -> dict[str, set[str]]:
    """Each folder with code, and the folders that its files import from."""
    names = {path.parent: ".".join(path.parent.relative_to(ROOT).parts) for path in files()}
    del names[ROOT / "seva_ray"]  # it holds only a docstring
    found: dict[str, set[str]] = {name: set() for name in names.values()}
    for path, file in files().items():
        for module in file.modules if path.parent in names else ():
            whole = f"jobs.{module}" if module in JOBS else module
            rooms = [name for name in found if f"{whole}.".startswith(f"{name}.")]
            if rooms:
                found[names[path.parent]].add(max(rooms, key=len))
    return {name: others - {name} for name, others in found.items()}


def test_there_are_few_rooms_in_few_layers_and_no_circle() -> None:
    rooms = imports_of_rooms()
    depth: dict[str, int] = {}
    for room in graphlib.TopologicalSorter(rooms).static_order():  # raises CycleError
        depth[room] = 1 + max((depth[other] for other in rooms[room]), default=0)
    assert len(rooms) <= 22
    assert max(depth.values()) <= 10, depth


def test_every_folder_is_a_package_so_that_no_module_escapes_the_contracts() -> None:
    folders = {file.parent for file in ROOT.glob("seva_ray/**/*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


@pytest.mark.parametrize("job", sorted(ROOT.glob("jobs/*.py")), ids=lambda job: job.name)
def test_a_job_leaves_ray_and_the_model_libraries_to_the_stages(job: Path) -> None:
    libraries = {name.split(".")[0] for name in files()[job].modules}
    assert libraries & {"ray", "vllm", "trl", "deepspeed", "transformers"} == set()


def test_no_job_loads_a_heavy_library_before_its_configuration_is_accepted() -> None:
    code = (
        f"import sys; sys.path.insert(0, 'jobs'); import {', '.join(JOBS)}\n"
        "from seva_ray.runtime.cli import run\n"
        "for words in (['--help'], ['--nmae', 'x'], ['--train.beta', '-1']):\n"
        "    sys.argv[1:] = words\n"
        "    try:\n"
        "        run(full.main, full.PRESETS, '')\n"
        "    except SystemExit:\n"
        "        pass\n"
        "print('loaded:', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = done.stdout.rpartition("loaded:")[2].split()
    assert {"numpy", "full", "tyro"} <= set(loaded)
    assert HEAVY & set(loaded) == set()


def test_ground_sources_augmentations_and_benchmarks_load_neither_torch_nor_ray() -> None:
    modules = ["seva_ray.core.records", "seva_ray.core.seeds", "seva_ray.core.errors", "seva_ray.core.artifacts"]
    modules += modules_of("seva_ray/sources/*.py", "seva_ray/augmentations/*.py", "seva_ray/benchmarks/**/*.py")
    assert loaded_by(*modules) & {"torch", "transformers", "ray", "vllm"} == set()


def test_no_module_loads_vllm_trl_or_deepspeed_before_they_are_used() -> None:
    of_workers = {"seva_ray.stages.training.trainer", "seva_ray.private.trl"}  # only training workers import these
    modules = set(modules_of("seva_ray/**/*.py")) - of_workers
    assert loaded_by(*sorted(modules)) & {"vllm", "trl", "deepspeed"} == set()


def test_a_main_job_that_only_reuses_loads_no_heavy_library(tmp_path: Path, toy_model: str) -> None:
    words = [
        "--root", str(tmp_path), "--benchmarks.toy-images", "3", "source:toy-world", "--source.num-images", "2",
    ]  # fmt: skip
    config = tyro.cli(full.Full, default=full.PRESETS["toy"], args=words)
    finish(config, toy_model)
    full.main(config)  # draws the page
    code = (
        "import sys; sys.path.insert(0, 'jobs'); import full\n"
        f"sys.argv = {['jobs/full.py', *words]}\n"
        "from seva_ray.runtime.cli import run\n"
        "run(full.main, full.PRESETS, '')\n"
        "print('loaded:', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    said = [line for line in done.stderr.splitlines() if not line.endswith("so far")]  # the machine may be busy
    assert said == [
        f"full toy: root {tmp_path}",
        "reused: prompts, 6 responses, 3 pairs, policy, 2 scores",
        f"report: {tmp_path}/reports/toy/index.html (unchanged)",
    ]
    assert HEAVY & set(done.stdout.rpartition("loaded:")[2].split()) == set()


def test_every_text_file_is_utf_8_whatever_the_language_of_the_machine():
    texts = [(path, call) for path, file in files().items() for call in file.texts]
    assert len(texts) > 40
    unsaid = [(path, call) for path, call in texts if "encoding" not in {keyword.arg for keyword in call.keywords}]
    assert [f"{path}:{call.lineno}" for path, call in unsaid] == []


def is_text(call: ast.Call) -> bool:
    """Whether a call opens a file as text, or reads or writes one."""
    if isinstance(call.func, ast.Attribute):
        return call.func.attr in ("read_text", "write_text") or ast.unparse(call.func) == "os.fdopen"
    mode = ast.unparse(call.args[1]) if len(call.args) > 1 else "'r'"
    return ast.unparse(call.func) == "open" and "b" not in mode


def test_no_file_is_longer_than_300_lines():
    assert len(files()) > 200
    assert {str(file): lines for file in files() if (lines := len(file.read_text().splitlines())) > 300} == {}
