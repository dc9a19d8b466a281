"""Why rows failed: errors that differ only in what they name are counted together, each with one row as an example."""

import re
from collections import Counter
from dataclasses import dataclass, field

NAMES = re.compile(r"""(?<!column )(['"]).*?\1|0x[0-9a-f]+|\d+""")
"""What an error says of its own row: quoted texts but those of columns, addresses, and numbers."""


@dataclass(kw_only=True)
class Reasons:
    """Of the rows of one stage."""

    counts: Counter[str] = field(default_factory=Counter)
    """By error, without what it names."""
    examples: dict[str, tuple[str, str]] = field(default_factory=dict)
    """By the same, the prompt_id and the whole error of the first row."""

    def add(self, prompt_id: str, error: str) -> None:
        reason = NAMES.sub("", re.sub(r"^row [^:]*: ", "", error))
        self.counts[reason] += 1
        self.examples.setdefault(reason, (prompt_id, error))

    def update(self, other: "Reasons") -> None:
        self.counts.update(other.counts)
        self.examples = other.examples | self.examples

    def lines(self, limit: int = 3) -> list[str]:
        """The most frequent reasons, each as its number of rows and its example."""
        return [
            f"{count:,} failed as {prompt_id!r} did: {' '.join(error.split())[:300]}"
            for reason, count in self.counts.most_common(limit)
            for prompt_id, error in [self.examples[reason]]
        ]
