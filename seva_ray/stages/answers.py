"""What the report says of two models' answers to a benchmark: how long, what flipped, what is named but not there.

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
from seva_ray.pages.run_page import Flip, Hallucinated, Lengths, ScoreTable
from seva_ray.stages.judge import SIDES
from seva_ray.stages.prepare import shard_name
from seva_ray.stages.score_files import benchmark_of, read_comparisons


def notes(scores: Artifact) -> list[str]:
    """Sentences for under the table."""
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
            f"p = {flips['p_value']:.2g}. It takes questions as independent, which those of one image rarely are."
        )
    return found


def repeats_notes(counts: Mapping[str, Any]) -> list[str]:
    """Of several policies of one setting."""
    found = [f"Means over {', '.join(counts['policies'])}, each beside the model that it started from."]
    if counts["num_failed"]:
        found.append(f"Partial: {counts['num_failed']:,} responses failed, as each policy's own scores say.")
    if flips := counts.get("flips"):
        gained, lost = (" + ".join(f"{number:,}" for number in flips[what]) for what in ("gained", "lost"))
        found.append(
            f"Of {flips['num_questions']:,} questions that are right or wrong, the policies gained {gained} and lost "
            f"{lost}: McNemar's test for clusters gives p = {flips['p_value']:.2g}. All that the policies made of one "
            f"image's questions is one piece of evidence there; it says nothing of policies with other seeds."
        )
    return found


def harness_note(protocol: str, counts: Mapping[str, Any]) -> str:
    note = f"Asked and scored by {protocol}, with its prompts and rules. "
    if counts["limit"]:
        note += f"Only the first {counts['limit']:,} rows were asked: these are not the benchmark's scores. "
    note += "Its log does not say which questions share an image, so intervals take them as independent."
    if without := counts["without_difference"]:
        note += f" No difference for {', '.join(without)}: it is no mean over logged questions, so it has no interval."
    return note


def judging_note(judging: Mapping[str, Any], repeats: Mapping[str, Mapping[str, list[float | None]]]) -> str:
    models = ", ".join(name for name in judging["models"] if name not in ("", judging["judge"]))
    lines = [
        f"Judged by {judging['judge']}{f' (which answered as {models})' if models else ''} with a prompt of our own "
        f"(hash {judging['prompt_hash']}): not to be compared with published numbers."
    ]
    if len(set(judging["models"]) - {""}) > 1:
        lines.append("More than one model answered to that name: numbers of start and policy may be of two judges.")
    if judging["num_repeats"] > 1:
        metric, sides = next(iter(repeats.items()))
        spread = " and ".join(f"{deviation(sides[side])} ({side})" for side in SIDES)
        lines.append(
            f"Means of {judging['num_repeats']} repeats; over them {metric} has a standard deviation of {spread}."
        )
        if judging["agreement"] is not None:
            lines.append(f"Two repeats of a verdict agree in {judging['agreement']:.0%} of cases.")
    if judging["num_unjudged"]:
        lines.append(
            f"{judging['num_unjudged']:,} of {judging['num_verdicts']:,} verdicts are missing "
            f"({judging['num_refused']:,} refused, the rest unreadable): their questions are left out for both models."
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
        notes.append(f"{left_out} are left out, because a model failed to answer them once.")
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
    """Words of every response without an error."""
    prompts = prompts_of(store, scores)
    start, policy = (words(prompts, responses) for responses in sides_of(store, scores))
    return Lengths(benchmark=benchmark_of(scores), start=start, policy=policy)


def words(prompts: Artifact, responses: Artifact) -> list[int]:
    found: list[int] = []
    for index in range(prompts.counts["num_shards"]):
        rows = read_table(responses.path(shard_name(index)), columns=["text", "error"])
        texts = rows.filter(pc.is_null(rows["error"]))["text"].to_pylist()
        found += [len(text.split()) for text in texts]
    return found


def hallucinated(scores: Artifact) -> Hallucinated:
    return Hallucinated(benchmark=benchmark_of(scores), **scores.counts["hallucinated"])


def flips(
    store: Store, scores: Artifact, num_each: int, picture: Callable[[Artifact, Mapping[str, Any]], bytes]
) -> list[Flip]:
    """Some that the policy gained and as many that it lost, chosen by a hash of prompt_id.

    `picture` draws a prompt's image as PNG, from its artifact and its row.
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
    """Rows by prompt_id; only these leave Arrow, because a row may hold an image."""
    wanted = pa.array(prompt_ids, pa.string())
    return {
        row["prompt_id"]: row
        for index in range(prompts.counts["num_shards"])
        for rows in [read_table(prompts.path(shard_name(index)))]
        for row in rows.filter(pc.is_in(rows["prompt_id"], wanted)).to_pylist()
    }
