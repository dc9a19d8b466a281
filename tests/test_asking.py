"""How each family's own evaluation asks the benchmarks that ask for a letter or a short answer."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from seva_ray.benchmarks.choices import AskedAs
from seva_ray.benchmarks.mme import Mme
from seva_ray.core.errors import ConfigError
from tests.test_choice_benchmarks import LETTER, SHORT, gqa, scienceqa, scores, seed
from tests.test_mme import write as write_mme
from tests.test_textvqa import OCR, published_like
from tests.test_textvqa import write as write_textvqa

COWS = "Cows are big."
TWO = "A. a cat\nB. a cow"

SCIENCE = {
    "llava": f"Context: {COWS}\nWhich is bigger?\n{TWO}\n{LETTER}",
    "internvl": f"{COWS}\nWhich is bigger?\n{TWO}\n{LETTER}",
    "qwen2-vl": f"Hint: {COWS}\nQuestion: Which is bigger?\nOptions:\n{TWO}\n"
    "Please select the correct answer from the options above.",
    "qwen3-vl": f"Hint: {COWS}\nQuestion: Which is bigger?\nOptions:\n{TWO}\nAnswer with the option letter only.",
    "smolvlm2": f"Hint: {COWS}\nQuestion: Which is bigger?\nChoices:\n{TWO}\nAnswer with the letter.",
}
WORDS = {
    "llava": SHORT,
    "internvl": SHORT,
    "qwen2-vl": "Please try to answer the question with short words or phrases if possible.",
    "qwen3-vl": "Please answer concisely with short words or phrases when possible.",
    "smolvlm2": SHORT,
}
YES_OR_NO = {
    "llava": f"Is it Yes?\n{SHORT}",
    "internvl": f"Is it Yes? Please answer yes or no. {SHORT}",
    "qwen2-vl": "Is it Yes? Please answer yes or no.",
    "qwen3-vl": "Is it Yes? Please answer yes or no. Please answer yes or no.",
    "smolvlm2": "Is it Yes? Please answer yes or no.\nGive a very brief answer.",
}
FAMILIES = get_args(AskedAs)


def asked(benchmark: Any, **values: Any) -> tuple[Any, dict[str, str]]:
    other = replace(benchmark, **values)
    return other, {prompt.prompt_id: prompt.question for prompt in other.prompts()}


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_is_asked_for_a_letter_and_for_words_as_its_own_evaluation_asks(family: str, tmp_path: Path):
    science, questions = asked(scienceqa(tmp_path), protocol=family)
    assert (questions["3"], science.name) == (SCIENCE[family], f"scienceqa-img-{family}")
    assert questions["1"] == SCIENCE[family].split("\n", 1)[1], "without a context there is no line for it"
    other, questions = asked(seed(tmp_path), protocol=family)
    assert (questions["101"].split("\n")[-1], other.name) == (SCIENCE[family].split("\n")[-1], f"seed-image-{family}")
    short, questions = asked(gqa(tmp_path), protocol=family)
    assert (questions["201"], short.name) == (f"Is it so?\n{WORDS[family]}", f"gqa-{family}")
    mme, questions = asked(Mme(path=str(write_mme(tmp_path / "mme", num_images=1))), protocol=family)
    assert (questions["existence/0001-1"], mme.name) == (YES_OR_NO[family], f"mme-{family}")


def test_textvqa_is_asked_without_ocr_tokens_and_smolvlm2_gets_instructions(tmp_path: Path):
    plain = write_textvqa(tmp_path, published_like())
    qwen, questions = asked(plain, asked_as="qwen2-vl")
    assert (questions["34602"], qwen.name) == (
        f"what is the brand of this camera?\n{WORDS['qwen2-vl']}",
        "textvqa-qwen2-vl",
    )
    smol, questions = asked(plain, asked_as="smolvlm2")
    assert smol.name == "textvqa-smolvlm2"
    assert questions["34602"].startswith(
        "Answer the following question about the image using as few words as possible. "
    )
    assert questions["34602"].endswith(f"\nQuestion: what is the brand of this camera?\n{SHORT}")
    with pytest.raises(ConfigError, match=r"^ocr_path: qwen2-vl is asked without OCR tokens$"):
        replace(write_textvqa(tmp_path, published_like(), OCR), asked_as="qwen2-vl")


def test_letters_of_other_families_are_found_by_vlmevalkits_rules(tmp_path: Path):
    """LLaVA's script takes the letter alone in SEED, and wants a full stop behind it in ScienceQA."""
    llava, qwen = (replace(seed(tmp_path), protocol=family) for family in ("llava", "qwen2-vl"))
    assert scores(llava, q101="A. thing a")["SEED-Image accuracy"] == 0
    assert scores(qwen, q101="A. thing a")["SEED-Image accuracy"] == pytest.approx(100 / 3)
    first, smol = (replace(scienceqa(tmp_path), protocol=family) for family in ("llava", "smolvlm2"))
    assert scores(first, q1="The answer is B")["ScienceQA-IMG accuracy"] == 0
    assert scores(smol, q1="The answer is B")["ScienceQA-IMG accuracy"] == 50


def test_an_unknown_protocol_is_one_line(tmp_path: Path):
    unknown: Any = "gpt"
    with pytest.raises(ConfigError, match=r"^protocol 'gpt': must be one of llava, internvl, "):
        replace(gqa(tmp_path), protocol=unknown)
