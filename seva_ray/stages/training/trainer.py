"""TRL's DPOTrainer with our own order of pairs, forward pass, losses and figures. Only training workers import this."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from seva_ray.dpo.config import Train
from seva_ray.dpo.logps import response_logps
from seva_ray.dpo.losses import ResponseLogps, margins
from seva_ray.dpo.mdpo import image_margins
from seva_ray.dpo.objective import objective
from seva_ray.dpo.on_view import ON_VIEW, part_on_clean, part_on_view
from seva_ray.private.trl import HookedTrainer


class PreferenceTrainer(HookedTrainer):
    """A trainer whose batches come from PreferenceCollator, with `ref_logps` and `weight`, in the data set's order."""

    exact_inputs: Sequence[str] = ("ref_logps", "weight")
    computed_at = 0.0
    """When the loss of a batch was last computed, on the monotonic clock, in s."""

    def __init__(self, *, config: Train, views: Sequence[str] = (), **arguments: Any):
        super().__init__(**arguments)
        self.config, self.views = config, views
        if config.loss.reads_view:
            self.exact_inputs = ("ref_logps", "weight", f"{ON_VIEW}ref_logps")

    def batch_loss(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        answers = scored(model, part_on_clean(inputs))
        if on_view := part_on_view(inputs):
            answers = replace(answers, on_view=scored(model, on_view))
        losses = objective(self.config.loss, answers, self.config.beta)
        self.note(answers, inputs["weight"] > 0, inputs.get("view"))
        self.computed_at = time.monotonic()
        return (losses * inputs["weight"]).mean()

    @torch.no_grad()
    def note(self, answers: ResponseLogps, counted: Tensor, view: Tensor | None) -> None:
        """Add the batch's figures, averaged over all workers, to TRL's log. If there are several views, add each view's
        margin too."""
        found = figures(answers, self.config, counted)
        if view is not None:
            gaps, there = self.config.beta * margins(answers), counted[:, None]
            found |= {f"rewards/margins/{name}": gaps[there & (view == n)] for n, name in enumerate(self.views)}
        totals = {name: (values.sum(), values.numel()) for name, values in found.items()}
        flat = torch.tensor([*totals.values()], device=counted.device)
        sums = self.accelerator.gather(flat[None]).sum(0).tolist()
        for name, (total, count) in zip(totals, sums, strict=True):
            if count:
                self.log_value(name, total / count)


def scored(model: Any, inputs: dict[str, Tensor]) -> ResponseLogps:
    """What the policy and the reference say of a batch's responses."""
    logps = response_logps(model, inputs)
    return ResponseLogps(logps=logps, ref_logps=inputs["ref_logps"], num_tokens=inputs["num_tokens"])


def figures(answers: ResponseLogps, config: Train, counted: Tensor) -> dict[str, Tensor]:
    """The figures to log, with one value per pair or per rejected response. `counted`: (B,), False for padding pairs.

    A `drift/chosen` below 0 means likelihood displacement: even the chosen response is less likely under the policy
    than under the reference.
    """
    logratios, there = answers.logratios, answers.there & counted[:, None]
    chosen, rejected, gaps = logratios[:, 0], logratios[:, 1:], margins(answers)
    found = {
        "rewards/chosen": config.beta * chosen[counted],
        "rewards/rejected": config.beta * rejected[there],
        "rewards/margins": config.beta * gaps[there],
        "rewards/accuracies": (gaps[there] > 0).float(),
        "logps/chosen": answers.logps[:, 0][counted],
        "logps/rejected": answers.logps[:, 1:][there],
        "drift/chosen": chosen[counted],
        "drift/rejected": rejected[there],
        "tokens/chosen": answers.num_tokens[:, 0][counted].float(),
        "tokens/rejected": answers.num_tokens[:, 1:][there].float(),
    }
    if answers.on_view is not None:
        of_images = config.beta * image_margins(answers)[counted]
        found |= {"rewards/image_margins": of_images, "rewards/image_accuracies": (of_images > 0).float()}
    return found
