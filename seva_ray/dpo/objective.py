"""What training minimises: the loss of a pair's answers, and the terms that a method adds to it.

To add a term, write it as a function in a file of its own, like `mdpo.py`; give it a weight in `Loss` (config.py) and a
line below; and name the method that uses it in methods.py.
"""

from torch import Tensor

from seva_ray.dpo.anchor import anchor
from seva_ray.dpo.config import Loss
from seva_ray.dpo.losses import ResponseLogps, losses_of
from seva_ray.dpo.mdpo import image_preference
from seva_ray.dpo.symmpo import margin_consistency, symmetric_preference


def objective(loss: Loss, answers: ResponseLogps, beta: float) -> Tensor:
    """The objective of each pair, (B,)."""
    total = losses_of(loss, answers, beta)
    if loss.anchor_weight:
        total = total + loss.anchor_weight * anchor(answers.logratios[:, 0], beta)
    if loss.image_weight:
        total = total + loss.image_weight * image_preference(answers, beta)
    if loss.symmetric_weight:
        total = total + loss.symmetric_weight * symmetric_preference(answers, beta)
        total = total + loss.margin_weight * margin_consistency(answers)
        if loss.anchor_weight:  # each image has its own response, and each of them its anchor
            assert answers.on_view is not None
            total = total + loss.anchor_weight * anchor(answers.on_view.logratios[:, 1], beta)
    return total
