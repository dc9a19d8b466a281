"""What published scorers made of answers, against ours: equal, or different in a way that the documents state."""

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seva_ray.benchmarks.mme import COGNITION, PERCEPTION, Mme
from seva_ray.core.records import Response
from tests import published_scorers as scorers
from tests.published_scorers import Verdicts, published
from tests.test_mme import write

PAPER = Path(__file__).parent.parent / "docs" / "PAPER.md"
EQUAL: dict[str, Callable[[], Verdicts]] = {
    "POPE": scorers.pope,
    "MME": scorers.mme,
    "ScienceQA-IMG": scorers.scienceqa,
    "SEED-Image": scorers.seed,
    "GQA": scorers.gqa,
    "TextVQA": scorers.textvqa,
}


@pytest.mark.parametrize("name", EQUAL)
def test_an_answer_is_read_as_the_published_script_reads_it(name: str) -> None:
    verdicts = EQUAL[name]()
    assert len(verdicts) >= 200
    assert len({str(theirs) for _, theirs in verdicts.values()}) > 1, (
        "a table in which all answers are alike shows nothing"
    )
    assert {text: pair for text, pair in verdicts.items() if pair[0] != pair[1]} == {}


def test_mmes_scores_are_those_of_its_own_calculation(tmp_path: Path) -> None:
    table = published("mme_scores")
    benchmark = Mme(path=str(write(tmp_path, num_images=12)))
    texts = {
        f"{task}/{image:04}-{number}": text
        for task, images in table["answers"].items()
        for image, pair in enumerate(images, start=1)
        for number, text in enumerate(pair, start=1)
    }
    tally = benchmark.tally({key: Response(prompt_id=key, text=text) for key, text in texts.items()})
    metrics = benchmark.metrics(dict(zip(tally.names, tally.counts.sum(0), strict=True)))
    ours = {task: metrics[f"MME {task} score (of 200)"] for task in (*PERCEPTION, *COGNITION)}
    assert ours == pytest.approx(table["scores"])
    parts = [metrics["MME perception score (of 2000)"], metrics["MME cognition score (of 800)"]]
    assert parts == pytest.approx(table["totals"])


def test_chair_original_finds_what_the_published_tool_finds(tmp_path: Path) -> None:
    verdicts = scorers.chair(tmp_path, original=True)
    assert len(verdicts) >= 200
    assert {text: pair for text, pair in verdicts.items() if pair[0] != pair[1]} == {}


def test_exact_words_finds_what_the_published_tool_loses(tmp_path: Path) -> None:
    differ = {text: pair for text, pair in scorers.chair(tmp_path, original=False).items() if pair[0] != pair[1]}
    less = [text for text, (ours, theirs) in differ.items() if Counter(theirs) - Counter(ours)]
    assert less == ["A baby, bird.", "hot, dog"], "a pair of words that a comma separates is one object for us"
    assert differ["A bus."] == (["bus"], [])


def test_amber_accepts_more_than_the_word_alone_and_never_less() -> None:
    differ = {text: pair for text, pair in scorers.amber_discriminative().items() if pair[0] != pair[1]}
    assert {theirs for _, theirs in differ.values()} == {None}
    assert all(re.match(rf"\W*{ours}\b", text, re.IGNORECASE) for text, (ours, _) in differ.items())
    assert differ["Yes."] == ("yes", None)
    exact = scorers.amber_discriminative(original=True)
    assert {text: pair for text, pair in exact.items() if pair[0] != pair[1]} == {}
    assert exact["Yes"] == ("yes", "yes")


def test_ambers_descriptions_are_counted_as_its_script_counts_the_same_nouns() -> None:
    verdicts = scorers.amber_generative()
    assert len(verdicts) >= 100
    # The script begins some of its sums at 0.001, so that its metrics may differ by a tenth.
    assert {text: pair for text, pair in verdicts.items() if pair[0] != pytest.approx(pair[1], abs=0.11)} == {}


def test_mmbench_differs_from_vlmevalkit_in_chinese_marks_and_from_the_first_rule_in_sentences() -> None:
    kit, first = scorers.mmbench("mmbench"), scorers.mmbench("mmbench_original")
    assert {theirs for ours, theirs in kit.values() if ours != theirs} == {None}
    differ = {key: pair for key, pair in first.items() if pair[0] != pair[1]}
    sentence = next(pair for (_, answer), pair in differ.items() if answer == "Option A is correct.")
    assert sentence == ("A", None), "MMBench asks ChatGPT here"


def rows_of_the_document(folder: Path) -> list[str]:
    """A row of the table for each scorer: benchmark, script, answers, equal, different."""
    exact = scorers.chair(folder, original=False)
    found: list[tuple[str, str, Verdicts]] = [
        (name, name.split("-")[0].lower(), verdicts()) for name, verdicts in EQUAL.items()
    ]
    found += [
        ("CHAIR, `chair-original`", "chair", scorers.chair(folder, original=True)),
        ("CHAIR, `exact-words`", "chair", exact),
        ("AMBER, yes/no, `amber-original`", "amber_discriminative", scorers.amber_discriminative(original=True)),
        ("AMBER, yes/no", "amber_discriminative", scorers.amber_discriminative()),
        ("AMBER, descriptions", "amber_generative", scorers.amber_generative()),
        ("MMBench", "mmbench", scorers.mmbench("mmbench")),
        ("MMBench, August 2026", "mmbench_2026", scorers.mmbench("mmbench_2026")),
        ("MMBench, first rule", "mmbench_original", scorers.mmbench("mmbench_original")),
    ]
    return [row(name, published(file), verdicts) for name, file, verdicts in found]


def row(name: str, table: dict[str, Any], verdicts: Verdicts) -> str:
    numbers = isinstance(next(iter(verdicts.values()))[1], dict)
    close = [ours == (pytest.approx(theirs, abs=0.11) if numbers else theirs) for ours, theirs in verdicts.values()]
    return f"| {name} | {table['script']} | {len(close)} | {sum(close)} | {len(close) - sum(close)} |"


def test_the_document_has_the_counts_of_equal_and_different_verdicts(tmp_path: Path) -> None:
    text = PAPER.read_text(encoding="utf-8")
    assert [row for row in rows_of_the_document(tmp_path) if row not in text] == []


def test_every_table_names_its_script_and_the_commit_that_was_run() -> None:
    for file in scorers.FOLDER.glob("*.json"):
        table = json.loads(file.read_text(encoding="utf-8"))
        assert re.search(r"\bat [0-9a-f]{7}\b", table["script"]), file.name


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        print("\n".join(rows_of_the_document(Path(folder))))
