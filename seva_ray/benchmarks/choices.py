"""How a model is asked for a short answer, or for the letter of an option, as its own evaluation asks it.

Source: for LLaVA-1.5, docs/Evaluation.md of haotian-liu/LLaVA at c121f04, and its llava/eval/model_vqa_mmbench.py. For
Qwen2-VL and Qwen2.5-VL, vlmeval/vlm/qwen2_vl/prompt.py of open-compass/VLMEvalKit at 2aa7214; for Qwen3-VL, InternVL
and SmolVLM2, vlmeval/vlm/qwen3_vl/prompt.py, internvl/internvl_chat.py and smolvlm.py of the same at e8e78f0.
LLaVA-OneVision is asked by lmms-eval with the requests of LLaVA-1.5.

Deviates: VLMEvalKit begins SmolVLM2's answer to a multiple-choice question with "Answer:". Here a model writes its
whole answer itself.
"""

from collections.abc import Sequence
from typing import Literal

AskedAs = Literal["llava", "internvl", "qwen2-vl", "qwen3-vl", "smolvlm2"]
"""The ways of asking, by the model family for which each was published."""

LETTERS = "ABCDEFGH"
SHORT_ANSWER = "Answer the question using a single word or phrase."
LETTER_ANSWER = "Answer with the option's letter from the given choices directly."
CHINESE_LETTER_ANSWER = "请直接回答选项字母。"
YES_OR_NO = "Please answer yes or no."

SHORT_ANSWERS: dict[str, str] = {
    "qwen2-vl": "Please try to answer the question with short words or phrases if possible.",
    "qwen3-vl": "Please answer concisely with short words or phrases when possible.",
}
"""Requests for a short answer that are not LLaVA's."""

LETTER_ANSWERS: dict[str, str] = {
    "qwen2-vl": "Please select the correct answer from the options above.",
    "qwen3-vl": "Answer with the option letter only.",
    "smolvlm2": "Answer with the letter.",
}
"""Requests for a letter that are not LLaVA's. Their questions name each part."""

SMOLVLM2_CIRCULAR = "Answer with a letter."
"""The request of SmolVLM2 in MMBench."""


def ask(question: str, options: Sequence[str], request: str = LETTER_ANSWER) -> str:
    """The prompt's text: the question, one line per option, and the request."""
    return "\n".join([question, *lettered(options), request])


def lettered(options: Sequence[str]) -> list[str]:
    return [f"{letter}. {option}" for letter, option in zip(LETTERS, options)]


def ask_short(asked_as: AskedAs, question: str) -> str:
    """A question with the request for a short answer."""
    return ask(question, [], SHORT_ANSWERS.get(asked_as, SHORT_ANSWER))


def ask_letter(asked_as: AskedAs, question: str, options: Sequence[str], context: str = "") -> str:
    """A multiple-choice question. `context`: what is said before it; it may be empty."""
    if asked_as in LETTER_ANSWERS:
        return ask_named(asked_as, question, options, context, LETTER_ANSWERS[asked_as])
    before = context if asked_as == "internvl" else f"Context: {context}"
    return ask(f"{before}\n{question}" if context else question, options)


def ask_circular(asked_as: AskedAs, question: str, options: Sequence[str], hint: str, chinese: bool) -> str:
    """A question of MMBench, or of its Chinese version. `hint` may be empty."""
    if asked_as == "smolvlm2":
        asked = f"{question}\nHint: {hint}" if hint else question
        return ask_named(asked_as, asked, options, "", SMOLVLM2_CIRCULAR)
    if asked_as in LETTER_ANSWERS:
        in_chinese = chinese and asked_as == "qwen2-vl"
        request = CHINESE_LETTER_ANSWER if in_chinese else LETTER_ANSWERS[asked_as]
        return ask_named(asked_as, question, options, hint, request)
    request = CHINESE_LETTER_ANSWER if chinese else LETTER_ANSWER
    return ask(f"{hint}\n{question}" if hint else question, options, request)


def ask_named(asked_as: AskedAs, question: str, options: Sequence[str], hint: str, request: str) -> str:
    """A multiple-choice question with a name before each part."""
    before = [f"Hint: {hint}"] if hint else []
    heading = "Choices:" if asked_as == "smolvlm2" else "Options:"
    return "\n".join([*before, f"Question: {question}", heading, *lettered(options), request])
