"""One policy to be made, and the artifacts of its own: the policy, and the reference log-probabilities of its pairs."""

from dataclasses import dataclass

from seva_ray.core.artifacts import Artifact, Store
from seva_ray.dpo.config import Train
from seva_ray.runtime import metrics
from seva_ray.runtime.renewal import to_be_made
from seva_ray.stages.training.reference import Scoring, open_logps, scoring
from seva_ray.vlm.models import Model


@dataclass(frozen=True, kw_only=True)
class Training:
    """One policy to be made by aligning `model` on pairs that were made from its responses."""

    config: Train
    name: str
    model: Model
    pairs: Artifact
    reference: Model | None = None
    """The reference of DPO; None if it is `model`, where training starts."""

    def open_logps(self, store: Store, on_view: bool = False) -> Artifact:
        """The reference log-probabilities of the pairs, on the clean image or on the view of image terms."""
        named = self.reference is not None
        return open_logps(self.config, store, self.reference or self.model, self.pairs, named, on_view)

    def scoring(self, store: Store, on_view: bool = False) -> Scoring:
        """What is left to do of `open_logps`."""
        logps = self.open_logps(store, on_view)
        logps = metrics.reused(logps) if logps.complete else to_be_made(logps)
        return scoring(self.config, store, self.reference or self.model, self.pairs, logps, on_view)

    def open(self, store: Store) -> Artifact:
        recipe = {"train": self.config, "model": self.model.fingerprint}
        made_from = {self.model.name: self.model.contents}
        if self.reference:
            recipe["reference"] = self.reference.fingerprint
            made_from[self.reference.name] = self.reference.contents
        return store.open(
            f"policies/{self.name}",
            config=recipe,
            inputs=[self.pairs],
            made_from=made_from,
        )
