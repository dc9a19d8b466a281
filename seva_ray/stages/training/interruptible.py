"""Ray Train's trainer, which leaves Ctrl-C to the job."""

from typing import Any

from ray.train.torch import TorchTrainer


class Trainer(TorchTrainer):
    """Ray Train's trainer without its handler for Ctrl-C, so that Ctrl-C ends the job as it does everywhere else. Ray's
    handler prints nothing and stays for the rest of the process."""

    def _register_sigint_handler(self, controller: Any) -> None:
        """Do nothing."""
