"""Why rows failed. Errors that differ only in names and numbers are counted together, with one row as an example."""

import re
from collections import Counter
from dataclasses import dataclass, field

NAMES = re.compile(r"""(?<!column )(['"]).*?\1|0x[0-9a-f]+|\d+""")
"""The parts of an error that belong to its own row: quoted texts (except column names), addresses and numbers."""

FAILURES = "failures"
"""The entry of an artifact's counts with the lines about the rows that failed."""


@dataclass(kw_only=True)
class Reasons:
    """The reasons why rows of one stage failed."""

    counts: Counter[str] = field(default_factory=Counter)
    """Number of failed rows, by the error without NAMES."""
    examples: dict[str, tuple[str, str]] = field(default_factory=dict)
    """The prompt_id and the whole error of the first row, by the same key."""

    def add(self, prompt_id: str, error: str) -> None:
        reason = NAMES.sub("", re.sub(r"^row [^:]*: ", "", error))
        self.counts[reason] += 1
        self.examples.setdefault(reason, (prompt_id, error))

    def update(self, other: "Reasons") -> None:
        self.counts.update(other.counts)
        self.examples = other.examples | self.examples

    def record(self) -> dict[str, list[str]]:
        """The lines as a part of an artifact's counts, from which reports read them; empty if no row failed."""
        return {FAILURES: self.lines()} if self.counts else {}

    def lines(self, limit: int = 3) -> list[str]:
        """The most frequent reasons, each with its number of rows and its example."""
        return [
            f"{count:,} failed{', such as' if count > 1 else ':'} {prompt_id!r}: {' '.join(error.split())[:300]}"
            for reason, count in self.counts.most_common(limit)
            for prompt_id, error in [self.examples[reason]]
        ]
