"""Configuration files: what is read over a preset, what is refused in one line, and what is written."""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import yaml

from full import PRESETS, Full
from seva_ray.core.errors import ConfigError, InputError
from seva_ray.engines import TransformersEngine
from seva_ray.runtime import cli
from seva_ray.runtime.config_file import load, text_of
from seva_ray.sources import Folder, LlavaJson, ToyWorld
from seva_ray.stages.pair import Pair

TOY = PRESETS["toy"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "run.yaml"


def loaded(file: Path, text: str, preset: Full = TOY) -> Full:
    file.write_text(text)
    return load(str(file), preset)


def parsed(monkeypatch: pytest.MonkeyPatch, *words: str) -> Full:
    """The configuration that the main job is given."""
    given: list[Full] = []
    monkeypatch.setattr(sys, "argv", ["full.py", *words])
    cli.run(given.append, PRESETS, "test")
    return given[0]


# What is read


def test_a_file_goes_over_the_preset_and_the_command_line_over_both(monkeypatch, file):
    file.write_text("name: mine\ntrain:\n  beta: 0.3\n  lora: {rank: 4}\nviews: [moco, diffusion-500=2]\n")
    expected = replace(
        TOY,
        name="mine",
        views=("moco", "diffusion-500=2"),
        train=replace(TOY.train, beta=0.3, lora=replace(TOY.train.lora, rank=4)),
    )
    assert parsed(monkeypatch, "--config", str(file)) == expected
    assert parsed(monkeypatch, f"--config={file}") == expected
    assert parsed(monkeypatch, "toy", "--train.beta", "0.2", "--config", str(file)) == replace(
        expected, train=replace(expected.train, beta=0.2)
    )
    assert parsed(monkeypatch, "llava-7b", "--config", str(file)).train.beta == 0.3
    assert parsed(monkeypatch, "llava-7b", "--config", str(file)).model == "llava-1.5-7b-hf"


def test_a_source_is_chosen_by_its_kind_and_another_one_starts_with_its_own_defaults(monkeypatch, file):
    assert loaded(file, "source: {kind: folder, path: photos}").source == Folder(path="photos")
    assert loaded(file, "source: {num_images: 5}").source == ToyWorld(num_images=5)
    assert loaded(file, "source: {kind: toy-world, seed: 3}").source == ToyWorld(seed=3)
    over = loaded(file, "source: {path: mix.json}", PRESETS["llava-7b"]).source
    assert over == LlavaJson(path="mix.json", image_root="images")
    file.write_text("source: {kind: folder, path: photos, questions: [Which animal]}")
    words = ("--config", str(file), "source:folder", "--source.path", "other")
    assert parsed(monkeypatch, *words).source == Folder(path="other", questions=("Which animal",))


def test_values_get_the_types_of_their_fields(file):
    text = "train: {learning_rate: 1e-4, beta: 1, num-pairs: null}\npair: {max_per_source: {vg: 3}}"
    train = loaded(file, text).train
    assert (train.learning_rate, train.num_pairs) == (1e-4, None)
    assert (train.beta, type(train.beta)) == (1.0, float), "1 and 1.0 are different recipes"
    config = loaded(file, "pair: {max_per_source: {vg: 3}, filters: {length_ratio: [0.5, 2]}}")
    assert config.pair.max_per_source == {"vg": 3}
    assert config.pair.filters.length_ratio == (0.5, 2.0)
    assert loaded(file, "generate: {engine: {kind: transformers-engine}}").generate.engine == TransformersEngine()
    assert loaded(file, "") == TOY, "a file with nothing in it changes nothing"


# What is refused


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("trian: {beta: 1.0}", "trian: no such field; perhaps you meant train"),
        ("train: {bete: 1.0}", "train.bete: no such field; perhaps you meant beta"),
        ("train: {lora: {rnk: 4}}", "train.lora.rnk: no such field; perhaps you meant rank"),
        ("source: {kind: folder, path: x, columns: 2}", "source.columns: no such field"),
        ("train: {beta: strong}", "train.beta: expected a number, got 'strong'"),
        ("train: {beta: true}", "train.beta: expected a number, got True"),
        ("train: {num_pairs: 1.5}", "train.num_pairs: expected a whole number, got 1.5"),
        ("train: {num_workers: true}", "train.num_workers: expected a whole number, got True"),
        ("train: {full: 1}", "train.full: expected true or false, got 1"),
        ("name: 2024", "name: expected a text (in quotes if it looks like a number or a date), got 2024"),
        ("views: moco", "views: expected a list, such as [a, b], got 'moco'"),
        ("views: [5]", "views: expected a text (in quotes if it looks like a number or a date), got 5"),
        ("pair: {filters: {length_ratio: [1]}}", "pair.filters.length_ratio: expected 2 values, got [1]"),
        ("pair: {max_per_source: [a]}", "pair.max_per_source: expected names with values, got ['a']"),
        ("pair: {max_per_source: {a: b}}", "pair.max_per_source.a: expected a whole number, got 'b'"),
        ("train: {zero_stage: 4}", "train.zero_stage: must be one of 0, 1, 2, 3, got 4"),
        ("train: {zero_stage: true}", "train.zero_stage: must be one of 0, 1, 2, 3, got True"),
        ("train: {dtype: float23}", "train.dtype: must be one of float32, bfloat16, got 'float23'; perhaps you meant"),
        ("train: 0.1", "train: expected fields with their values, got 0.1"),
        ("- name", "the file: expected fields with their values, got ['name']"),
        ("source: folder", "source: expected fields with their values, among them kind, got 'folder'"),
        ("source: {kind: foldr}", "source.kind: must be one of toy-world, hf, llava-json, question-list, table, fold"),
        ("source: {kind: folder}", "source: path: must be given"),
        ("train: {beta: -1}", "train: beta -1"),
        ("train: {beta: .nan}", "train: beta nan"),
        ("train: {lora: {rank: 0}}", "train.lora: rank 0"),
        ("views: []", "views: at least one rejected view is needed"),
        ("controls: [control-reapet]", "control control-reapet: must be one of"),
        ("name: x\nname: y", "this is not YAML: the key name comes twice"),
        ("name: [", "this is not YAML: "),
        ("name: !!python/object/apply:os.system ['true']", "this is not YAML: could not determine a constructor"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_one_line_with_file_and_key(monkeypatch, capsys, file, text, line):
    file.write_text(text)
    monkeypatch.setattr(sys, "argv", ["full.py", "--config", str(file)])
    with pytest.raises(SystemExit) as exit_:
        cli.run(lambda config: None, PRESETS, "test")
    said = capsys.readouterr().err
    assert said.startswith(f"error: {file}: {line}")
    assert (exit_.value.code, said.count("\n")) == (2, 1)


def test_a_file_that_is_not_there_or_not_named_is_one_line(monkeypatch, capsys, tmp_path):
    with pytest.raises(InputError, match=r"config .*none\.yaml: No such file"):
        load(str(tmp_path / "none.yaml"), TOY)
    for words in (["--config"], ["--config", "--name", "x"]):
        monkeypatch.setattr(sys, "argv", ["full.py", *words])
        with pytest.raises(SystemExit):
            cli.run(lambda config: None, PRESETS, "test")
        assert capsys.readouterr().err == "error: --config: name a file\n"


# What is written


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Texts that YAML could take for something else."""

    text: str = ""
    """What is read must be what was written."""
    texts: tuple[str, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    number: float = 0.0


ODD = (
    "", " ", "no", "null", "~", "1", "1e-4", "0.5",
    "a: b", "a, b", "# x", "x # y", "[a]", "{a: 1}", "- a", "it's", '"', "é", "犬", "😀", ">",
    "two\nlines", "tab\t", "trailing ",
    "\x85", "\u2028", "%", "@", "`", "2024-01-01", "x" * 300, "word " * 60, "*a", "&a", "!a", "|",
)  # fmt: skip


def test_every_text_and_number_is_read_as_it_was_written(file):
    for text in ODD:
        config = Texts(text=text, texts=(text, *ODD), counts={text: 1, "b": 2})
        file.write_text(text_of(config, "title"), encoding="utf-8")
        assert load(str(file), Texts()) == config, text
    for number in (1e-300, 2e-6, 0.1 + 0.2, 1e22, 123456789.0, -0.0, 5.0):
        file.write_text(text_of(Texts(number=number), "title"))
        assert repr(load(str(file), Texts())) == repr(Texts(number=number))


def test_a_printed_file_has_each_fields_doc_and_is_plain_yaml(file):
    config = replace(TOY, source=Folder(path="photos"), pair=Pair(max_per_source={"vg": 3}))
    text = text_of(config, "title")
    assert "# title\n" in text
    assert text_of(Texts(), "title").startswith("# title\n# What is read must be what was written.\ntext: ''\n")
    plain = yaml.safe_load(text)
    assert plain["source"]["kind"] == "folder"
    assert plain["pair"]["max_per_source"] == {"vg": 3}
    assert loaded(file, text, PRESETS["llava-7b"]) == config


def test_a_value_that_cannot_work_in_a_part_is_refused_by_the_part_itself(file):
    with pytest.raises(ConfigError, match=r"run\.yaml: global_batch_size 7|run\.yaml: train: global_batch_size 7"):
        loaded(file, "train: {global_batch_size: 7}")
