"""Processors as published models have them, trained on a few sentences: two Llama-style ones and a ChatML one.

Each pairs its tokenizer with a CLIP image processor of 28 px (4 image tokens), in LLaVA's processor.
"""

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import processors as post_processors
from transformers import CLIPImageProcessorPil, LlavaProcessor, PreTrainedTokenizerFast

SENTENCES = [
    "USER: \nWhat colour is the cat? ASSISTANT: The cat is black and white.",
    "A chat between a curious human and an assistant. SYSTEM user assistant yes no, two of them.",
]

# What the template of llava-hf/llava-1.5-7b-hf renders, the space after an answer included.
LLAVA_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)

CHATML_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for part in message['content'] %}"
    "{{ '<image>\n' if part['type'] == 'image' else part['text'] }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def llama_style(legacy: bool = False) -> LlavaProcessor:
    """SentencePiece-like BPE: spaces are `▁`, one more and `<s>` in front, bytes for unknown letters.

    A legacy one, as LLaVA-1.5's, puts the `▁` in front of every piece of text, even of one that begins with a space.
    """
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    fast = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    fast.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)  # merges stay within words
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    fast.train_from_iterator(SENTENCES, trainer)
    if legacy:
        fast.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        fast.pre_tokenizer = pre_tokenizers.Sequence([])
    else:
        fast.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    spaces = decoders.Replace("▁", " ")
    fast.decoder = decoders.Sequence([spaces, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    fast.post_processor = post_processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=fast,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
        clean_up_tokenization_spaces=False,
    )
    return processor(tokenizer, LLAVA_TEMPLATE)


def chatml_style() -> LlavaProcessor:
    """Byte-level BPE without BOS, as Qwen has it."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    fast = Tokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    fast.train_from_iterator(SENTENCES, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=fast,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens={"image_token": "<image>"},
        clean_up_tokenization_spaces=False,
    )
    return processor(tokenizer, CHATML_TEMPLATE)


def processor(tokenizer: PreTrainedTokenizerFast, template: str) -> LlavaProcessor:
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=template,
    )
