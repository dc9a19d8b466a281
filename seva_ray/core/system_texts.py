"""The system texts of LLaVA's templates, by the names that LLaVA gives them.

SeVa generates with `llava_v1`. LLaVA-1.5 was trained with `vicuna_v1`, SeVa trains with it, and every evaluation script
of LLaVA asks with it. The two differ in two words.
Source: llava/conversation.py of haotian-liu/LLaVA at c121f04; data/step2/generate_with_aug.py of Kevinz-code/SeVa at
d9284ff.
"""

from typing import Literal

ASSISTANT = "A chat between a curious {0} and an artificial intelligence assistant. "
ANSWERS = "The assistant gives helpful, detailed, and polite answers to the {0}'s questions."
LLAVA_V1, VICUNA_V1 = ((ASSISTANT + ANSWERS).format(who) for who in ("human", "user"))
SYSTEM_TEXTS = {"llava_v1": LLAVA_V1, "vicuna_v1": VICUNA_V1}
SystemName = Literal["llava_v1", "vicuna_v1"]
