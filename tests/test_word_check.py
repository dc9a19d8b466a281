"""Mistakes on the command line: each is one line that names the word and says what helps."""

import importlib
import sys
from dataclasses import replace

import pytest

from full import PRESETS
from seva_ray.core.errors import ConfigError
from seva_ray.engines import TransformersEngine
from seva_ray.runtime import cli
from seva_ray.runtime.word_check import check_words
from seva_ray.sources import Folder, LlavaJson
from seva_ray.stages.pair import Pair
from tests.test_presets import JOBS, REQUIRED

TOY = PRESETS["toy"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--nmae x", "--nmae: there is no such option; perhaps you meant --name; --help-all lists every option"),
        ("--train.bete 1", "--train.bete: there is no such option; perhaps you meant --train.beta; --help-all lists"),
        ("--train 1", "--train: there is no such option"),
        ("--no-rounds", "--no-rounds: there is no such option"),
        ("--name", "--name: needs a value"),
        ("--name --rounds 2", "--name: needs a value"),
        ("--name my run", "--name: takes one value, so run is left over; put quotes around a value with spaces"),
        ("--rounds two", "--rounds: two: must be a whole number"),
        ("--rounds 1.5", "--rounds: 1.5: must be a whole number"),
        ("--train.beta strong", "--train.beta: strong: must be a number"),
        ("--train.num-pairs all", "--train.num-pairs: all: must be a whole number"),
        ("--until pairs", "--until: pairs: must be one of prepare, generate, pair, train, evaluate; perhaps"),
        ("--train.full yes", "--train.full: takes no value, so yes is left over"),
        ("--pair.filters.length-ratio 2", "--pair.filters.length-ratio: takes 2 values, not 1"),
        ("--pair.filters.length-ratio 0.5 x", "--pair.filters.length-ratio: x: must be a number"),
        ("mine", "mine: there is no preset of this name"),
        ("toy mine", "mine: this word belongs to no option; the names of options begin with --"),
        ("lava-7b", "lava-7b: there is no preset of this name; the presets are toy, "),
        ("--name x source:fodler", "source:fodler: must be one of source:toy-world, source:hf, "),
        ("source:folder", "--source.path: must be given after source:folder"),
        ("source:folder --source.pth x", "--source.pth: there is no such option; perhaps you meant --source.path"),
        ("source:folder --source.path x --name y", "--name: write this option before source:folder; only options of"),
        ("source:folder --source.path x y", "--source.path: takes one value, so y is left over"),
        ("--source.path x", "--source.path: is an option of a source; name the source before it, as in `source:folder"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_that_names_the_word(monkeypatch, capsys, words, line):
    monkeypatch.setattr(sys, "argv", ["full.py", *words.split()])
    with pytest.raises(SystemExit) as exit_:
        cli.run(lambda config: pytest.fail("the job ran"), PRESETS, "test")
    said = capsys.readouterr()
    assert said.err.startswith(f"error: {line}")
    assert (exit_.value.code, said.err.count("\n"), said.out) == (2, 1, "")


def test_an_option_that_must_be_given_is_named():
    preset = importlib.import_module("gallery").PRESETS["default"]
    with pytest.raises(ConfigError, match=r"^--image: must be given"):
        check_words(preset, ["--columns", "3"])
    check_words(preset, ["--image", "photo.jpg"])


@pytest.mark.parametrize(
    "words",
    [
        "--views",  # the job itself says that it needs one
        "--name=x --train.beta=0.2 --train.learning_rate 1e-4",
        "--train.full --train.no-gradient-checkpointing --train.num-pairs None --until None",
        "--pair.max-per-source gqa 3 vg 4 --pair.filters.length-ratio 0.5 2",
        "source:llava-json --source.path x --source.image-root y --source.counts.ocr-vqa 3 --source.folders mine 4",
        "source:folder --source.path -3 --source.questions a b",
    ],
)
def test_what_is_right_passes(words):
    check_words(TOY, words.split())


@pytest.mark.parametrize(
    "changed",
    [
        replace(TOY, source=Folder(path="photos", questions=("What is it?", "Why?"))),
        replace(TOY, source=LlavaJson(path="mix.json", image_root="images", folders={"mine": 2})),
        replace(TOY, generate=replace(TOY.generate, engine=TransformersEngine()), controls=(), until="pair"),
        replace(TOY, pair=Pair(max_per_source={"vg": 3}, keep_truncated=False), train=PRESETS["llava-13b"].train),
    ],
)
def test_words_that_make_a_config_again_pass(changed):
    preset, words = cli.with_choices(TOY, cli.words_of(TOY, changed))
    check_words(preset, words)
    for wrong in ("--no-such", "--no-rounds"):
        with pytest.raises(ConfigError, match=wrong):
            check_words(preset, [wrong, *words])


def test_every_preset_of_every_job_passes_over_the_first_one():
    for job in set(JOBS) - set(REQUIRED):
        presets = importlib.import_module(job).PRESETS
        first = next(iter(presets.values()))
        for config in presets.values():
            if type(config) is type(first):
                preset, words = cli.with_choices(first, cli.words_of(first, config))
                check_words(preset, words)
