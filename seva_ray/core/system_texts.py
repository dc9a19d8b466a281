"""The system texts of published evaluations, by the names that their authors give them.

SeVa generates with `llava_v1`. LLaVA-1.5 was trained with `vicuna_v1`, SeVa trains with it, and every evaluation script
of LLaVA asks with it. The two differ in two words.
Source: llava/conversation.py of haotian-liu/LLaVA at c121f04; data/step2/generate_with_aug.py of Kevinz-code/SeVa at
d9284ff.

InternVL3's and LLaVA-OneVision's evaluations ask with the system text of the template with which they were trained.
Their files in the transformers format have no system text. Source: `internvl2_5` in
internvl_chat/internvl/conversation.py of OpenGVLab/InternVL; `qwen_1_5` in llava/conversation.py of LLaVA-VL/LLaVA-NeXT
at 19ddd2e.
"""

from typing import Literal

ASSISTANT = "A chat between a curious {0} and an artificial intelligence assistant. "
ANSWERS = "The assistant gives helpful, detailed, and polite answers to the {0}'s questions."
LLAVA_V1, VICUNA_V1 = ((ASSISTANT + ANSWERS).format(who) for who in ("human", "user"))
LLAVA_TEXTS = {"llava_v1": LLAVA_V1, "vicuna_v1": VICUNA_V1}
SYSTEM_TEXTS = LLAVA_TEXTS | {
    "internvl2_5": (
        "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
    ),
    "qwen_1_5": "You are a helpful assistant.",
}
SystemName = Literal["llava_v1", "vicuna_v1", "internvl2_5", "qwen_1_5"]
