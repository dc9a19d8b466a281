"""The card of an exported set of pairs, as Markdown: what it is, how to load it, what happened to every prompt, recipe,
lineage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seva_ray.pages.card import CITATION, front_matter, funnel_lines, plain, recipe_lines, text_of
from seva_ray.pairs.files import Origin

SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
NAMES = ("1K", "10K", "100K", "1M", "10M")

ORIGINS: Mapping[Origin, str] = {
    "self": "They were made without labels by self-supervised visual preference alignment (SeVa, arXiv 2404.10501): "
    "{model} answered every question about the image (chosen) and about a changed copy of it (rejected).",
    "contrast": "The chosen answers are those of {model}'s that the image makes likelier than a noised copy does; the "
    "rejected ones are its own answers.",
    "ground truth": "The chosen answers are those of the data set; the rejected ones are answers of {model}.",
    "imported": "Both answers were made elsewhere.",
}
"""A sentence on the origin of the answers, by the way they were chosen. `{model}` stands for the model's name."""


@dataclass(frozen=True, kw_only=True)
class DatasetContent:
    """All that the card says, as plain data."""

    name: str
    model: str
    """Name of the model that the pairs are for."""
    origin: Origin = "self"
    num_rows: int
    num_prompts: int
    license: str
    views: Mapping[str, Mapping[str, int]]
    """Prompts by verdict, for each rejected view."""
    samples: Sequence[Mapping[str, Any]]
    """A few rows; `images` is the path of the image."""
    settings: Mapping[str, Any]
    lineage: Mapping[str, str]
    """Fingerprints of the artifacts that the pairs were made from, by name."""
    versions: Mapping[str, str]


def dataset_card(content: DatasetContent) -> str:
    from huggingface_hub import DatasetCardData  # takes a second

    data = DatasetCardData(
        pretty_name=f"SeVa pairs {plain(content.name)}",
        license=content.license or None,
        task_categories=["image-text-to-text", "visual-question-answering"],
        size_categories=[size_of(content.num_rows)],
        tags=["seva", "dpo", "preference", "trl", "llama-factory", "ms-swift"],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}],
    )
    lines = [
        *front_matter(data),
        f"# Preference pairs {plain(content.name)}",
        "",
        f"{content.num_rows:,} pairs for Direct Preference Optimization of a vision-language model, from "
        f"{content.num_prompts:,} prompts. {ORIGINS[content.origin].format(model=plain(content.model))} Pairs with "
        "equal answers are left out. Both answers are to be scored on the image as it is.",
        "",
        *license_lines(content.license),
        "## Use",
        "",
        "```python",
        "from datasets import load_dataset",
        'pairs = load_dataset("DIRECTORY_OR_HUB_NAME", split="train")   # images, prompt, chosen, rejected: for TRL',
        "```",
        "",
        "| trainer | what to give it |",
        "|---|---|",
        "| TRL | `DPOTrainer(model, args, train_dataset=pairs, processing_class=processor)` |",
        "| LLaMA-Factory | `dataset: seva`, `dataset_dir: DIRECTORY`, `media_dir: DIRECTORY`, `stage: dpo` |",
        "| ms-swift | `ROOT_IMAGE_DIR=DIRECTORY swift rlhf --rlhf_type dpo --dataset DIRECTORY/swift.jsonl` |",
        "| the official SeVa code | `seva.json` as its data, DIRECTORY as its image folder |",
        "",
        "## Examples",
        "",
        *(line for sample in content.samples for line in sample_lines(sample)),
        "## What happened to the prompts",
        "",
        *funnel_lines(content.views),
        *recipe_lines(content.settings),
        "## Lineage",
        "",
        "| artifact | fingerprint |",
        "|---|---|",
        *(f"| {plain(name)} | {fingerprint} |" for name, fingerprint in content.lineage.items()),
        "",
        "Made with " + ", ".join(f"{name} {version}" for name, version in content.versions.items()) + ".",
        "",
        *CITATION,
    ]
    return text_of(lines)


def size_of(number: int) -> str:
    """The hub's name for a number of rows."""
    place = sum(number >= size for size in SIZES)
    if place == 0:
        return "n<1K"
    return f"{NAMES[place - 1]}<n<{NAMES[place]}" if place < len(NAMES) else f"n>{NAMES[-1]}"


def license_lines(license_name: str) -> list[str]:
    if license_name:
        return []
    return ["No licence was given. Images and questions have that of the data that they were taken from.", ""]


def sample_lines(sample: Mapping[str, Any]) -> list[str]:
    return [
        f"![The image that the question is about]({sample['images']})",
        "",
        f"- question: {plain(sample['prompt'][0]['content'])}",
        f"- chosen: {plain(sample['chosen'][0]['content'])}",
        f"- rejected ({plain(sample['view'])}): {plain(sample['rejected'][0]['content'])}",
        "",
    ]
