"""What the report says about two models' answers to a benchmark: their lengths, flips and hallucinated objects.

In: a score artifact and the responses that it was made from. Out: plain data for the page.
"""

import json
import statistics
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.seeds import key_of
from seva_ray.core.storage import exists, read_bytes, read_table
from seva_ray.pages.run_content import Flip, Hallucinated, Lengths, ScoreTable
from seva_ray.stages.judge import SIDES
from seva_ray.stages.prepare import shards_of
from seva_ray.stages.score_files import benchmark_of, read_comparisons


def notes(scores: Artifact) -> list[str]:
    """Sentences to show below the table of scores."""
    if "policies" in scores.counts:
        return repeats_notes(scores.counts)
    found = []
    if judging := scores.counts.get("judging"):
        found.append(judging_note(judging, json.loads(read_bytes(scores.path("repeats.json")))))
    if of_harness := scores.counts.get("harness"):
        found.append(harness_note(scores.counts["protocol"], of_harness))
    if flips := scores.counts.get("flips"):
        found.append(
            f"Of {flips['right'] + flips['gained'] + flips['lost'] + flips['wrong']:,} questions that are right or "
            f"wrong, the policy gained {flips['gained']:,} and lost {flips['lost']:,}: McNemar's exact test gives "
            f"p = {flips['p_value']:.2g}. The test treats questions as independent, which questions about one image "
            "rarely are."
        )
    return found


def repeats_notes(counts: Mapping[str, Any]) -> list[str]:
    """The notes for several policies of one setting."""
    names = ", ".join(counts["policies"])
    found = [f"The numbers are means over {names}, each compared with the model that it started from."]
    if counts["num_failed"]:
        found.append(f"Partial scores: {counts['num_failed']:,} responses failed; see each policy's own scores.")
    if flips := counts.get("flips"):
        gained, lost = (" + ".join(f"{number:,}" for number in flips[what]) for what in ("gained", "lost"))
        found.append(
            f"Of {flips['num_questions']:,} questions that are right or wrong, the policies gained {gained} and lost "
            f"{lost}: McNemar's test for clusters gives p = {flips['p_value']:.2g}. The test counts all results on the "
            f"questions about one image as one piece of evidence. It says nothing about policies with other seeds."
        )
    return found


def harness_note(protocol: str, counts: Mapping[str, Any]) -> str:
    note = f"{protocol} asked the questions and scored the answers, with its own prompts and rules. "
    if counts["limit"]:
        note += f"Only the first {counts['limit']:,} rows were asked, so these are not the benchmark's scores. "
    note += "Its log does not say which questions share an image, so the intervals treat questions as independent."
    if without := counts["without_difference"]:
        note += f" No difference is given for {', '.join(without)}: an interval needs a mean over logged questions."
    return note


def judging_note(judging: Mapping[str, Any], repeats: Mapping[str, Mapping[str, list[float | None]]]) -> str:
    models = ", ".join(name for name in judging["models"] if name not in ("", judging["judge"]))
    lines = [
        f"The judge is {judging['judge']}{f' (which answered as {models})' if models else ''}, with our own prompt "
        f"(hash {judging['prompt_hash']}), so these numbers cannot be compared with published ones."
    ]
    if len(set(judging["models"]) - {""}) > 1:
        lines.append("More than one model answered under that name, so two judges may have judged start and policy.")
    if judging["num_repeats"] > 1:
        metric, sides = next(iter(repeats.items()))
        spread = " and ".join(f"{deviation(sides[side])} ({side})" for side in SIDES)
        lines.append(
            f"The numbers are means of {judging['num_repeats']} repeats, over which {metric} has a standard deviation "
            f"of {spread}."
        )
        if judging["agreement"] is not None:
            lines.append(f"Two repeats of a judgement agree in {judging['agreement']:.0%} of cases.")
    if judging["num_unjudged"]:
        lines.append(
            f"{judging['num_unjudged']:,} of {judging['num_verdicts']:,} judgements are missing "
            f"({judging['num_refused']:,} refused, the rest unreadable). Their questions are left out for both models."
        )
    return " ".join(lines)


def deviation(values: Iterable[float | None]) -> str:
    defined = [value for value in values if value is not None]
    return f"{statistics.stdev(defined):.1f}" if len(defined) > 1 else "–"


def consistency(found: Artifact) -> ScoreTable:
    counts = found.counts
    notes = []
    if counts["num_left_out"]:
        left_out = f"{counts['num_left_out']:,} of {counts['num_prompts']:,} questions"
        notes.append(f"{left_out} are left out, because a model failed to answer them at least once.")
    return ScoreTable(
        benchmark=f"{counts['benchmark']}, {counts['num_answers']} answers to each of {counts['num_prompts']:,} "
        f"questions, sampled at temperature {counts['temperature']:g}",
        comparisons=read_comparisons(found),
        notes=notes,
    )


def sides_of(store: Store, scores: Artifact) -> list[Artifact]:
    """The responses of start and policy."""
    return [store.find(name) for name in scores.recipe["inputs"]]


def prompts_of(store: Store, scores: Artifact) -> Artifact:
    return store.find(next(iter(sides_of(store, scores)[0].recipe["inputs"])))


def lengths(store: Store, scores: Artifact) -> Lengths:
    """The number of words of every response without an error."""
    prompts = prompts_of(store, scores)
    start, policy = (words(prompts, responses) for responses in sides_of(store, scores))
    return Lengths(benchmark=benchmark_of(scores), start=start, policy=policy)


def words(prompts: Artifact, responses: Artifact) -> list[int]:
    found: list[int] = []
    for shard in shards_of(prompts):
        rows = read_table(responses.path(shard), columns=["text", "error"])
        texts = rows.filter(pc.is_null(rows["error"]))["text"].to_pylist()
        found += [len(text.split()) for text in texts]
    return found


def hallucinated(scores: Artifact) -> Hallucinated:
    return Hallucinated(benchmark=benchmark_of(scores), **scores.counts["hallucinated"])


def flips(
    store: Store, scores: Artifact, num_each: int, picture: Callable[[Artifact, Mapping[str, Any]], bytes]
) -> list[Flip]:
    """Up to `num_each` questions that the policy gained and as many that it lost, chosen by a hash of prompt_id.

    `picture` draws a prompt's image as PNG, from the prompts' artifact and the prompt's row.
    """
    if not exists(scores.path("outcomes.parquet")):
        return []
    outcomes = read_table(scores.path("outcomes.parquet"))
    chosen: list[dict[str, Any]] = []
    for policy_right in (True, False):
        kind = pc.and_(
            pc.equal(outcomes["policy_right"], policy_right), pc.xor(*(outcomes[f"{side}_right"] for side in SIDES))
        )
        rows = outcomes.filter(kind).to_pylist()
        chosen += sorted(rows, key=lambda row: key_of(0, "flip", row["prompt_id"]))[:num_each]
    prompts = prompts_of(store, scores)
    asked = prompt_rows(prompts, [row["prompt_id"] for row in chosen])
    return [
        Flip(
            prompt_id=row["prompt_id"],
            question=asked[row["prompt_id"]]["question"],
            benchmark=benchmark_of(scores),
            image_png=picture(prompts, asked[row["prompt_id"]]),
            start=row["start"] or "",
            policy=row["policy"] or "",
            gained=row["policy_right"],
        )
        for row in chosen
    ]


def prompt_rows(prompts: Artifact, prompt_ids: list[str]) -> dict[str, dict[str, Any]]:
    """The rows of these prompts, by prompt_id. No other rows are converted to Python, as a row may hold an image."""
    wanted = pa.array(prompt_ids, pa.string())
    return {
        row["prompt_id"]: row
        for shard in shards_of(prompts)
        for rows in [read_table(prompts.path(shard))]
        for row in rows.filter(pc.is_in(rows["prompt_id"], wanted)).to_pylist()
    }
