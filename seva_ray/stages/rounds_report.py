"""rounds_report: the rounds of one run -> one page, `rounds/<name>/index.html`, with the scores of every round.

In: the policies `<name>`, `<name>-round2`, ... and all that they were made from. Every policy's scores compare it with
the first model of the run.
"""

import json
from collections.abc import Sequence
from typing import Any

from seva_ray.core.artifacts import Artifact, Store
from seva_ray.core.provenance import versions
from seva_ray.core.storage import exists, read_bytes
from seva_ray.pages.rounds_content import RoundRow, RoundsContent, RoundScores
from seva_ray.pairs.files import made_of
from seva_ray.stages.report import drawn_once, page_recipe
from seva_ray.stages.results import main_row
from seva_ray.stages.score_files import benchmark_of, read_comparisons, scores_of, title_of
from seva_ray.stages.training.worker import LOG


def report_rounds(store: Store, names: Sequence[str], command: str) -> str:
    """Write the page about the rounds whose policies have these names, and return its URI. A page that was drawn from
    the same artifacts, by the same code, stays as it is. `command`: the command that made the run."""
    uri = store.uri(f"rounds/{names[0]}/index.html")
    policies = [store.find(f"policies/{name}") for name in names]
    pairs = [store.find(next(iter(policy.recipe["inputs"]))) for policy in policies]
    scores = [scores_of(store, name) for name in names]
    shown = [*policies, *pairs, *(item for of_round in scores for item in of_round)]

    def draw(drawn_from: str) -> str:
        from seva_ray.pages.rounds_page import render  # takes seconds

        rows = [row_of(store, *items) for items in zip(names, policies, pairs, strict=True)]
        of_benchmarks = scores_by_benchmark(scores)
        content = RoundsContent(
            title=f"seva_ray: the rounds of {names[0]}",
            summary=[*map(sentence, of_benchmarks), about(rows)],
            rounds=rows,
            scores=of_benchmarks,
            command=command,
            versions=versions(),
            drawn_from=drawn_from,
        )
        return render(content)

    recipe = page_recipe({"rounds": len(names)}, {item.name: item.record for item in shown})
    return drawn_once(uri, "rounds", recipe, draw)


def row_of(store: Store, name: str, policy: Artifact, pairs: Artifact) -> RoundRow:
    """What one round did. Of a union of pairs, the last part says what the round itself made."""
    of_round = store.find(made_of(pairs)[-1]) if made_of(pairs) else pairs
    log = [row for row in json.loads(read_bytes(policy.path(LOG))) if "loss" in row]
    last: dict[str, Any] = log[-1] if log else {}
    return RoundRow(
        name=name,
        start=policy.counts["start"]["name"],
        pairs=pairs.name.removeprefix("pairs/"),
        num_prompts=of_round.counts["num_prompts"],
        num_kept=of_round.counts["verdicts"]["kept"],
        num_equal=of_round.counts["verdicts"].get("equal", 0),
        num_trained=policy.counts["num_pairs"],
        num_steps=policy.counts["num_steps"],
        margin=last.get("rewards/margins"),
        chosen=last.get("rewards/chosen"),
        has_report=exists(store.uri(f"reports/{name}/index.html")),
    )


def scores_by_benchmark(scores: Sequence[Sequence[Artifact]]) -> list[RoundScores]:
    """The scores of each benchmark that every round has, with the rounds in order."""
    by_name = [{benchmark_of(item): item for item in of_round} for of_round in scores]
    common = [name for name in by_name[0] if all(name in of_round for of_round in by_name)]
    return [
        RoundScores(
            title=title_of(by_name[0][name]),
            main=main_row(by_name[0][name]).metric,
            rounds=[read_comparisons(of_round[name]) for of_round in by_name],
        )
        for name in common
    ]


def sentence(scores: RoundScores) -> str:
    """The main metric of one benchmark, before the first round and after each round."""
    rows = scores.of(scores.main)
    return f"{scores.main} on {scores.title}: {' → '.join(f'{value:.1f}' for value in [rows[0].start, *values(rows)])}"


def values(rows: Sequence[Any]) -> list[float]:
    return [row.policy for row in rows]


def about(rows: Sequence[RoundRow]) -> str:
    kept = ", ".join(f"{row.num_kept:,} of {row.num_prompts:,}" for row in rows)
    return f"Round 1 started from {rows[0].start}, and each other round from the policy before it. Pairs kept: {kept}."
