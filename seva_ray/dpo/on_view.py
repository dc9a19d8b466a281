"""The batch of an objective with image terms: pairs as always, and their responses once more on a view of the image.

The second batch is made like the first one, from the row of the same prompt in the view: the same pixels, noise
included, as when the view was answered. Its tensors have names of their own in the batch, so that one forward pass
after the other reads it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from PIL import Image
from torch import Tensor

from seva_ray.augmentations import CLEAN
from seva_ray.dpo.batch import PreferenceCollator
from seva_ray.dpo.config import Loss
from seva_ray.vlm.rows import Row
from seva_ray.vlm.views import Viewer

ON_VIEW = "on_view."
"""Prefix of the names of the second batch's tensors."""

SCORED = 2
"""Number of responses whose reference log-probabilities on the view are stored: the chosen and the first rejected."""


SHOWN = "shown_view"
"""The field of a pair that names the view in which it is shown."""


@dataclass(frozen=True, kw_only=True)
class ImageViewer(Viewer):
    """A Viewer that shows each pair in the view that its field SHOWN names."""

    def row(self, prompt: Mapping[str, Any], view: str = CLEAN, image: Image.Image | None = None) -> Row:
        return super().row(prompt, prompt[SHOWN], image)


@dataclass(frozen=True, kw_only=True)
class OnViewCollator:
    """Rows of PAIR_SCHEMA with `view_ref_logps` -> the tensors of PreferenceCollator for the first `num_responses`
    responses of each pair, with the prefix ON_VIEW."""

    viewer: Viewer
    image_view: str = ""
    """The view; empty: that of each pair's first rejected response."""
    packed: bool = True
    num_responses: int = 1

    def __call__(self, pairs: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        viewer = ImageViewer(**{item.name: getattr(self.viewer, item.name) for item in fields(Viewer)})
        collate = PreferenceCollator(viewer=viewer, packed=self.packed)
        return {ON_VIEW + name: values for name, values in collate([self.cut(pair) for pair in pairs]).items()}

    def cut(self, pair: Mapping[str, Any]) -> dict[str, Any]:
        """The pair as it is scored on the view."""
        cut = {name: value for name, value in pair.items() if name not in ("weight", "ref_logps", "view_ref_logps")}
        if "view_ref_logps" in pair:
            cut["ref_logps"] = pair["view_ref_logps"][: self.num_responses]
        cut["rejected"] = pair["rejected"][: self.num_responses - 1]
        return cut | {SHOWN: self.image_view or pair["rejected"][0]["view"]}


Collate = Callable[[Sequence[Mapping[str, Any]]], dict[str, Tensor]]


def with_view(collate: PreferenceCollator, loss: Loss) -> Collate:
    """What makes the batches of training with this loss: those of `collate`, and the second part if the loss reads a
    view."""
    if not loss.reads_view:
        return collate
    second = OnViewCollator(
        viewer=collate.viewer,
        image_view=loss.image_view,
        packed=collate.packed,
        num_responses=SCORED if loss.symmetric_weight else 1,
    )
    return lambda pairs: collate(pairs) | second(pairs)


def part_on_view(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The second batch, under the names of the first one; empty if there is none."""
    return {name.removeprefix(ON_VIEW): values for name, values in batch.items() if name.startswith(ON_VIEW)}


def part_on_clean(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The batch on the clean image, without the one on the view."""
    return {name: values for name, values in batch.items() if not name.startswith(ON_VIEW)}
