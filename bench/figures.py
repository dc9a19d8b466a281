"""What every benchmark reports: figures, each a ratio against a named rival; as a table and as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One ratio of one run, and the target for it."""

    figure: str
    """What was measured: its name in the table and in the JSON."""
    ratio: float
    target: float
    better: Literal["higher", "lower"]
    rival: str
    """The rival in the ratio, and what was measured on both sides."""
    command: str
    """The command that measures it again."""

    @property
    def met(self) -> bool:
        return self.ratio >= self.target if self.better == "higher" else self.ratio <= self.target


def keep(path: Path, measured: Sequence[Figure]) -> list[Figure]:
    """All figures of the file, with those just measured in place of their last results."""
    figures = {figure.figure: figure for figure in [*read(path), *measured]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(figure) for figure in figures.values()], indent=1) + "\n", encoding="utf-8")
    return list(figures.values())


def read(path: Path) -> list[Figure]:
    return [Figure(**item) for item in json.loads(path.read_text(encoding="utf-8"))] if path.exists() else []


def table(figures: Sequence[Figure]) -> str:
    """A table with one line for each figure."""
    rows = [("ratio", "target", "met", "figure", "rival")]
    for figure in figures:
        bound = f"{'>=' if figure.better == 'higher' else '<='} {figure.target:g}"
        rows.append((f"{figure.ratio:.3f}", bound, "yes" if figure.met else "NO", figure.figure, figure.rival))
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
