"""What published scorers made of answers (tests/published/*.json), beside what ours make of the same answers.

Each file names its script and the commit that was run, and has an entry for each answer.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from seva_ray.benchmarks.amber import AmberDiscriminative, AmberGenerative, AmberImage, Objects
from seva_ray.benchmarks.base import LabelledQuestion, tally_of
from seva_ray.benchmarks.chair import Synonyms, read_synonyms
from seva_ray.benchmarks.gqa import Gqa
from seva_ray.benchmarks.letters import vlmevalkit_letter
from seva_ray.benchmarks.mme import said
from seva_ray.benchmarks.scienceqa import OPTIONS, llava_letter
from seva_ray.benchmarks.seed_bench import SeedBench
from seva_ray.benchmarks.textvqa import TextVqa, normalised_answer, worths
from seva_ray.benchmarks.yesno import says_yes
from seva_ray.core.records import Prompt

FOLDER = Path(__file__).parent / "published"
PROMPT = Prompt(prompt_id="1", image_id="1", question="?", source="s", image_path="i.jpg")
Verdicts = Mapping[Any, tuple[Any, Any]]
"""Answer -> (ours, the published script's)."""


def published(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def bare(kind: type) -> Any:
    """A benchmark without its files: its rule needs none."""
    return object.__new__(kind)


def right_label(benchmark: Any, text: str, labels: tuple[str, ...]) -> str | None:
    """The label for which the answer is right."""
    asked = (LabelledQuestion(prompt=PROMPT, label=label, group="existence") for label in labels)
    return next((question.label for question in asked if benchmark.is_right(question, text)), None)


def by_answer(name: str, ours: Callable[[str], Any]) -> Verdicts:
    return {text: (ours(text), verdict) for text, verdict in published(name)["verdicts"].items()}


def pope() -> Verdicts:
    return by_answer("pope", lambda text: "yes" if says_yes(text) else "no")


def mme() -> Verdicts:
    return by_answer("mme", said)


def scienceqa() -> Verdicts:
    def letter(text: str) -> str | None:
        found = llava_letter(text)
        return found if found in tuple(OPTIONS[:3]) else None  # a letter beyond the choices is wrong

    return by_answer("scienceqa", letter)


def seed() -> Verdicts:
    return by_answer("seed", lambda text: right_label(bare(SeedBench), text, tuple("ABCD")))


def gqa() -> Verdicts:
    """The only label for which our rule calls the answer right: it must be what the script compares with the label."""
    return {
        text: (right_label(bare(Gqa), text, (f"{verdict}.", f" {verdict}", f"{verdict} x", verdict)), verdict)
        for text, verdict in published("gqa")["verdicts"].items()
    }


def textvqa() -> Verdicts:
    table = published("textvqa")
    labels = [worths([normalised_answer(one) for one in people]) for people in table["people"]]

    def ours(text: str) -> list[Any]:
        asked = [LabelledQuestion(prompt=PROMPT, label=label) for label in labels]
        worth = [bare(TextVqa).count(question, text)["worth"] for question in asked]
        return [normalised_answer(text), *(round(value, 6) for value in worth)]

    return by_answer("textvqa", ours)


def synonyms(folder: Path, original: bool) -> Synonyms:
    (folder / "synonyms.txt").write_text("\n".join(published("chair")["synonyms"]) + "\n")
    return read_synonyms(str(folder / "synonyms.txt"), original)


def chair(folder: Path, original: bool) -> Verdicts:
    return by_answer("chair", synonyms(folder, original).mentions)


def amber_discriminative(original: bool = False) -> Verdicts:
    benchmark = bare(AmberDiscriminative)
    object.__setattr__(benchmark, "protocol", "amber-original" if original else "llava")
    return by_answer("amber_discriminative", lambda text: right_label(benchmark, text, ("yes", "no")))


def amber_generative() -> Verdicts:
    table = published("amber_generative")
    relation = table["relation"]
    known = frozenset([*relation, *(word for words in relation.values() for word in words)])

    def image(truth: list[str], hallu: list[str]) -> AmberImage:
        row = {"truth": truth, "hallu": hallu}
        of = {field: Objects.of(row, field, relation, "here") for field in row}
        ignored = frozenset({"light", "individual"})
        return AmberImage(prompt=PROMPT, objects=of["truth"], temptations=of["hallu"], known=known, ignored=ignored)

    asked, second = image(table["truth"], table["hallu"]), image(["sky"], ["dog"])

    def ours(text: str) -> dict[str, float]:
        counts = [asked.count(text), second.count("The sky.")]
        tally = tally_of(list(counts[0]), [("1", count) for count in counts])
        metrics = bare(AmberGenerative).metrics(dict(zip(tally.names, tally.counts[0], strict=True)))
        named = {name.removeprefix("AMBER ").removesuffix(", low is good"): value for name, value in metrics.items()}
        return {name: round(float(value), 1) for name, value in named.items()}

    return by_answer("amber_generative", ours)


def mmbench(name: str) -> Verdicts:
    return {
        (options, answer): (vlmevalkit_letter(answer, options.split("|")), verdict)
        for options, answers in published(name)["verdicts"].items()
        for answer, verdict in answers.items()
    }
