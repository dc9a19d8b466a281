"""The model card of a policy, as text: what it is, how it was made, what happened to the prompts, and its scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from seva_ray.pages.settings import flat
from seva_ray.scoring.intervals import Comparison


@dataclass(frozen=True, kw_only=True)
class CardContent:
    """All that the card says, as plain data."""

    name: str
    start: str
    """Name of the base model."""
    what: str
    """`merged` or `adapter`."""
    num_pairs: int
    num_steps: int
    views: Mapping[str, Mapping[str, int]]
    """Prompts by verdict, for each rejected view."""
    scores: Mapping[str, Sequence[Comparison]]
    """Scores by benchmark."""
    recipe: Mapping[str, Any]
    """The settings of training, as in the policy's recipe."""
    versions: Mapping[str, str]
    fingerprint: str


def model_card(content: CardContent) -> str:
    """Markdown with the front matter that model hubs read."""
    use = (
        "Load it with `AutoModelForImageTextToText.from_pretrained` or give its directory to vLLM."
        if content.what == "merged"
        else f"A LoRA adapter for {content.start}: load it with PEFT, or with vLLM's `enable_lora` up to rank 512."
    )
    lines = [
        "---",
        "library_name: " + ("transformers" if content.what == "merged" else "peft"),
        "pipeline_tag: image-text-to-text",
        "tags: [seva, dpo, vision-language]",
        "---",
        "",
        f"# {plain(content.name)}",
        "",
        f"{plain(content.start)}, aligned without labels by self-supervised visual preference alignment (SeVa, arXiv "
        f"2404.10501): DPO on {content.num_pairs:,} pairs for {content.num_steps:,} steps. {use}",
        "",
        "## Scores",
        "",
        *score_lines(content.scores),
        "## What happened to the prompts",
        "",
        *funnel_lines(content.views),
        "## Recipe",
        "",
        "| setting | value |",
        "|---|---|",
        *(f"| {name} | {plain(str(value))} |" for name, value in settings_of(content.recipe)),
        "",
        f"Fingerprint {content.fingerprint}; made with "
        + ", ".join(f"{name} {version}" for name, version in content.versions.items())
        + ".",
        "",
    ]
    return "\n".join(lines)


def settings_of(recipe: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The recipe's settings without the `kind` of each group, which only the recipe's reader needs."""
    return [(name, value) for name, value in flat(recipe) if name.rsplit(".", 1)[-1] != "kind" and value != {}]


def score_lines(scores: Mapping[str, Sequence[Comparison]]) -> list[str]:
    if not scores:
        return ["The policy was not evaluated.", ""]
    lines = [
        "Percent; differences with their 95 % interval, a paired bootstrap over images (lmms-eval: over questions).",
        "",
    ]
    for benchmark, rows in scores.items():
        lines += [f"| {plain(benchmark)} | base model | policy | difference |", "|---|---|---|---|"]
        for row in rows:
            interval = f"{row.difference:+.1f} [{row.difference_low:+.1f}, {row.difference_high:+.1f}]"
            interval = interval if isfinite(row.difference_low) else "no interval"
            lines.append(f"| {plain(row.metric)} | {row.start:.1f} | {row.policy:.1f} | {interval} |")
        lines.append("")
    return lines


def funnel_lines(views: Mapping[str, Mapping[str, int]]) -> list[str]:
    verdicts = list(dict.fromkeys(name for counts in views.values() for name, count in counts.items() if count))
    lines = [f"| view | {' | '.join(verdicts)} |", "|---" * (1 + len(verdicts)) + "|"]
    for view, counts in views.items():
        lines.append(f"| {plain(view)} | {' | '.join(f'{counts.get(name, 0):,}' for name in verdicts)} |")
    return [*lines, ""]


def plain(text: str) -> str:
    """The text without characters that end a table's cell or begin markup: names come from users' directories."""
    return "".join(" " if character in "|\n\r<>`[]" else character for character in text)
