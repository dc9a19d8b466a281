"""Every preset of every job: it loads, its help is short, and as a configuration file it makes the same job again."""

import importlib
import re
import subprocess
import sys
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args

import pytest

from presets import LLAVA, PUBLISHED, ROWS, USUAL
from seva_ray.engines import VllmEngine
from seva_ray.runtime import cli
from seva_ray.runtime.config_file import load
from seva_ray.runtime.fields import options_of
from seva_ray.sources import AnySource

JOBS = sorted(file.stem for file in Path(__file__).parent.parent.glob("jobs/*.py") if "__main__" in file.read_text())
REQUIRED = {"gallery": ["--image", "photo.jpg"], "convert": ["--model", "llava-v1.5-7b", "--to", "llava-1.5-7b"]}
"""What a preset leaves open."""


def output(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, job: str, *words: str) -> str:
    """What a job prints that is only asked about itself."""
    monkeypatch.setattr(sys, "argv", [f"jobs/{job}.py", *words])
    with pytest.raises(SystemExit) as exit_:
        cli.run(never, importlib.import_module(job).PRESETS, "About the job.", USUAL)
    shown = capsys.readouterr()
    assert (exit_.value.code or 0, shown.err) == (0, "")
    return shown.out


def never(config: Any) -> None:
    raise AssertionError("the job ran")


def sampled(presets: dict[str, Any]) -> list[str]:
    """The first preset of each kind, and some others: of most jobs the toy run, a row of the paper's table with a cut,
    and two published models; of the paper's experiments, a dozen."""
    first = {type(preset): name for name, preset in reversed(presets.items())}
    return list(dict.fromkeys([*first.values(), *[*presets][:: max(4, len(presets) // 12)]]))


@pytest.mark.parametrize("job", JOBS)
def test_a_preset_is_printed_as_a_file_that_makes_the_same_job_over_any_preset(monkeypatch, capsys, job, tmp_path):
    presets = importlib.import_module(job).PRESETS
    assert presets
    file = tmp_path / "run.yaml"
    for name in sampled(presets):
        text = output(monkeypatch, capsys, job, name, *REQUIRED.get(job, []), "--print-config")
        file.write_text(text)
        if job not in REQUIRED:
            alike = [base for base in presets.values() if type(base) is type(presets[name])]
            assert all(load(str(file), base) == presets[name] for base in (alike[0], alike[-1]))
            assert repr(load(str(file), presets[name])) == repr(presets[name]), "1 and 1.0 are different recipes"
        assert output(monkeypatch, capsys, job, name, "--config", str(file), "--print-config") == text


@pytest.mark.parametrize("job", JOBS)
def test_help_is_short_and_names_help_all_which_shows_every_option(monkeypatch, capsys, job):
    config = next(iter(importlib.import_module(job).PRESETS.values()))
    options = [option.name for option in options_of(config) if not is_dataclass(option.value)]
    short = output(monkeypatch, capsys, job, "--help")
    assert short.splitlines()[-1] == "--help-all shows every option."
    num_sources = len(get_args(AnySource))
    assert len(short.splitlines()) < 119 + 7 * num_sources, "each source takes some lines, and nothing else may grow"
    assert max(map(len, short.splitlines())) <= 110
    own = {name for name in options if "." not in name}
    assert own <= set(re.findall(r"--([\w.-]+)", short)), "a job's own options are always shown"
    full = output(monkeypatch, capsys, job, "--help-all")
    assert set(options) <= set(re.findall(r"--([\w.-]+)", full))


def test_every_usual_option_is_one_of_some_job():
    presets = [preset for job in JOBS for preset in importlib.import_module(job).PRESETS.values()]
    known = {option.name for preset in presets for option in options_of(preset)}
    sources = {"source.path", "source.image-root", "source.questions", "source.question-column", "source.image-column"}
    assert set(USUAL) - sources <= known


def test_every_job_that_has_llava_7b_has_every_other_model():
    presets = {job: importlib.import_module(job).PRESETS for job in JOBS}
    assert sum("llava-7b" in of for of in presets.values()) >= 7
    for job, of in presets.items():
        for name in (*LLAVA, *PUBLISHED):
            assert ("llava-7b" in of) == (name in of), job


def test_a_row_of_the_papers_table_has_its_view_and_its_cut_in_every_job():
    full, train = importlib.import_module("full").PRESETS, importlib.import_module("train").PRESETS
    assert len(ROWS) == 4
    for name in ROWS:
        run = full[name]
        assert ("13b" in run.model) == ("13b" in name)
        assert (run.train.zero_stage, run.train.per_device_batch_size) == (3 if "13b" in name else 2, None)
        assert run.views == (("diffusion-800",) if "diffusion800" in name else ("moco",))
        cut = {"ocr_vqa": 4300, "textvqa": 6500} if "diffusion800" in name else {}
        for job in ("full", "sweep", "plan", "pair"):
            assert importlib.import_module(job).PRESETS[name].pair.max_per_source == cut, job
        for job in ("plan", "generate", "pair", "test_time"):
            assert importlib.import_module(job).PRESETS[name].views[-1] == run.views[0], job
        assert importlib.import_module("sweep").PRESETS[name].space.views == run.views
        stored = f"{run.model}/llava-mix/{run.views[0]}" + (f"+{run.pair.name}" if run.pair.name else "")
        assert (train[name].pairs, train[name].train) == (stored, run.train)
        assert importlib.import_module("evaluate").PRESETS[name].policy == (f"policies/{name}",)


def test_every_job_that_has_the_first_toy_base_has_the_second_one():
    presets = {job: importlib.import_module(job).PRESETS for job in JOBS}
    assert sum("toy" in of for of in presets.values()) >= 13
    for job, of in presets.items():
        assert ("toy" in of) == ("toy-qwen" in of), job


def test_only_llava_is_asked_with_the_system_text_of_llava():
    for job in JOBS:
        for name, preset in importlib.import_module(job).PRESETS.items():
            if hasattr(preset, "generate") and name in ("toy", "toy-qwen", *PUBLISHED):
                assert preset.generate.system == "", (job, name)


ASKED = {
    "qwen2.5-vl-7b": ("qwen2-vl", "qwen2-vl", "qwen2-vl"),
    "qwen3-vl-8b": ("qwen2-vl", "qwen3-vl", "qwen3-vl"),
    "internvl3-8b": ("llava", "llava", "internvl"),
    "llava-onevision-7b": ("llava", "llava", "llava-onevision"),
    "smolvlm2-2b": ("smolvlm2", "smolvlm2", "smolvlm2"),
}


def test_published_models_are_asked_as_their_own_evaluation_asks_them_in_every_job():
    assert {*ASKED} == {*PUBLISHED}
    for job in ("full", "evaluate", "test_time", "sweep", "compare"):
        for name, preset in importlib.import_module(job).PRESETS.items():
            asked = preset.benchmarks.pope_protocol, preset.benchmarks.mmbench_protocol, preset.benchmarks.asked_as
            assert asked == ASKED.get(name, ("seva", "llava", "llava")), (job, name)


def test_the_help_of_the_main_job_shows_what_people_set_and_counts_the_rest(monkeypatch, capsys):
    shown = output(monkeypatch, capsys, "full", "llava-13b", "--help")
    presets = ", ".join(["toy", "toy-qwen", *LLAVA, *PUBLISHED])
    assert f"Presets (first word): {presets}; shown: llava-13b." in " ".join(shown.split())
    for option in ("--train.beta FLOAT", "--train.lora.rank INT", "--benchmarks.pope STR", "source:folder"):
        assert option in shown
    assert re.search(r"and \d+ more of --benchmarks\.\*", shown)
    assert re.search(r"More groups of options: .*judge\s\(\d+\)", shown, re.DOTALL)
    assert "--judge.timeout-s" not in shown
    assert "llava-1.5-13b-hf)" in shown


WITHOUT_VLLM = """
import importlib.util, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "vllm" else found(name, package)
sys.path.insert(0, {jobs!r})
import full, sweep
for job in (full, sweep):
    for preset in job.PRESETS.values():
        print(preset.generate.engine)
full.PRESETS["toy"].store()
"""


def test_where_vllm_is_not_installed_as_on_macos_transformers_answers_and_a_line_says_so(tmp_path: Path):
    code = WITHOUT_VLLM.format(jobs=str(Path(__file__).parent.parent / "jobs"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    assert {line.partition("(")[0] for line in done.stdout.splitlines()} == {"TransformersEngine"}
    assert "dtype='float32'" in done.stdout.splitlines()[0], "the toy's data type"
    assert "dtype='float16'" in done.stdout, "that of the paper"
    (line,) = (line for line in done.stderr.splitlines() if "vLLM" in line)
    assert line == "vLLM is not installed here, so transformers generates the answers, which takes longer"
    assert isinstance(importlib.import_module("full").PRESETS["toy"].generate.engine, VllmEngine), "it is here"
