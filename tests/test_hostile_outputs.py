"""Hostile texts in what a run writes for others (a study's table and page, a model card), and in a judge's reply."""

import csv
import json
import random
import resource
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from seva_ray.benchmarks.judged.endpoint import Endpoint, Judge, Reply, TryAgain
from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.errors import InputError
from seva_ray.pages.card import CardContent, model_card
from seva_ray.stages.study.study_results import FORMULA, write_tables
from seva_ray.studies.study_rows import StudyRow
from seva_ray.vlm import template_check
from seva_ray.vlm.template_check import check_templates
from tests.hostile import WEIRD, changed_json
from tests.studies import failed, row
from tests.test_card import CONTENT, ROW
from tests.test_hostile import limited
from tests.test_study_report import hostile_study, page

TEXTS = [text for text in WEIRD if isinstance(text, str)]
FORMULAS = ["=1+1", "+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://evil.example")']


def tables(tmp_path: Path, rows: list[StudyRow]) -> Artifact:
    artifact = Store(str(tmp_path)).open("studies/s", config={})
    write_tables(artifact, rows)
    return artifact


def test_no_text_in_a_study_s_csv_file_is_a_formula_and_numbers_stay_numbers(tmp_path: Path):
    rows = [replace(failed(text), benchmark=text) for text in [*FORMULAS, "plain", ""]] + [row(-1.5)]
    artifact = tables(tmp_path, rows)
    with open(artifact.path("table.csv"), newline="") as file:
        found = list(csv.DictReader(file))
    assert [item["error"] for item in found[:-1]] == [f"'{text}" for text in FORMULAS] + ["plain", ""]
    assert float(found[-1]["difference"]) == -1.5
    texts = [name for name, value in vars(rows[0]).items() if isinstance(value, str)]
    assert not any(item[name].startswith(FORMULA) for item in found for name in texts)
    stored = pa.parquet.read_table(artifact.path("table.parquet"))["error"].to_pylist()
    assert stored[: len(FORMULAS)] == FORMULAS, "programs read the texts as they are"


def with_texts(content: CardContent, rng: random.Random) -> CardContent:
    """The card with texts from elsewhere in some of its places."""

    def text() -> str:
        return rng.choice([*TEXTS, "a\n---\nlicense: mit", "# x", "]( javascript:1)", "![x](http://evil.example/x)"])

    changed: dict[str, Any] = {
        "name": text(),
        "start": text(),
        "fingerprint": text(),
        "license": rng.choice(["", text()]),
        "datasets": [text()],
        "views": {text(): {"kept": 1, text(): 2}},
        "scores": {text(): [replace(ROW, metric=text())]},
        "recipe": {"kind": "Train", text(): text()},
        "versions": {text(): text()},
    }
    return replace(content, **{name: value for name, value in changed.items() if rng.random() < 0.5})


@pytest.mark.parametrize("seed", range(40))
def test_texts_in_a_model_card_are_no_markup_and_its_front_matter_stays_whole(seed: int):
    content = with_texts(CONTENT, random.Random(f"card {seed}"))
    with limited():
        card = model_card(content)
    _, front, body = card.split("---\n", 2)
    found = yaml.safe_load(front)
    usual = yaml.safe_load(model_card(CONTENT).split("---\n", 2)[1])
    assert found.keys() - usual.keys() <= {"base_model", "license", "datasets"}
    assert found["license"] == content.license if content.license else "license" not in found
    headings = [line for line in body.splitlines() if line.startswith("#")]
    assert [line for line in headings if line.startswith("## ")] == [
        line for line in model_card(CONTENT).splitlines() if line.startswith("## ")
    ]
    assert len([line for line in headings if line.startswith("# ")]) <= 1
    assert "<script" not in body
    assert "](http" not in body
    card.encode()


REPLY = {
    "model": "judge-1",
    "choices": [{"message": {"role": "assistant", "content": "Score: 7"}, "finish_reason": "stop"}],
    "usage": {"total_tokens": 12},
}


def test_whatever_a_judge_replies_is_a_reply_or_is_asked_for_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", "k" * 20)
    endpoint = Endpoint(Judge(base_url="http://127.0.0.1:1/v1", model="judge-1"))
    replies = 0
    for seed in range(400):
        data = changed_json(json.dumps(REPLY).encode(), random.Random(f"reply {seed}"))
        with limited():
            try:
                reply = endpoint._reply(data)
            except TryAgain:
                continue
        assert isinstance(reply, Reply)
        json.dumps([getattr(reply, field.name) for field in fields(reply)]).encode()
        reply.text.encode()
        replies += 1
    assert 50 < replies < 390


LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}"
LOOPS += "{% endfor %}{% endfor %}"
GROWS = "{{ ('a' * 3000000000) | length }}"
ASKED_LONG = "{% set text = messages[-1]['content'][1]['text'] %}{% if text | length > 9999 %}" + LOOPS + "{% endif %}"
DOUBLES = "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}"


@pytest.mark.parametrize(
    ("template", "file", "limit_s", "fault"),
    [
        (LOOPS, "chat_template.jinja", 1, "does not end within 1 s"),
        (GROWS, "tokenizer_config.json", 5, "takes more than 1 GiB of memory"),
        (DOUBLES, "chat_template.jinja", 5, "takes more than 1 GiB of memory"),
        (ASKED_LONG, "chat_template.jinja", 1, "does not end within 1 s"),
    ],
)
def test_a_chat_template_that_loops_or_grows_is_one_line(
    template: str, file: str, limit_s: int, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(template_check, "LIMIT_CPU_S", limit_s)
    entry = {"chat_template": [{"name": "default", "template": template}]}
    (tmp_path / file).write_text(template if file.endswith(".jinja") else json.dumps(entry))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError) as caught:
        check_templates(str(tmp_path))
    assert str(caught.value) == f"model {tmp_path}: the chat template in {file} {fault}"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19, "in KiB"


def test_templates_that_are_none_of_its_business_pass(toy_model: str, tmp_path: Path):
    check_templates(toy_model)
    (tmp_path / "chat_template.jinja").write_text("{% no such thing %}{{ raise_exception('x') }}")
    (tmp_path / "config.json").write_text("[" * 99)
    (tmp_path / "processor_config.json").write_text(json.dumps({"chat_template": 7}))
    check_templates(str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("number", range(0, len(TEXTS), 3))
def test_any_text_in_a_study_stays_text_on_its_page(number: int):
    found = page(hostile_study(TEXTS[number]))
    assert not {"script", "iframe", "object", "link"} & {tag for tag, _ in found.tags}
