"""MMBench's last step: a judge reads an answer in which no rule finds an option.

In: a question, its options and an answer. Out: the option that the answer means, or none. As published, the judge is
asked which option is the most similar to the answer, and may say that none is. Deviates: the judge prompt is our own,
and so is its name.
"""

from collections.abc import Sequence

from seva_ray.benchmarks.judged.base import TEXTS_ONLY, judge_text, one_line
from seva_ray.benchmarks.judged.judgement import JudgePrompt, Marks

LETTERS = "ABCD"
NONE = -1.0
"""The mark of an answer that means none of the options."""
INSTRUCTIONS = f"""\
Find the option of a multiple-choice question that an answer means.
{TEXTS_ONLY}
Do not decide which option is right. Choose the option whose meaning is the nearest to the answer. If the answer \
refuses, or if no option means about the same as the answer, the option is none.
End with one line of this form, and write no other line of this form:
Option: A
"""


def reading_prompt(question: str, options: Sequence[str], answer: str) -> JudgePrompt:
    lettered = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options))
    return JudgePrompt(text=judge_text(INSTRUCTIONS, question=question, options=lettered, answer=answer))


def parse(verdict: str) -> Marks | None:
    """The index of the option, or NONE; None for any other text."""
    match = one_line(verdict, rf"Option: *([{LETTERS}]|none)\.?")
    if match is None:
        return None
    return (NONE if match[1].lower() == "none" else float(LETTERS.index(match[1].upper())),)
