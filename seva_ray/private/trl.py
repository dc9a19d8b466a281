"""TRL's trainer with public methods in the place of its hooks. Only training workers import this file, because it loads
TRL. If TRL renamed a hook, it would tokenise, shuffle or compute its own loss, and nothing would say so."""

from collections.abc import Sequence
from typing import Any

import datasets
import trl
from torch import Tensor
from torch.utils.data import SequentialSampler


def chunk_size_of_logps() -> int:
    """The number of tokens whose logits TRL's chunked log-probabilities hold at a time. No argument says it."""
    from trl.trainer import utils

    return int(utils._CHUNKED_LOGPROB_CHUNK_SIZE)


class HookedTrainer(trl.DPOTrainer):
    """A DPOTrainer that takes the data set's rows in their order to the collator, and the loss from `batch_loss`.

    TRL has no arguments for its loss function, its order of rows, or for rows that are not texts. It refuses
    a data set that is not of the library datasets, which holds all rows, so at first it is given one row.
    """

    def __init__(self, *, train_dataset: Any, **arguments: Any):
        super().__init__(train_dataset=datasets.Dataset.from_dict({"row": [0]}), **arguments)
        self.train_dataset = train_dataset

    exact_inputs: Sequence[str] = ()
    """Names of inputs to keep in float32. Under DeepSpeed, transformers rounds floats to the model's dtype."""

    def batch_loss(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        """The loss of a batch, for a subclass to define."""
        raise NotImplementedError

    def log_value(self, name: str, value: float) -> None:
        """Add a number to the mean that the training log gets next. TRL's public `log` writes a line at once."""
        self._metrics["train"][name].append(value)

    def _prepare_dataset(self, dataset: Any, *arguments: Any) -> Any:
        """Change nothing, because the collator tokenises."""
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *arguments: Any) -> Any:
        """Change nothing, because the reference stage has computed these numbers already."""
        return dataset

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        """Keep the order of the rows."""
        return SequentialSampler(self.train_dataset if train_dataset is None else train_dataset)

    def _prepare_inputs(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Move the inputs to the device, and keep `exact_inputs` as they are."""
        exact = {name: inputs[name].to(self.args.device) for name in self.exact_inputs}
        return super()._prepare_inputs(inputs) | exact

    def _compute_loss(self, model: Any, inputs: dict[str, Tensor], return_outputs: bool) -> Tensor:
        """Compute our loss in the place of TRL's."""
        return self.batch_loss(model, inputs)
