"""Preference data made elsewhere becomes prompts, responses and pairs like those of a run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seva_ray.core.artifacts import Store
from seva_ray.core.storage import read_table
from seva_ray.dpo.config import Train
from seva_ray.pairs.verdicts import verdict_of
from seva_ray.sources.preferences import Preferences
from seva_ray.stages.export_pairs import ExportPairs, export_pairs
from seva_ray.stages.generate import read_responses
from seva_ray.stages.import_pairs import Reading, answered
from seva_ray.stages.prepare import Prepare, prepare
from seva_ray.stages.training.reference import scoring_input_of
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.models import model_at
from tests.own_pairs import own_pairs

QUESTION, CHOSEN, REJECTED = "what color is the ring ?", "the ring is red", "the ring is blue"


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


FORMS: dict[str, Callable[[str, str, str], dict[str, Any]]] = {
    "official SeVa": lambda q, c, r: {"chosen": c, "reject": r, "question": q, "image_id": "a.png"},
    "TRL": lambda q, c, r: {
        "prompt": [user(q)], "chosen": [assistant(c)], "rejected": [assistant(r)], "images": ["a.png"],
    },
    "TRL without a prompt": lambda q, c, r: {
        "chosen": [user(q), assistant(c)], "rejected": [user(q), assistant(r)], "images": ["a.png"],
    },
    "texts": lambda q, c, r: {"question": q, "chosen": c, "rejected": r, "image": "a.png"},
    "ms-swift": lambda q, c, r: {
        "messages": [user(f"<image>{q}"), assistant(c)], "rejected_response": r, "images": ["a.png"],
    },
    "LLaMA-Factory": lambda q, c, r: {
        "conversations": [{"from": "human", "value": f"<image>{q}"}],
        "chosen": {"from": "gpt", "value": c}, "rejected": {"from": "gpt", "value": r}, "images": ["a.png"],
    },
    "RLAIF-V": lambda q, c, r: {
        "ds_name": "x", "image": "a.png", "question": q, "chosen": c, "rejected": r, "image_path": "elsewhere.jpg",
    },
    "RLHF-V": lambda q, c, r: {"image": "a.png", "text": json.dumps({"question": q, "chosen": c, "rejected": r})},
    "MMPR": lambda q, c, r: {"image": ["a.png"], "question": f"<image>\n{q}", "chosen": c, "rejected": r},
    "POVID": lambda q, c, r: {
        "image": "a.png", "conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": c}],
        "rejected_conversations": [{"from": "human", "value": f"<image>\n{q}"}, {"from": "gpt", "value": r}],
    },
    "LLaVA-RLHF": lambda q, c, r: {
        "image": "a.png", "conversations": [{"from": "human", "value": f"{q}\n<image>"}],
        "output_1": {"from": "llava", "value": r}, "output_2": {"from": "llava", "value": c}, "preference": 2,
    },
    "ms-swift, whole conversations": lambda q, c, r: {
        "messages": [user(f"<image>{q}"), assistant(c)], "rejected_messages": [user(f"<image>{q}"), assistant(r)],
        "images": ["a.png"],
    },
    "TRL, in parts": lambda q, c, r: {
        "images": ["a.png"],
        **{name: [user([{"type": "image"}, {"type": "text", "text": q}]), assistant([{"type": "text", "text": text}])]
           for name, text in (("chosen", c), ("rejected", r))},
    },
    "TRL, prompt as a text": lambda q, c, r: {
        "prompt": q, "chosen": [assistant(c)], "rejected": json.dumps([assistant(r)]), "images": ["a.png"],
    },
}  # fmt: skip


def written(folder: Path, rows: list[Any], name: str = "rows.json") -> Preferences:
    (folder / name).write_text(json.dumps(rows))
    (folder / "a.png").write_bytes(b"an image, which an import does not open")
    return Preferences(path=str(folder / name))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_question_the_image_and_both_answers(tmp_path: Path, form: str):
    source = written(tmp_path, [FORMS[form](QUESTION, CHOSEN, REJECTED)])
    (prompt,), (answers,) = source.prompts(), source.answers()
    assert (prompt.question, prompt.image_path, prompt.error) == (QUESTION, "a.png", None)
    assert answers == (CHOSEN, REJECTED, None)


def test_answers_in_columns_of_other_names_are_told_by_option(tmp_path: Path):
    written(tmp_path, [{"question": QUESTION, "image": "a.png", "good": CHOSEN, "bad": REJECTED}])
    source = Preferences(path=str(tmp_path / "rows.json"), columns={"chosen": "good", "rejected": "bad"})
    assert [prompt.error for prompt in source.prompts()] == [None]
    assert list(source.answers()) == [(CHOSEN, REJECTED, None)]


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ({"question": "a?", "image": "a.png", "chosen": "x"}, "no column with the rejected answer (rejected, reject, "),
        ({"question": "a?", "image": "a.png", "rejected": "x"}, "no column with the chosen answer (chosen, messages, "),
        ({"question": "a?", "image": "a.png", "chosen": 1, "rejected": "x"}, "the chosen answer is not a text"),
        ({"chosen": "x", "rejected": "y", "image": "a.png"}, "no column with a question"),
        (
            {"messages": [user("a?"), assistant("x"), user("b?"), assistant("x")], "rejected": "y", "image": "a.png"},
            "has 2 questions; rows with one question are read",
        ),
        (
            {"prompt": [user("a?")], "chosen": [user("x")], "rejected": [assistant("x")], "image": "a.png"},
            "the chosen conversation does not end with an answer",
        ),
        (["x"], "must be an object"),
        (
            {"chosen": [user("a?"), assistant("x")], "rejected": [user("b?"), assistant("y")], "image": "a.png"},
            "the chosen and the rejected conversation ask different questions",
        ),
        (
            {
                "messages": [user("a?"), assistant("x")],
                "rejected_response": "y",
                "images": ["a.png"],
                "rejected_images": ["b.png"],
            },
            "column 'rejected_images': has another image for the rejected answer, which is not read",
        ),
        (
            {"question": "a?", "image": "a.png", "chosen": ["x", "y"], "rejected": ["z"]},
            "has 2 chosen answers; rows with one are read",
        ),
        (
            {"prompt": "a?", "image": "a.png", "completions": [{"response": "x"}]},
            "the row has prompt, image, completions; name yours with --data.columns question NAME image NAME chosen",
        ),
        ({"question": "a?", "image": "a.png", "chosen": None, "rejected": "y"}, "empty in this row: chosen"),
    ],
)
def test_a_row_that_is_no_pair_is_one_prompt_with_an_error(tmp_path: Path, row: Any, error: str):
    good = FORMS["texts"](QUESTION, CHOSEN, REJECTED)
    source = written(tmp_path, [row, good])
    first, second = source.prompts()
    assert error in (first.error or "")
    assert second.error is None
    assert len(list(source.answers())) == 2


def test_the_answers_are_responses_of_the_model_with_its_tokens_and_training_can_read_them(
    tmp_path: Path, toy_model: str
):
    store, model = Store(str(tmp_path / "runs")), model_at(toy_model)
    rows = [FORMS["official SeVa"](QUESTION, CHOSEN, REJECTED), {"question": "no answers"}]
    source = written(tmp_path, rows * 3)
    prompts = prepare(Prepare(shard_size=4), store, "theirs", source)
    chosen, rejected = answered(Reading(system=""), store, prompts, model, source)
    assert chosen.name == f"responses/{model.name}/theirs/clean"
    assert rejected.name == f"responses/{model.name}/theirs/imported"
    tokenizer = Encoder(toy_model).tokenizer
    for first, second in list(zip(read_responses(prompts, chosen), read_responses(prompts, rejected), strict=True))[
        ::2
    ]:
        assert (first.text, second.text) == (CHOSEN, REJECTED)
        assert tokenizer.decode(first.token_ids, skip_special_tokens=True) == CHOSEN
        assert first.token_ids[-1] == tokenizer.eos_token_id
        assert verdict_of(first, second, True) == ("kept", None)
    assert chosen.counts["num_error"] == 3
    assert scoring_input_of(Train(), model, prompts, chosen).system == ""
    again = answered(Reading(system=""), store, prompts, model, source)
    assert [item.finished for item in again] == [chosen.finished, rejected.finished]
    assert [len(read_table(prompts.path(f"shard-00000{n}.parquet"))) for n in (0, 1)] == [4, 2]


def test_exported_pairs_come_back_as_they_were_in_each_of_their_forms(tmp_path: Path):
    store, pairs = own_pairs(tmp_path / "own")
    to = Path(export_pairs(ExportPairs(to=str(tmp_path / "out")), store, pairs.name))
    expected = [(row["chosen"], row["reject"]) for row in json.loads((to / "seva.json").read_text())]
    for path in (to, to / "seva.json", to / "swift.jsonl", to / "llama_factory.jsonl"):
        source = Preferences(path=str(path), image_root=str(to))
        prompts = list(source.prompts())
        assert {prompt.error for prompt in prompts} == {None}
        assert {prompt.question for prompt in prompts} == {"what color is the ring ?"}
        assert [(chosen, rejected) for chosen, rejected, _ in source.answers()] == expected
        assert all(prompt.image_bytes or (to / (prompt.image_path or "")).is_file() for prompt in prompts)
