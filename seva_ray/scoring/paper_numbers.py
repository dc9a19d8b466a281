"""The numbers that SeVa's authors published, beside those that a run measured.

Source: the table of results in the README of Kevinz-code/SeVa at d9284ff, and arXiv 2404.10501 v2. A number that
neither has is missing here. POPE's is the mean F1 of its three sets: 85.9 is what the paper of LLaVA-1.5 has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from seva_ray.scoring.intervals import Comparison

BASE = "LLaVA-1.5-7B"
COLUMNS: Mapping[str, tuple[str, str]] = {
    "LLaVA-W": ("llava-bench", "LLaVA-Bench"),
    "MM-Vet": ("mm-vet", "MM-Vet"),
    "MMB": ("mmbench-en", "MMBench circular accuracy"),
    "MMB-CN": ("mmbench-cn", "MMBench circular accuracy"),
    "POPE": ("pope", "POPE F1"),
    "SEED": ("seed-image", "SEED-Image accuracy"),
    "SHR": ("shr", "SHR"),
    "SQA": ("scienceqa-img", "ScienceQA-IMG accuracy"),
    "GQA": ("gqa", "GQA accuracy"),
    "TextVQA": ("textvqa", "TextVQA accuracy"),
    "MME": ("mme", "MME perception score (of 2000)"),
}
"""A column of the paper's table -> the beginning of our benchmark's name, and our metric."""
ROWS: Mapping[str, Mapping[str, float]] = {
    BASE: {
        "MM-Vet": 30.5, "MMB": 64.3, "POPE": 85.9, "SEED": 65.7, "SHR": 36.7, "SQA": 66.8, "GQA": 62.0, "TextVQA": 58.2,
        "MME": 1510,
    },
    "SeVa-7B diffusion-500": {
        "LLaVA-W": 70.7, "MM-Vet": 35.5, "MMB": 64.7, "MMB-CN": 58.8, "POPE": 86.8, "SEED": 65.8, "SHR": 32.7,
        "SQA": 67.4, "GQA": 61.1,
    },
    "SeVa-7B diffusion-800": {
        "LLaVA-W": 72.2, "MM-Vet": 37.2, "MMB": 65.6, "MMB-CN": 59.2, "POPE": 86.7, "SEED": 65.8, "SHR": 34.9,
        "SQA": 67.5, "GQA": 60.7, "TextVQA": 56.2, "MME": 1450,
    },
    "SeVa-7B moco": {
        "LLaVA-W": 72.5, "MM-Vet": 37.0, "MMB": 65.2, "MMB-CN": 59.8, "POPE": 86.6, "SEED": 65.5, "SHR": 32.9,
        "SQA": 67.1, "GQA": 60.9,
    },
}  # fmt: skip
"""The rows of the paper's table."""


@dataclass(frozen=True, kw_only=True)
class Beside:
    """A number of the paper beside ours."""

    column: str
    paper_start: float | None
    paper_policy: float | None
    benchmark: str
    """Our benchmark's name, which says the protocol."""
    ours: Comparison


def beside(row: str, measured: Mapping[str, Sequence[Comparison]]) -> list[Beside]:
    """The columns that were measured too. `measured`: metrics by the name of our benchmark."""
    found = []
    for column, (beginning, metric) in COLUMNS.items():
        for benchmark, comparisons in measured.items():
            ours = next((item for item in comparisons if item.metric.removesuffix(", low is good") == metric), None)
            if benchmark.startswith(beginning) and ours is not None:
                start, policy = ROWS[BASE].get(column), ROWS.get(row, {}).get(column)
                found.append(
                    Beside(column=column, paper_start=start, paper_policy=policy, benchmark=benchmark, ours=ours)
                )
    return found
