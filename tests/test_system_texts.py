"""Training prompts and each benchmark are asked with the system text of their source, in one run."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from seva_ray.benchmarks import Benchmarks
from seva_ray.benchmarks.base import protocol_of
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.system_texts import LLAVA_TEXTS, LLAVA_V1, SYSTEM_TEXTS, VICUNA_V1
from seva_ray.engines import FakeEngine
from seva_ray.engines.config import Generate
from seva_ray.engines.encoded import encoded_of
from seva_ray.sources import ToyWorld
from seva_ray.stages.consistency import Consistency, part_of
from seva_ray.stages.generate import open_responses, units_of
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.stages.unit_worker import encode_units, task_of
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.models import Model
from tests.processors import llama_style
from tests.published_scorers import published
from tests.test_benchmark_jobs import write_gqa
from tests.test_pope import published_like
from tests.test_pope import write as write_pope

MODEL = Model(name="model", directory="/data/model", fingerprint="0123456789abcdef")
CONFIG = Generate(engine=FakeEngine())


def chosen(folder: Path, generation: str = LLAVA_V1, **values: Any) -> list[Any]:
    """POPE and GQA."""
    if not (folder / "images").exists():
        write_pope(folder, published_like())
        write_gqa(folder)
    images = str(folder / "images")
    files = {"pope": str(folder), "pope_images": images, "gqa": str(folder / "testdev.json"), "gqa_images": images}
    return Benchmarks(**files | values).chosen(generation)


def prepared(store: Store, benchmark: Any) -> Artifact:
    return prepare(Prepare(), store, benchmark.name, benchmark)


@pytest.mark.parametrize("name", LLAVA_TEXTS)
def test_prompts_are_those_of_llavas_templates_to_the_last_character(name: str, tmp_path: Path) -> None:
    llama_style().save_pretrained(str(tmp_path))
    encoder = Encoder(str(tmp_path), SYSTEM_TEXTS[name])
    prompts = published("llava_prompts")["verdicts"][name]
    assert {question: encoder.prompt_text(question) for question in prompts} == prompts


def test_each_benchmark_is_asked_with_its_sources_text_and_says_it(tmp_path: Path) -> None:
    llava, seva = (chosen(tmp_path, pope_protocol=protocol) for protocol in ("llava", "seva"))
    assert [one.name for one in llava] == ["pope-llava-vicuna_v1", "gqa-llava-vicuna_v1"]
    assert [protocol_of(one) for one in llava] == ["llava-vicuna_v1", "llava-vicuna_v1"]
    assert seva[0].name == "pope-seva", "SeVa asks POPE with the text of its generation"
    assert chosen(tmp_path, VICUNA_V1)[0].name == "pope-seva-llava_v1"


def test_a_family_is_asked_with_its_evaluations_text_unless_the_user_has_another_one(tmp_path: Path) -> None:
    names = {
        asked_as: [one.name for one in chosen(tmp_path, "", pope_protocol="llava", asked_as=asked_as)]
        for asked_as in ("internvl", "llava-onevision", "qwen2-vl", "smolvlm2")
    }
    assert names == {
        "internvl": ["pope-llava-internvl2_5", "gqa-internvl-internvl2_5"],
        "llava-onevision": ["pope-llava-qwen_1_5", "gqa-llava-qwen_1_5"],
        "qwen2-vl": ["pope-llava", "gqa-qwen2-vl"],
        "smolvlm2": ["pope-llava", "gqa-smolvlm2"],
    }
    for values in ({"generation": "Be brief."}, {"generation": "", "system": "generation"}):
        one = chosen(tmp_path, **values, pope_protocol="seva", asked_as="internvl")
        assert [part.name for part in one] == ["pope-seva", "gqa-internvl"]


@pytest.mark.parametrize(("generation", "system"), [("", "source"), ("Be kind.", "source"), (LLAVA_V1, "generation")])
def test_a_model_with_a_text_of_its_own_is_asked_with_it_everywhere(
    generation: str, system: Literal["source", "generation"], tmp_path: Path
) -> None:
    names = [one.name for one in chosen(tmp_path, generation, system=system)]
    assert names == ["pope-seva", "gqa-llava"]


def test_one_run_asks_training_prompts_and_benchmarks_with_different_texts(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "runs"))
    prompts = prepare(Prepare(), store, "toy", ToyWorld(num_images=2))
    tests = [prepared(store, benchmark) for benchmark in chosen(tmp_path)]
    asked = {}
    for artifact in [prompts, *tests, part_of(Consistency(num_answers=2, num_prompts=1), store, tests[1])]:
        responses = open_responses(CONFIG, store, MODEL, artifact, "clean")
        units = units_of(MODEL, artifact, "clean", responses)
        asked[artifact.name] = {responses.recipe["config"]["system"], *(unit.system for unit in units)}
    assert asked == {
        "prompts/toy": {LLAVA_V1},
        "prompts/pope-seva": {LLAVA_V1},
        "prompts/gqa-llava-vicuna_v1": {VICUNA_V1},
        "prompts/gqa-llava-vicuna_v1-part-1-0": {VICUNA_V1},
    }


def test_a_unit_is_encoded_with_the_text_of_its_own_prompts(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "runs"))
    prompts = prepare(Prepare(), store, "toy", ToyWorld(num_images=1))
    (unit,) = units_of(MODEL, prompts, "clean", open_responses(CONFIG, store, MODEL, prompts, "clean"))
    made = encode_units({"units": [task_of([replace(unit, system="Be kind.")])["units"]]}, CONFIG)
    (encoded,) = encoded_of(made["header"][0], made["buffer"][0])
    rows = [prompt.row for prompt in encoded.prompts if prompt.row is not None]
    assert rows
    assert {bytes(row.ids).decode().split("\n")[0] for row in rows} == {"Be kind."}
