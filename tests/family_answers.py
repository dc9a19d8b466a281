"""Answers of one family's tiny model: ours in vLLM, and those of transformers alone.

    python -m tests.family_answers FAMILY NUMBER_OF_ROWS DIRECTORY

prints a line of JSON: for clean and for noised rows, how many of our answers equal transformers' own. Nothing of theirs
is made by the encoding: the model's processor reads a chat, and the noise is drawn by hand. It is a process of its own,
because vLLM binds the threads of the process that it runs in.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from seva_ray.augmentations.diffusion import Diffusion, alpha_bar
from seva_ray.core.seeds import generator
from seva_ray.engines import Decoding, Request, VllmEngine
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.families import as_seen
from seva_ray.vlm.processed import processed
from tests.tiny_models import save_family

NOISE_STEP = 500
DECODING = Decoding(max_new_tokens=8)
SCORED = {"one": 5, "two": 9, "again": 5}
"""Short answers whose log-probabilities the first request asks for, with their first tokens."""
FRAMES = {"qwen2_vl": 2, "qwen2_5_vl": 2, "qwen3_vl": 2, "qwen3_vl_moe": 2}
"""How often each pixel is in what a processor makes of a still image, where it is more than once."""


def photograph(number: int) -> Image.Image:
    """A blurred pattern, 40 to 100 pixels high and wide."""
    random = np.random.default_rng(number)
    height, width = random.integers(40, 100, 2)
    small = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return small.resize((int(width), int(height)), Image.Resampling.BICUBIC)


def question(number: int) -> str:
    return f"What is at place {number}?"


def theirs(name: str, directory: str, encoder: Encoder, number: int, noisy: bool) -> list[list[int]]:
    """What transformers' `generate` answers to what the model's own processor makes, one row at a time."""
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(directory, dtype="float32").eval()
    answers = []
    for row in range(number):
        made = processed(encoder, question(row), as_seen(encoder, photograph(row)))
        made.pop("labels", None)
        if noisy:
            made["pixel_values"] = by_hand(made["pixel_values"], FRAMES.get(name, 1), row)
        inputs = {key: torch.from_numpy(values) for key, values in made.items()}
        with torch.inference_mode():
            ids = model.generate(**inputs, max_new_tokens=DECODING.max_new_tokens, do_sample=False)[0]
        answer = ids[inputs["input_ids"].shape[1] :].tolist()
        end = encoder.tokenizer.eos_token_id
        answers.append(answer[: answer.index(end) + 1] if end in answer else answer)
    return answers


def by_hand(pixels: np.ndarray, frames: int, row: int) -> np.ndarray:
    """The pixels after the noise of one step, with the same noise in all frames."""
    still = pixels if frames == 1 else pixels.reshape(len(pixels), 3, frames, -1)[:, :, :1]
    eps = generator(row).standard_normal(still.shape, np.float32)
    if frames > 1:
        eps = np.concatenate([eps] * frames, axis=2).reshape(pixels.shape)
    share = alpha_bar()[NOISE_STEP]
    return np.sqrt(share) * pixels + np.sqrt(1 - share) * eps


def first_logps(directory: str, asked: Request) -> list[float]:
    """The log-probabilities of the tokens SCORED at the start of the answer, by one forward pass of transformers."""
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(directory, dtype="float32").eval()
    row = Encoder(directory).finished(asked.row)
    inputs = {name: torch.from_numpy(values) for name, values in row.features.items()}
    inputs |= {name: torch.from_numpy(values)[None] for name, values in row.tokens.items()}
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([list(row.ids)]), **inputs).logits[0, -1]
    return logits.float().log_softmax(-1)[list(SCORED.values())].tolist()


def requests(encoder: Encoder, number: int, noisy: bool) -> list[Request]:
    rows = [encoder.row(question(row), photograph(row)) for row in range(number)]
    if noisy:
        noise = Diffusion(noise_step=NOISE_STEP)
        rows = [
            encoder.changed(row, lambda pixels, place=place: noise.pixels(pixels, generator(place)))  # type: ignore[misc]
            for place, row in enumerate(rows)
        ]
    return [
        Request(prompt_id=str(place), row=row, image_id=f"{place} {noisy}", scored={} if place else SCORED)
        for place, row in enumerate(rows)
    ]


def compare(name: str, number: int, directory: Path) -> dict[str, Any]:
    place = save_family(name, directory, weights=True)
    encoder = Encoder(place)
    expected = {noisy: theirs(name, place, encoder, number, noisy) for noisy in (False, True)}
    engine = VllmEngine(dtype="float32", max_model_len=512, max_num_seqs=16, enforce_eager=True).load(place, DECODING)
    found: dict[str, Any] = {"family": name, "rows": number}
    for noisy, answers in expected.items():
        asked = requests(encoder, number, noisy)
        responses = engine.generate(asked)
        ours = [list(response.token_ids) for response in responses]
        scores = [[item["logp"] for item in response.first_logps] for response in responses]
        assert not any(scores[1:]), "only the first request asks for them"
        of_kind = "noised" if noisy else "clean"
        found[of_kind] = sum(a == b for a, b in zip(ours, answers, strict=True))
        found[f"{of_kind}_logps_off"] = float(np.abs(np.subtract(scores[0], first_logps(place, asked[0]))).max())
        found[f"{of_kind}_distinct"] = len({tuple(answer) for answer in answers})
    found["changed_by_noise"] = sum(a != b for a, b in zip(expected[False], expected[True], strict=True))
    return found


if __name__ == "__main__":
    family, rows, scratch = sys.argv[1:]
    print(json.dumps(compare(family, int(rows), Path(scratch))), flush=True)
    os._exit(0)  # vLLM's engine thread never ends by itself
