"""One side of a comparison of DPO steps: our trainer, or TRL's with its own loss and reference at every step."""

import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
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

NUM_STEPS = 5
"""The first two are left out: they hold the start of everything."""
NUM_PAIRS = 2
"""Per step."""
SIDES_PX = {"llava-shaped": (336, 337), "qwen-shaped": (448, 561)}
"""Smallest and largest side of the pictures, the latter exclusive."""
NUM_IMAGE_TOKENS = {"llava-shaped": 576, "qwen-shaped": 324}
"""In the mean. Qwen2.5-VL has one for 28 x 28 px."""
LORA = Lora(rank=16, alpha=32)


@dataclass(frozen=True, kw_only=True)
class Case:
    """How long responses are, and how many rejected ones a pair has."""

    num_tokens: int
    num_rejected: int
    workload: Workload = LLAVA_SHAPED

    def __str__(self) -> str:
        named = "" if self.workload == LLAVA_SHAPED else f"{self.workload.name}, "
        return f"{named}{self.num_tokens} tokens, {self.num_rejected} rejected"

    @property
    def bound(self) -> float:
        """TRL's forward and backward operations over ours, in tokens of the language model.

        A backward pass costs one forward here, as only the adapter's weights have gradients. TRL computes prompt and
        response for each side of each of K pairs: forward, backward, and forward again for the reference.
        """
        prompt, response = NUM_IMAGE_TOKENS[self.workload.name] + 20, self.num_tokens
        trl = 3 * 2 * self.num_rejected * (prompt + response)
        return trl / (2 * (prompt + (1 + self.num_rejected) * response))


@dataclass(frozen=True, kw_only=True)
class Measured:
    step_s: float
    """Median."""
    peak_mb: float
    reference_s: float = 0.0
    """Of the same batch's reference log-probabilities."""


def rows_of(case: Case, number: int = NUM_PAIRS * NUM_STEPS) -> list[dict[str, Any]]:
    """Pairs of random tokens about pictures of noise."""
    random = np.random.default_rng(0)
    rows = []
    for index in range(number):
        file = BytesIO()
        height, width = random.integers(*SIDES_PX[case.workload.name], 2).tolist()
        Image.fromarray(random.integers(0, 255, (height, width, 3), np.uint8)).save(file, "PNG")
        tokens = random.integers(5, len(VOCABULARY), (1 + case.num_rejected, case.num_tokens)).tolist()
        row: dict[str, Any] = {"prompt_id": str(index), "question": "how many objects are there ?"}
        row |= {"image_path": None, "image_bytes": file.getvalue(), "chosen_token_ids": tokens[0]}
        row |= {"rejected": [{"token_ids": ids} for ids in tokens[1:]], "weight": 1.0}
        rows.append(row | {"ref_logps": [0.0] * (1 + case.num_rejected)})
    return rows


def ours(case: Case) -> Measured:
    import torch

    from seva_ray.dpo.batch import PreferenceCollator
    from seva_ray.dpo.logps import response_logps
    from seva_ray.stages.training.trainer import PreferenceTrainer

    directory = case.workload.model.directory
    collator, rows = PreferenceCollator(viewer=viewer_of(directory)), rows_of(case)
    config = Train(lora=LORA, dtype="float32")
    step_s, trainer = timed(PreferenceTrainer, directory, rows, collator, batch_size=NUM_PAIRS, config=config)
    peak = peak_mb()
    batch, began = collator(rows[:NUM_PAIRS]), time.perf_counter()
    with torch.no_grad():
        response_logps(trainer.model, batch)
    return Measured(step_s=step_s, peak_mb=peak, reference_s=time.perf_counter() - began)


def stock(case: Case) -> Measured:
    import trl

    rows = [
        row | {"rejected": [rejected], "prompt_id": f"{row['prompt_id']}-{number}"}
        for row in rows_of(case)
        for number, rejected in enumerate(row["rejected"])
    ]
    directory = case.workload.model.directory
    collator, batch_size = StockCollator(viewer_of(directory)), NUM_PAIRS * case.num_rejected
    step_s, _ = timed(trl.DPOTrainer, directory, rows, collator, batch_size=batch_size)
    return Measured(step_s=step_s, peak_mb=peak_mb())


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

        features = stacked([prompt.features for prompt in prompts])
        return {
            "input_ids": padded([[*prompt.ids, *response] for prompt, response in both], self.viewer.encoder.pad_id),
            "attention_mask": padded([[1] * (len(prompt.ids) + len(response)) for prompt, response in both]),
            "completion_mask": padded([[0] * len(prompt.ids) + [1] * len(response) for prompt, response in both]),
            **{name: padded([prompt.tokens[name].tolist() for prompt in prompts]) for name in prompts[0].tokens},
            **{name: torch.from_numpy(values) for name, values in features.items()},
        }


def timed(
    kind: Any, directory: str, rows: list[dict[str, Any]], collator: Any, batch_size: int, **arguments: Any
) -> tuple[float, Any]:
    """Median time of a step, s; and the trainer."""
    import datasets
    import pyarrow as pa
    import transformers
    import trl

    class Clock(transformers.TrainerCallback):
        ends: list[float] = []  # noqa: RUF012

        def on_step_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
            self.ends.append(time.perf_counter())

    clock = Clock()
    with tempfile.TemporaryDirectory() as scratch:
        model = load_model(directory, "float32")
        trainer = kind(
            model=model,
            args=trl.DPOConfig(
                output_dir=scratch,
                per_device_train_batch_size=batch_size,
                max_steps=NUM_STEPS,
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
            data_collator=collator,
            peft_config=LORA.peft(model),
            callbacks=[clock],
            **arguments,
        )
        trainer.train()
    steps = [after - before for before, after in zip(clock.ends[1:], clock.ends[2:], strict=False)]
    return statistics.median(steps), trainer
