"""A DPO step of our trainer against TRL's with its own loss and its own reference pass: the same pairs, tokens, model
and adapter, in one process and by turns, so that other work on the machine slows both alike."""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from bench.fresh import peak_mb
from bench.workload import LLAVA_SHAPED, Workload
from seva_ray.dpo.config import Train
from seva_ray.dpo.policy import Lora, load_model
from seva_ray.toy.model import VOCABULARY
from seva_ray.vlm.encoding import Encoder
from seva_ray.vlm.rows import stacked
from seva_ray.vlm.views import Viewer

NUM_PAIRS = 2
"""Number of pairs in a step."""
SIDES_PX = {"llava-shaped": (336, 337), "qwen-shaped": (448, 561)}
"""Smallest and largest side of the pictures, the latter exclusive."""
NUM_IMAGE_TOKENS = {"llava-shaped": 576, "qwen-shaped": 324}
"""Mean number of image tokens. Qwen2.5-VL has one token for 28 x 28 px."""
QUESTIONS = ("how many objects are there ?", "what color is the ring ?")
LORA = Lora(rank=16, alpha=32)


@dataclass(frozen=True, kw_only=True)
class Case:
    """How long responses are, and how many rejected ones a pair has."""

    num_tokens: int
    num_rejected: int = 1
    by_image: bool = False
    """Whether the pairs of a step are about one image, and share its part of the row."""
    workload: Workload = LLAVA_SHAPED

    def __str__(self) -> str:
        named = "" if self.workload == LLAVA_SHAPED else f"{self.workload.name}, "
        trees = ", two questions an image" if self.by_image else ""
        return f"{named}{self.num_tokens} tokens, {self.num_rejected} rejected{trees}"

    @property
    def bound(self) -> float:
        """TRL's forward and backward operations over ours, in tokens of the language model.

        A backward pass costs one forward here, as only the adapter's weights have gradients. TRL computes prompt and
        response for each side of each of K pairs: forward, backward, and forward again for the reference.
        """
        image, question, response = NUM_IMAGE_TOKENS[self.workload.name], 20, self.num_tokens
        trl = 3 * 2 * self.num_rejected * (image + question + response)
        responses = 1 + self.num_rejected
        if self.by_image:
            return trl / (2 * (image / NUM_PAIRS + responses * (question + response)))
        return trl / (2 * (image + question + responses * response))


@dataclass(frozen=True, kw_only=True)
class Compared:
    """CPU seconds of a step of each side, the least of all rounds, and how far apart the two sides' numbers are."""

    own_s: float
    rival_s: float
    reference_s: float
    """CPU seconds of the reference log-probabilities of a batch. Our trainer computes them once for all epochs."""
    loss_off: float
    gradient_off: float
    """The norm of the difference, divided by the norm."""


def rows_of(case: Case, number: int = NUM_PAIRS) -> list[dict[str, Any]]:
    """Pairs of random tokens about pictures of noise."""
    random = np.random.default_rng(0)
    rows, picture = [], b""
    for index in range(number):
        if not (case.by_image and index % NUM_PAIRS):
            height, width = random.integers(*SIDES_PX[case.workload.name], 2).tolist()
            pixels = random.integers(0, 255, (height, width, 3), np.uint8)
            Image.fromarray(pixels).save(file := BytesIO(), "PNG")
            picture = file.getvalue()
        tokens = random.integers(5, len(VOCABULARY), (1 + case.num_rejected, case.num_tokens)).tolist()
        question = QUESTIONS[index % NUM_PAIRS if case.by_image else 0]
        row: dict[str, Any] = {"prompt_id": str(index), "question": question}
        row |= {"image_path": None, "image_bytes": picture, "chosen_token_ids": tokens[0]}
        row |= {"rejected": [{"token_ids": ids} for ids in tokens[1:]], "weight": 1.0}
        rows.append(row | {"ref_logps": [0.0] * (1 + case.num_rejected)})
    return rows


@dataclass
class Side:
    """A trainer, and what its steps are made of."""

    trainer: Any
    collator: Callable[[Any], Any]
    rows: Sequence[Mapping[str, Any]]

    def backward(self) -> float:
        """The loss of the batch, whose gradients are then in the weights."""
        self.trainer.model.zero_grad()
        return float(self.trainer.training_step(self.trainer.model, self.collator(self.rows)))

    def step(self) -> float:
        """CPU seconds of a step: data, forward, backward and optimiser."""
        began = time.process_time()
        self.backward()
        self.trainer.optimizer.step()
        return time.process_time() - began


def ours(case: Case) -> Side:
    import torch

    from seva_ray.dpo.batch import PreferenceCollator
    from seva_ray.dpo.logps import response_logps
    from seva_ray.stages.training.trainer import PreferenceTrainer

    directory, rows = case.workload.model.directory, rows_of(case)
    collator = PreferenceCollator(viewer=viewer_of(directory), by_image=case.by_image)
    with torch.no_grad():
        reference = response_logps(load_model(directory, "float32").eval(), collator(rows)).tolist()
    rows = [row | {"ref_logps": logps} for row, logps in zip(rows, reference, strict=True)]
    config = Train(lora=LORA, dtype="float32")
    return Side(trainer_of(PreferenceTrainer, directory, rows, config=config), collator, rows)


def stock(case: Case) -> Side:
    import trl

    directory = case.workload.model.directory
    rows = [row | {"rejected": [rejected]} for row in rows_of(case) for rejected in row["rejected"]]
    return Side(trainer_of(trl.DPOTrainer, directory, rows), StockCollator(viewer_of(directory)), rows)


def compared(case: Case, rounds: int) -> Compared:
    import torch

    from seva_ray.dpo.logps import response_logps

    torch.set_num_threads(1)
    sides = own, _ = ours(case), stock(case)
    losses = [side.backward() for side in sides]
    grads = [
        torch.cat([weight.grad.flatten() for weight in side.trainer.model.parameters() if weight.grad is not None])
        for side in sides
    ]
    taken = [[side.step() for side in sides] for _ in range(rounds)]
    own_s, rival_s = map(min, zip(*taken, strict=True))
    batch, began = own.collator(own.rows), time.process_time()
    with torch.no_grad():
        response_logps(own.trainer.model, batch)
    return Compared(
        own_s=own_s,
        rival_s=rival_s,
        reference_s=time.process_time() - began,
        loss_off=abs(losses[0] - losses[1]),
        gradient_off=float((grads[0] - grads[1]).norm() / grads[1].norm()),
    )


def peak_of(make: Callable[[Case], Side], case: Case) -> float:
    """Peak memory in MB of a process that makes two steps of one side."""
    side = make(case)
    for _ in range(2):
        side.step()
    return peak_mb()


def viewer_of(directory: str) -> Viewer:
    return Viewer(encoder=Encoder(directory), image_root=None, max_pixels=10**7)


@dataclass(frozen=True)
class StockCollator:
    """The batch as TRL's own collator lays it out, chosen rows first, but with the exact tokens."""

    viewer: Viewer

    def __call__(self, pairs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        import torch

        prompts = [self.viewer.row(pair) for pair in pairs] * 2
        responses = [pair["chosen_token_ids"] for pair in pairs]
        responses += [pair["rejected"][0]["token_ids"] for pair in pairs]
        both = list(zip(prompts, responses, strict=True))
        width = max(len(prompt.ids) + len(response) for prompt, response in both)

        def padded(rows: list[list[int]], value: int = 0) -> torch.Tensor:
            return torch.tensor([row + [value] * (width - len(row)) for row in rows])

        features = stacked([prompt.features for prompt in prompts], self.viewer.encoder.axes)
        return {
            "input_ids": padded([[*prompt.ids, *response] for prompt, response in both], self.viewer.encoder.pad_id),
            "attention_mask": padded([[1] * (len(prompt.ids) + len(response)) for prompt, response in both]),
            "completion_mask": padded([[0] * len(prompt.ids) + [1] * len(response) for prompt, response in both]),
            **{name: padded([prompt.tokens[name].tolist() for prompt in prompts]) for name in prompts[0].tokens},
            **{name: torch.from_numpy(values) for name, values in features.items()},
        }


def trainer_of(kind: Any, directory: str, rows: list[dict[str, Any]], **arguments: Any) -> Any:
    """A trainer with an adapter that is not zero, and equal for equal models."""
    import datasets
    import pyarrow as pa
    import torch
    import trl

    model = load_model(directory, "float32")
    trainer = kind(
        model=model,
        args=trl.DPOConfig(
            output_dir=tempfile.gettempdir(),  # nothing is written there
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=True,
            max_length=None,
            remove_unused_columns=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=datasets.Dataset(pa.Table.from_pylist([row | {"images": None} for row in rows])),
        processing_class=Encoder(directory).processor,
        peft_config=LORA.peft(model),
        **arguments,
    )
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in trainer.model.parameters():
            if weight.requires_grad:
                weight.normal_(0, 0.02, generator=random)
    trainer.current_gradient_accumulation_steps = 1
    trainer.create_optimizer()
    return trainer
