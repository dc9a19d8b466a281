"""How responses ended: counts and reasons of failures, which each unit commits in the metadata of its own file.

So the driver reads no response again to count it. Files of older versions do not have the counts, and are read.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from seva_ray.augmentations.ladder import Ladder, plain_view
from seva_ray.core.reasons import Reasons
from seva_ray.core.records import Response
from seva_ray.core.storage import read_schema, read_table, whole

COUNTS = b"counts"
"""The key in the metadata of a file of responses under which its counts stand, as JSON."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How the responses of one unit ended."""

    numbers: Counter[str]
    """`num_responses`, `num_tokens`, and `num_<finish reason>`. Of a step of a ladder also `num_asked`: the prompts
    that were asked at this step."""
    reasons: Reasons
    """The reasons of the failed ones."""

    def text(self) -> str:
        """The counts as JSON, which `of` reads."""
        reasons = {reason: [count, *self.reasons.examples[reason]] for reason, count in self.reasons.counts.items()}
        return json.dumps({"numbers": self.numbers, "reasons": reasons})

    @classmethod
    def of(cls, text: str | bytes) -> "Counts":
        data = json.loads(text)
        reasons = Reasons()
        for reason, (count, prompt_id, error) in data["reasons"].items():
            reasons.counts[reason], reasons.examples[reason] = count, (prompt_id, error)
        return cls(numbers=Counter(data["numbers"]), reasons=reasons)


def counts_of(responses: Sequence[Response], view: str) -> Counts:
    numbers = Counter(
        {"num_responses": len(responses), "num_tokens": sum(len(response.token_ids) for response in responses)}
    )
    numbers.update(f"num_{response.finish_reason}" for response in responses)
    if Ladder.of(view):
        numbers["num_asked"] = sum(response.view == plain_view(view) for response in responses)
    reasons = Reasons()
    for response in responses:
        if response.error is not None:
            reasons.add(response.prompt_id, response.error)
    return Counts(numbers=numbers, reasons=reasons)


def read_counts(uri: str, view: str) -> Counts:
    """The counts of a file of responses."""
    text = (read_schema(uri).metadata or {}).get(COUNTS)
    if text is not None:
        with whole(uri):
            return Counts.of(text)
    return counts_of([Response(**row) for row in read_table(uri).to_pylist()], view)


@dataclass(kw_only=True)
class Totals:
    """The counts of an artifact, added up file by file in any order."""

    numbers: Counter[str] = field(default_factory=lambda: Counter({"num_responses": 0, "num_tokens": 0}))
    failed: dict[str, Reasons] = field(default_factory=dict)
    """The reasons of the files with failures, by the file's name."""

    def add(self, name: str, counts: Counts) -> None:
        self.numbers.update(counts.numbers)
        if counts.reasons.counts:
            self.failed[name] = counts.reasons

    def update(self, other: "Totals") -> None:
        """Add what others have added up."""
        self.numbers.update(other.numbers)
        self.failed |= other.failed

    @property
    def reasons(self) -> Reasons:
        """All reasons. Their examples are of the first files, whichever was committed first."""
        found = Reasons()
        for name in sorted(self.failed, key=lambda name: (len(name), name)):
            found.update(self.failed[name])
        return found
