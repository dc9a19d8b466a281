"""The model card of a policy, as text: what it is, how it was made, what happened to the prompts, and its scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

from seva_ray.pages.settings import flat
from seva_ray.scoring.intervals import Comparison

if TYPE_CHECKING:
    from huggingface_hub import CardData, EvalResult

CITATION = [
    "## Citation",
    "",
    "```",
    "@inproceedings{zhu2024seva,",
    "  title = {Self-Supervised Visual Preference Alignment},",
    "  author = {Zhu, Ke and Zhao, Liang and Ge, Zheng and Zhang, Xiangyu},",
    "  booktitle = {ACM Multimedia},",
    "  year = {2024}",
    "}",
    "```",
    "",
]

TASK = "image-text-to-text"


@dataclass(frozen=True, kw_only=True)
class CardContent:
    """All that the card says, as plain data."""

    name: str
    start: str
    """Name of the base model: its repository on the hub, such as `llava-hf/llava-1.5-7b-hf`, if it is known."""
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
    license: str = ""
    datasets: Sequence[str] = ()
    """Names of the pairs, or of the images, on the hub."""


def model_card(content: CardContent) -> str:
    """Markdown with the front matter that model hubs read."""
    from huggingface_hub import ModelCardData  # takes a second

    use = (
        "Load it with `AutoModelForImageTextToText.from_pretrained` or give its directory to vLLM."
        if content.what == "merged"
        else f"A LoRA adapter for {content.start}: load it with PEFT, or with vLLM's `enable_lora` up to rank 512."
    )
    data = ModelCardData(
        library_name="transformers" if content.what == "merged" else "peft",
        pipeline_tag=TASK,
        tags=["seva", "dpo", "vision-language"],
        base_model=content.start if "/" in content.start else None,
        license=content.license or None,
        datasets=list(content.datasets) or None,
        model_name=plain(content.name),
        eval_results=results_of(content.scores) or None,
    )
    lines = [
        *front_matter(data),
        f"# {plain(content.name)}",
        "",
        f"{plain(content.start)}, aligned without labels by self-supervised visual preference alignment (SeVa, arXiv "
        f"2404.10501): DPO on {content.num_pairs:,} pairs for {content.num_steps:,} steps. {use}",
        "",
        "```python",
        *snippet(content),
        "```",
        "",
        "## Scores",
        "",
        *score_lines(content.scores),
        "## What happened to the prompts",
        "",
        *funnel_lines(content.views),
        *recipe_lines(content.recipe),
        f"Fingerprint {plain(content.fingerprint)}; made with "
        + ", ".join(plain(f"{name} {version}") for name, version in content.versions.items())
        + ".",
        "",
        *([] if content.license else ["No licence was given: the base model's holds, and that of its data.", ""]),
        *CITATION,
    ]
    return text_of(lines)


def text_of(lines: Sequence[str]) -> str:
    """The lines as a text that can be stored as UTF-8."""
    return "\n".join(lines).encode("utf-8", "replace").decode()


def front_matter(data: "CardData") -> list[str]:
    """The lines that hubs read as YAML. huggingface_hub writes them, so that a wrong field is an error here."""
    return ["---", *data.to_yaml().strip().splitlines(), "---", ""]


def snippet(content: CardContent) -> list[str]:
    """Python that loads the export and asks one question."""
    where, load = "DIRECTORY_OR_HUB_NAME", ["model = AutoModelForImageTextToText.from_pretrained(name)"]
    imports = ["from transformers import AutoModelForImageTextToText, AutoProcessor"]
    if content.what == "adapter":
        imports = ["from peft import PeftModel", *imports]
        base = f'AutoModelForImageTextToText.from_pretrained("{plain(content.start)}")'
        load = [f"model = PeftModel.from_pretrained({base}, name)"]
    return [
        *imports,
        "",
        f'name = "{where}"',
        *load,
        "processor = AutoProcessor.from_pretrained(name)",
        'content = [{"type": "image", "path": "photo.jpg"}, {"type": "text", "text": "Describe this image."}]',
        'messages = [{"role": "user", "content": content}]',
        "inputs = processor.apply_chat_template(",
        '    messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"',
        ")",
        'answer = model.generate(**inputs, max_new_tokens=200)[0, inputs["input_ids"].shape[1] :]',
        "print(processor.decode(answer, skip_special_tokens=True))",
    ]


def results_of(scores: Mapping[str, Sequence[Comparison]]) -> list["EvalResult"]:
    """The scores as the hub's model-index. Each has its interval, the base model's score and the difference."""
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type=TASK,
            dataset_type=slug(benchmark),
            dataset_name=plain(benchmark),
            metric_type=slug(row.metric),
            metric_name=plain(row.metric),
            metric_value=round(row.policy, 2),
            metric_args={
                name: round(value, 2)
                for name in ("policy_low", "policy_high", "start", "difference", "difference_low", "difference_high")
                if isfinite(value := getattr(row, name))
            },
        )
        for benchmark, rows in scores.items()
        for row in rows
        if isfinite(row.policy)
    ]


def slug(name: str) -> str:
    """A name in small letters and digits, with `-` for everything else."""
    return "-".join("".join(letter if letter.isalnum() else " " for letter in name.lower()).split())


def settings_of(recipe: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The recipe's settings without the `kind` of each group, which only the recipe's reader needs."""
    return [(name, value) for name, value in flat(recipe) if name.rsplit(".", 1)[-1] != "kind" and value != {}]


def score_lines(scores: Mapping[str, Sequence[Comparison]]) -> list[str]:
    if not scores:
        return ["The policy was not evaluated.", ""]
    lines = [
        "Percent; differences with their 95% interval, a paired bootstrap over images (lmms-eval: over questions).",
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
    lines = [f"| view | {' | '.join(map(plain, verdicts))} |", "|---" * (1 + len(verdicts)) + "|"]
    for view, counts in views.items():
        lines.append(f"| {plain(view)} | {' | '.join(f'{counts.get(name, 0):,}' for name in verdicts)} |")
    return [*lines, ""]


def recipe_lines(recipe: Mapping[str, Any]) -> list[str]:
    """A table with every setting of a recipe."""
    rows = (f"| {plain(name)} | {plain(str(value))} |" for name, value in settings_of(recipe))
    return ["## Recipe", "", "| setting | value |", "|---|---|", *rows, ""]


def plain(text: str) -> str:
    """The text without characters that end a table's cell or begin markup: names come from users' directories."""
    return "".join(" " if character in "|\n\r<>`[]" else character for character in text)
