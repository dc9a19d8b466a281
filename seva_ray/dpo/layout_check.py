"""Whether a model is scored exactly: what training makes of a pair against what transformers says by itself."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seva_ray.core.errors import InputError, is_of_the_machine, line_of
from seva_ray.dpo.batch import PreferenceCollator
from seva_ray.dpo.logps import reads_in_order, response_logps
from seva_ray.vlm.processed import processed
from seva_ray.vlm.views import Viewer

ANSWER_TOKENS = 8, 5
"""Length of the two answers to each prompt that `check_layouts` compares."""


def check_layouts(model: Any, viewer: Viewer, pairs: Sequence[Mapping[str, Any]], packed: bool) -> str | None:
    """Why the packed layout cannot be used with this model, from its configuration and a trial on a few pairs; None if
    it can, or if `packed` says that it is not wanted.

    To compare the layouts with each other would not show what is wrong in both. So each is compared with what
    transformers' `generate` says of answers that it has given itself, to what the model's own processor has made. They
    may differ as much as `generate` does from itself when it caches nothing: that is rounding.

    Raises: InputError if the plain layout differs: the model is not scored exactly.
    """

    def difference(packed: bool) -> str | None:
        batch = PreferenceCollator(viewer=viewer, packed=packed)(trial)
        with torch.no_grad():
            found = response_logps(model, {name: values.to(model.device) for name, values in batch.items()})
        off = float(((found.cpu() - expected).abs() / batch["num_tokens"]).max())
        if off <= most:
            return None
        return (
            f"log-probabilities are off by {off:.2g} nats a token from those of `generate`; rounding allows {most:.2g}"
        )

    try:
        answers = [generated(model, viewer, pair) for pair in pairs]
        rounding = torch.cat([answer.logps - answer.uncached_logps for row in answers for answer in row])
        most = max(0.001 if model.dtype == torch.float32 else 0.01, 3 * float(rounding.square().mean().sqrt()))
        expected = torch.tensor([[float(answer.logps.sum()) for answer in row] for row in answers])
        if expected.isnan().any():
            dtype = str(model.dtype).removeprefix("torch.")
            raise InputError(
                f"model {model.name_or_path}: computes NaN in {dtype}: a weight is NaN or infinite, so the model must "
                "be made or copied again; nothing is trained"
            )
        trial = [
            {**pair, "chosen_token_ids": first.token_ids, "rejected": [{"token_ids": second.token_ids}]}
            for pair, (first, second) in zip(pairs, answers, strict=True)
        ]
        found = difference(packed=False)
    except OF_THE_MODEL as error:
        found = reason(error)
    if found:
        raise InputError(
            f"model {model.name_or_path}: model type {model.config.model_type!r} cannot be scored exactly: {found}; "
            "nothing is trained"
        )
    if not packed:
        return None
    if reads_in_order(model.config.get_text_config()):  # Llama 4's chunks are longer than the rows of a trial
        return "some of its layers are no usual attention, so that a row can hold one response alone"
    try:
        return difference(packed=True)
    except OF_THE_MODEL as error:
        return reason(error)


OF_THE_MODEL = (ValueError, TypeError, AttributeError, IndexError, RuntimeError)
"""What a model raises that cannot read a batch."""


def reason(error: Exception) -> str:
    """The error as one line. Raises: the error itself if it is of the machine, and says nothing about the model."""
    if is_of_the_machine(error):
        raise error
    return line_of(error)


class ScoredAnswer(NamedTuple):
    """log-probabilities of each token, (T,), natural: while it was generated, and once more without a cache."""

    token_ids: list[int]
    logps: Tensor
    uncached_logps: Tensor


def generated(model: Any, viewer: Viewer, pair: Mapping[str, Any]) -> list[ScoredAnswer]:
    """The model's greedy answer to a pair's prompt, and one that must begin with another token, by transformers alone:
    none of the tokens, pixels, masks and positions is made here."""
    image = viewer.encoder.as_seen(viewer.image(pair))
    known = inspect.signature(model.forward).parameters
    inputs = {
        name: torch.from_numpy(values).to(model.device)
        for name, values in processed(viewer.encoder, viewer.question(pair), image).items()
        if name in known
    }
    num_prompt = inputs["input_ids"].shape[1]

    def generate(num_tokens: int, **more: Any) -> tuple[list[int], Tensor]:
        with torch.no_grad():
            made = model.generate(
                **inputs,
                **more,
                min_new_tokens=num_tokens,
                max_new_tokens=num_tokens,
                suppress_tokens=[model.config.image_token_id],  # the forward pass would look for an image
                do_sample=False,
                num_beams=1,
                output_logits=True,  # as they are before any is ruled out
                return_dict_in_generate=True,
            )
        token_ids = made.sequences[0, num_prompt:]
        logps = torch.stack(made.logits, 1)[0].float().log_softmax(-1)
        return token_ids.tolist(), logps.gather(1, token_ids[:, None])[:, 0].cpu()

    answers: list[ScoredAnswer] = []
    for num_tokens in ANSWER_TOKENS:
        others = [answer.token_ids[0] for answer in answers]
        token_ids, logps = generate(num_tokens, begin_suppress_tokens=others or None)

        def same(batch: int, sequence: Tensor, token_ids: list[int] = token_ids) -> list[int]:
            return [token_ids[len(sequence) - num_prompt]]

        try:
            _, uncached_logps = generate(num_tokens, use_cache=False, prefix_allowed_tokens_fn=same)
        except OF_THE_MODEL as error:  # some models cannot generate without a cache: no rounding is known then
            reason(error)
            uncached_logps = logps
        answers.append(ScoredAnswer(token_ids, logps, uncached_logps))
    return answers
