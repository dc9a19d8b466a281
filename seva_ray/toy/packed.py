"""Many questions about one image: packed training batches, and greedy answers from a cached image prefix.

A toy image has about ten questions. A packed row has the tokens `<s> USER: [36 image tokens]` once, then every question
with its answer. Each question sees only the image and itself, and its positions restart after the image. So the model's
logits are the same as for separate prompts.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache, LlavaForConditionalGeneration

from seva_ray.toy.model import BOS, EOS, NUM_IMAGE_TOKENS, PAD, UNK, VOCABULARY

Row = Sequence[tuple[list[int], list[int]]]
"""The questions about one image, each as (question ids, answer ids)."""
IDS = {word: i for i, word in enumerate(VOCABULARY)}
OPENING = (BOS, IDS["USER:"])
PREFIX_TOKENS = len(OPENING) + NUM_IMAGE_TOKENS
_MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
_STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)


def normalised(pictures: np.ndarray) -> Tensor:
    """uint8 (B, H, W, 3) as the float tensor (B, 3, H, W) that CLIP's image processor makes from 48 px pictures."""
    return (torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255 - _MEAN) / _STD


def question_ids(question: str) -> list[int]:
    """The tokens of a question after the image, up to where the answer begins."""
    return [IDS.get(word, UNK) for word in question.split()] + [IDS["ASSISTANT:"]]


def answer_ids(answer: str) -> list[int]:
    """The tokens of an answer, with the end token."""
    return [IDS.get(word, UNK) for word in answer.split()] + [EOS]


def image_features(model: LlavaForConditionalGeneration, pixel_values: Tensor) -> Tensor:
    """The features that the language model reads for an image, (B, 36, hidden)."""
    return model.model.multi_modal_projector(patch_states(model, pixel_values))


def patch_states(model: LlavaForConditionalGeneration, pixel_values: Tensor) -> Tensor:
    """The vision tower's last states without the class token, (B, 36, hidden)."""
    return model.model.vision_tower(pixel_values).last_hidden_state[:, 1:]


def length(row: Row) -> int:
    """The number of tokens in a row after the image prefix."""
    return sum(len(question) + len(answer) for question, answer in row)


@dataclass(frozen=True, kw_only=True)
class Pack:
    """Questions and answers of B images, padded to T tokens, without the image prefix. All tensors are (B, T)."""

    ids: Tensor
    """Token ids."""
    segment: Tensor
    """The number of the question in its row, from 1; -1 for padding."""
    position: Tensor
    """Position ids, counted from the start of the prompt."""
    weight: Tensor
    """Weight in the loss: 1 / sqrt(tokens of the answer) for answer tokens, and 0 for all others."""


def pack(rows: Sequence[Row]) -> Pack:
    """Put the rows, one per image, into a Pack."""
    shape = len(rows), max(length(row) for row in rows)
    ids, segment = np.full(shape, PAD), np.full(shape, -1)
    position, weight = np.full(shape, PREFIX_TOKENS), np.zeros(shape, np.float32)
    for b, row in enumerate(rows):
        start = 0
        for number, (question, answer) in enumerate(row, 1):
            middle, end = start + len(question), start + len(question) + len(answer)
            ids[b, start:end] = question + answer
            segment[b, start:end] = number
            position[b, start:end] += np.arange(end - start)
            weight[b, middle:end] = len(answer) ** -0.5
            start = end
    ids_, segment_, position_, weight_ = (torch.from_numpy(array) for array in (ids, segment, position, weight))
    return Pack(ids=ids_, segment=segment_, position=position_, weight=weight_)


def answer_logits(model: LlavaForConditionalGeneration, features: Tensor, batch: Pack) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (N, V) that predict the N answer tokens of a pack, then those tokens (N,) and their weights (N,)."""
    language = model.model.language_model
    opening = language.embed_tokens(torch.tensor(OPENING)).expand(len(features), -1, -1)
    before = torch.arange(PREFIX_TOKENS).expand(len(features), -1)
    states = language(
        inputs_embeds=torch.cat([opening, features, language.embed_tokens(batch.ids)], 1),
        attention_mask=attention_mask(batch),
        position_ids=torch.cat([before, batch.position], 1),
        use_cache=False,
    ).last_hidden_state
    row, column = batch.weight.nonzero(as_tuple=True)
    logits = model.lm_head(states[row, PREFIX_TOKENS + column - 1])
    return logits, batch.ids[row, column], batch.weight[row, column]


def attention_mask(batch: Pack) -> Tensor:
    """An additive mask (B, 1, T, T): every token sees only earlier tokens of the image prefix and of its question."""
    segment = pad(batch.segment, (PREFIX_TOKENS, 0))  # the prefix is segment 0
    seen = (segment[:, None, :] == 0) | (segment[:, None, :] == segment[:, :, None])
    seen &= torch.ones(seen.shape[1:], dtype=torch.bool).tril()
    return torch.zeros(seen.shape).masked_fill_(~seen, -1e4)[:, None]


@torch.inference_mode()
def greedy(
    model: LlavaForConditionalGeneration,
    features: Tensor,
    prompts: Sequence[tuple[int, str]],
    max_new_tokens: int = 64,
    batch_size: int = 512,
) -> list[list[int]]:
    """Greedy answers, as token ids with the end token. Each prompt is (row of `features`, question).

    Questions of the same length share a batch, so that nothing is padded. The image prefix is computed once per image.
    """
    model.eval()
    by_length = defaultdict(list)
    for i, (_, question) in enumerate(prompts):
        by_length[len(question_ids(question))].append(i)
    answers: list[list[int]] = [[] for _ in prompts]
    for numbers in by_length.values():
        for start in range(0, len(numbers), batch_size):
            part = numbers[start : start + batch_size]
            answered = _greedy_batch(model, features, [prompts[i] for i in part], max_new_tokens)
            for i, answer in zip(part, answered, strict=True):
                answers[i] = answer
    return answers


def _greedy_batch(
    model: LlavaForConditionalGeneration, features: Tensor, prompts: Sequence[tuple[int, str]], max_new_tokens: int
) -> list[list[int]]:
    language = model.model.language_model
    images, which = torch.tensor([row for row, _ in prompts]).unique(return_inverse=True)
    prefix = DynamicCache()
    opening = language.embed_tokens(torch.tensor(OPENING)).expand(len(images), -1, -1)
    language(inputs_embeds=torch.cat([opening, features[images]], 1), past_key_values=prefix, use_cache=True)
    cache = DynamicCache([(layer.keys[which], layer.values[which]) for layer in prefix.layers])
    answers: list[list[int]] = [[] for _ in prompts]
    open_answers = list(range(len(prompts)))
    tokens = torch.tensor([question_ids(question) for _, question in prompts])
    for _ in range(max_new_tokens):
        states = language(input_ids=tokens, past_key_values=cache, use_cache=True).last_hidden_state[:, -1]
        newest = model.lm_head(states).argmax(-1)
        for i, token in zip(open_answers, newest.tolist(), strict=True):
            answers[i].append(token)
        going_on = (newest != EOS).nonzero()[:, 0]
        if not len(going_on):
            break
        if len(going_on) < len(newest):
            open_answers = [open_answers[i] for i in going_on.tolist()]
            cache.batch_select_indices(going_on)
        tokens = newest[going_on, None]
    return answers


def text(token_ids: Sequence[int]) -> str:
    """An answer's words, without special tokens."""
    return " ".join(VOCABULARY[i] for i in token_ids if i not in (BOS, EOS, PAD))
