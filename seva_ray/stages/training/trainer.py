"""TRL's DPOTrainer with our order of pairs, forward, losses and figures. Imported by training workers only."""

from collections.abc import Sequence
from typing import Any

import torch
import trl
from torch import Tensor
from torch.utils.data import SequentialSampler

from seva_ray.dpo.batch import response_logps
from seva_ray.dpo.config import Train
from seva_ray.dpo.losses import ResponseLogps, losses_of, margins


class PreferenceTrainer(trl.DPOTrainer):
    """Batches come from PreferenceCollator, with `ref_logps` and `weight`, in the data set's order."""

    def __init__(self, *, config: Train, views: Sequence[str] = (), **arguments: Any):
        super().__init__(**arguments)
        self.config, self.views = config, views

    def _prepare_dataset(self, dataset: Any, *arguments: Any) -> Any:
        """As it is: PreferenceCollator tokenises."""
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *arguments: Any) -> Any:
        """As it is: the reference stage has been there."""
        return dataset

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset if train_dataset is None else train_dataset)

    def _prepare_inputs(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """As transformers does it, which under DeepSpeed rounds floats to the model's dtype: these stay float32."""
        exact = {name: inputs[name].to(self.args.device) for name in ("ref_logps", "weight")}
        return super()._prepare_inputs(inputs) | exact

    def _compute_loss(self, model: Any, inputs: dict[str, Tensor], return_outputs: bool) -> Tensor:
        answers = ResponseLogps(
            logps=response_logps(model, inputs), ref_logps=inputs["ref_logps"], num_tokens=inputs["num_tokens"]
        )
        losses = losses_of(self.config.loss, answers, self.config.beta)
        self.note(answers, inputs["weight"] > 0, inputs.get("view"))
        return (losses * inputs["weight"]).mean()

    @torch.no_grad()
    def note(self, answers: ResponseLogps, counted: Tensor, view: Tensor | None) -> None:
        """Add the batch's figures, over all workers, to TRL's log; margins of several views also one by one."""
        found = figures(answers, self.config, counted)
        if view is not None:
            gaps, there = self.config.beta * margins(answers), counted[:, None]
            found |= {f"rewards/margins/{name}": gaps[there & (view == n)] for n, name in enumerate(self.views)}
        totals = {name: (values.sum(), values.numel()) for name, values in found.items()}
        flat = torch.tensor([*totals.values()], device=counted.device)
        sums = self.accelerator.gather(flat[None]).sum(0).tolist()
        for name, (total, count) in zip(totals, sums, strict=True):
            if count:
                self._metrics["train"][name].append(total / count)


def figures(answers: ResponseLogps, config: Train, counted: Tensor) -> dict[str, Tensor]:
    """What to watch, one value per pair or per rejected response. `counted`: (B,), pairs that are no filling.

    `drift/chosen` below 0 is likelihood displacement: the policy finds even the chosen response less likely than the
    reference did.
    """
    logratios, there = answers.logratios, answers.there & counted[:, None]
    chosen, rejected, gaps = logratios[:, 0], logratios[:, 1:], margins(answers)
    return {
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
