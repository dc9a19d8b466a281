"""How a model is asked for a short answer, for yes or no, or for the letter of an option.

Source: for LLaVA-1.5, docs/Evaluation.md of haotian-liu/LLaVA at c121f04, and its llava/eval/model_vqa_mmbench.py; for
Qwen2-VL and its successors, vlmeval/vlm/qwen2_vl/prompt.py of open-compass/VLMEvalKit at 2aa7214.
"""

from collections.abc import Sequence

LETTERS = "ABCDEFGH"
SHORT_ANSWER = "Answer the question using a single word or phrase."
LETTER_ANSWER = "Answer with the option's letter from the given choices directly."
CHINESE_LETTER_ANSWER = "请直接回答选项字母。"
QWEN_YES_OR_NO = " Please answer yes or no."
QWEN_LETTER_ANSWER = "Please select the correct answer from the options above."


def ask(question: str, options: Sequence[str], request: str = LETTER_ANSWER) -> str:
    """The prompt's text: the question, one line per option, and the request."""
    lettered = [f"{letter}. {option}" for letter, option in zip(LETTERS, options)]
    return "\n".join([question, *lettered, request])


def ask_qwen(question: str, options: Sequence[str], hint: str, chinese: bool) -> str:
    """The same for Qwen2-VL and its successors. `hint` may be empty."""
    lettered = [f"{letter}. {option}" for letter, option in zip(LETTERS, options)]
    request = CHINESE_LETTER_ANSWER if chinese else QWEN_LETTER_ANSWER
    return "\n".join([*([f"Hint: {hint}"] if hint else []), f"Question: {question}", "Options:", *lettered, request])
