"""The page of noise ladders: one image at more and more noise, with the answer at each step and where it flips."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from seva_ray.pages.pair_cards import data_uri, is_small
from seva_ray.pages.templates import page


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One view of a prompt's image, and the answer to it."""

    step: int | None
    """The noise step; None for the clean image, which comes first."""
    png: bytes
    text: str


@dataclass(frozen=True, kw_only=True)
class PromptLadder:
    """A prompt with its rungs, the clean one first and then by noise step."""

    prompt_id: str
    question: str
    rungs: Sequence[Rung]

    @property
    def flips_at(self) -> int | None:
        """The smallest step whose answer differs from the clean one; None if there is none."""
        return next((rung.step for rung in self.rungs[1:] if rung.text != self.rungs[0].text), None)


@dataclass(frozen=True, kw_only=True)
class LadderContent:
    """All that the page shows."""

    title: str
    summary: Sequence[str]
    ladders: Sequence[PromptLadder]


def render(content: LadderContent) -> str:
    """The ladders as one self-contained HTML page."""
    shown = {"title": content.title, "summary": content.summary, "ladders": [_view(item) for item in content.ladders]}
    return page("ladder_page.html.j2", content=shown)


def _view(ladder: PromptLadder) -> dict[str, Any]:
    clean = ladder.rungs[0].text
    return {
        "prompt_id": ladder.prompt_id,
        "question": ladder.question,
        "flips_at": ladder.flips_at,
        "rungs": [
            {
                "step": rung.step,
                "text": rung.text,
                "differs": rung.text != clean,
                "uri": data_uri(rung.png, "image/png"),
                "small": is_small(rung.png),
            }
            for rung in ladder.rungs
        ],
    }
