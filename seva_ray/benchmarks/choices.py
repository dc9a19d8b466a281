"""How LLaVA-1.5 asks: for a short answer, or for the letter of an option. The benchmarks of its protocol share it.

Source: docs/Evaluation.md of haotian-liu/LLaVA at c121f04, and its llava/eval/model_vqa_mmbench.py.
"""

from collections.abc import Sequence

LETTERS = "ABCDEFGH"
SHORT_ANSWER = "Answer the question using a single word or phrase."
LETTER_ANSWER = "Answer with the option's letter from the given choices directly."


def ask(question: str, options: Sequence[str], request: str = LETTER_ANSWER) -> str:
    """The prompt's text: the question, one line per option, and the request."""
    lettered = [f"{letter}. {option}" for letter, option in zip(LETTERS, options)]
    return "\n".join([question, *lettered, request])
