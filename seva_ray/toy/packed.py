"""Many questions about one image: packed training batches, and greedy answers from a cached image prefix.

A toy image has about ten questions. A packed row has what all prompts about it begin with once, such as `<s> USER: [36
image tokens]`, then every question with its answer. Each question sees only the image and itself, and its positions
restart after the image. So the model's logits are the same as for separate prompts.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from seva_ray.toy.families import family_of
from seva_ray.toy.model import EOS, PAD, SPECIAL, UNK, VOCABULARY

Row = Sequence[tuple[list[int], list[int]]]
"""The questions about one image, each as (question ids, answer ids)."""
IDS = {word: i for i, word in enumerate(VOCABULARY)}
_MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
_STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)


def normalised(pictures: np.ndarray) -> Tensor:
    """uint8 (B, H, W, 3) as the float tensor (B, 3, H, W) that CLIP's image processor makes, and Qwen2.5-VL's before
    it lists the patches."""
    return (torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255 - _MEAN) / _STD


def question_ids(question: str) -> list[int]:
    """The tokens of a question after the image, up to where the answer begins."""
    return [IDS.get(word, UNK) for word in question.split()] + [IDS["ASSISTANT:"]]


def answer_ids(answer: str) -> list[int]:
    """The tokens of an answer, with the end token."""
    return [IDS.get(word, UNK) for word in answer.split()] + [EOS]


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """What all prompts about an image begin with, for B images of one size: P tokens."""

    embeds: Tensor
    """What the language model reads for it, (B, P, hidden)."""
    positions: Tensor
    """Position ids, (1, P), or (3, P) for a model whose positions have three axes."""

    @property
    def num_tokens(self) -> int:
        return self.embeds.shape[1]

    @property
    def next_position(self) -> int:
        """Position id of the token after it, on every axis."""
        return int(self.positions.max()) + 1

    def followed_by(self, positions: Tensor) -> Tensor:
        """The position ids of rows that go on with `positions`, (B, T): (B, P + T), or (3, B, P + T)."""
        axes, before = len(self.positions), self.positions[:, None].expand(-1, len(positions), -1)
        joined = torch.cat([before, positions.expand(axes, -1, -1)], 2)
        return joined if axes > 1 else joined[0]


def prefix(model: Any, pixels: Tensor) -> Prefix:
    """The beginning of prompts about normalised images, (B, 3, H, W)."""
    family = family_of(model)
    grid = pixels.shape[2] // family.TOKEN_PX, pixels.shape[3] // family.TOKEN_PX
    embed = model.model.language_model.embed_tokens
    before, after = (
        embed(torch.tensor(ids, dtype=torch.long)).expand(len(pixels), -1, -1)
        for ids in (family.OPENING, family.CLOSING)
    )
    embeds = torch.cat([before, family.image_features(model, pixels), after], 1)
    return Prefix(embeds=embeds, positions=family.positions(model, grid))


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
    """Position ids, counted from the end of the image prefix."""
    weight: Tensor
    """Weight in the loss: 1 / sqrt(tokens of the answer) for answer tokens, and 0 for all others."""


def pack(rows: Sequence[Row]) -> Pack:
    """Put the rows, one per image, into a Pack."""
    shape = len(rows), max(length(row) for row in rows)
    ids, segment = np.full(shape, PAD), np.full(shape, -1)
    position, weight = np.zeros(shape, np.int64), np.zeros(shape, np.float32)
    for b, row in enumerate(rows):
        start = 0
        for number, (question, answer) in enumerate(row, 1):
            middle, end = start + len(question), start + len(question) + len(answer)
            ids[b, start:end] = question + answer
            segment[b, start:end] = number
            position[b, start:end] = np.arange(end - start)
            weight[b, middle:end] = len(answer) ** -0.5
            start = end
    ids_, segment_, position_, weight_ = (torch.from_numpy(array) for array in (ids, segment, position, weight))
    return Pack(ids=ids_, segment=segment_, position=position_, weight=weight_)


def answer_logits(model: Any, before: Prefix, batch: Pack) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (N, V) that predict the N answer tokens of a pack, then those tokens (N,) and their weights (N,)."""
    language = model.model.language_model
    states = language(
        inputs_embeds=torch.cat([before.embeds, language.embed_tokens(batch.ids)], 1),
        attention_mask=attention_mask(batch, before.num_tokens),
        position_ids=before.followed_by(before.next_position + batch.position),
        use_cache=False,
    ).last_hidden_state
    row, column = batch.weight.nonzero(as_tuple=True)
    logits = model.lm_head(states[row, before.num_tokens + column - 1])
    return logits, batch.ids[row, column], batch.weight[row, column]


def attention_mask(batch: Pack, num_prefix_tokens: int) -> Tensor:
    """An additive mask (B, 1, T, T): every token sees only earlier tokens of the image prefix and of its question."""
    segment = pad(batch.segment, (num_prefix_tokens, 0))  # the prefix is segment 0
    seen = (segment[:, None, :] == 0) | (segment[:, None, :] == segment[:, :, None])
    seen &= torch.ones(seen.shape[1:], dtype=torch.bool).tril()
    return torch.zeros(seen.shape).masked_fill_(~seen, -1e4)[:, None]


@torch.inference_mode()
def greedy(
    model: Any,
    before: Prefix,
    prompts: Sequence[tuple[int, str]],
    max_new_tokens: int = 64,
    batch_size: int = 512,
) -> list[list[int]]:
    """Returns greedy answers, as token ids with the end token. Each prompt is (number of the image in `before`,
    question).

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
            answered = _greedy_batch(model, before, [prompts[i] for i in part], max_new_tokens)
            for i, answer in zip(part, answered, strict=True):
                answers[i] = answer
    return answers


def _greedy_batch(
    model: Any, before: Prefix, prompts: Sequence[tuple[int, str]], max_new_tokens: int
) -> list[list[int]]:
    language = model.model.language_model
    images, which = torch.tensor([image for image, _ in prompts]).unique(return_inverse=True)
    embeds = before.embeds[images]
    of_prefix = before.followed_by(torch.zeros(len(images), 0, dtype=torch.long))
    computed = DynamicCache()
    language(inputs_embeds=embeds, position_ids=of_prefix, past_key_values=computed, use_cache=True)
    cache = DynamicCache([(layer.keys[which], layer.values[which]) for layer in computed.layers])
    answers: list[list[int]] = [[] for _ in prompts]
    open_answers = list(range(len(prompts)))
    tokens, position = torch.tensor([question_ids(question) for _, question in prompts]), before.next_position
    for _ in range(max_new_tokens):
        at = torch.arange(position, position + tokens.shape[1]).expand(len(tokens), -1)
        output = language(input_ids=tokens, position_ids=at, past_key_values=cache, use_cache=True)
        newest = model.lm_head(output.last_hidden_state[:, -1]).argmax(-1)
        for i, token in zip(open_answers, newest.tolist(), strict=True):
            answers[i].append(token)
        going_on = (newest != EOS).nonzero()[:, 0]
        if not len(going_on):
            break
        if len(going_on) < len(newest):
            open_answers = [open_answers[i] for i in going_on.tolist()]
            cache.batch_select_indices(going_on)
        position += tokens.shape[1]
        tokens = newest[going_on, None]
    return answers


def text(token_ids: Sequence[int]) -> str:
    """An answer's words, without special tokens."""
    return " ".join(VOCABULARY[i] for i in token_ids if len(SPECIAL) <= i < len(VOCABULARY))
