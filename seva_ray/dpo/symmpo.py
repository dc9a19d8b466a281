"""SymMPO's symmetric preference: on each of two images, its own response must beat the response to the other image.

In the paper the second image m' is a similar one, and a model writes the response y' to it. Here m' is the augmented
view, and y' is what the model answered about it, which is SeVa's rejected response.
"""

from torch import Tensor
from torch.nn.functional import logsigmoid

from seva_ray.dpo.losses import ResponseLogps

Gaps = tuple[Tensor, Tensor]


def symmetric_preference(answers: ResponseLogps, beta: float) -> Tensor:
    """-log sigmoid(beta * D) - log sigmoid(beta * D') of each pair, (B,), with D and D' of `gaps`.

    Source: SymMPO, Liu et al. 2025 (arXiv 2506.11712), the pair-wise symmetric preference; the authors' code weights it
    by 0.5 (Liuwq-bit/SymMPO@8b76a35, muffin/train/trainers.py).
    """
    gap, gap_on_view = gaps(answers)
    return -logsigmoid(beta * gap) - logsigmoid(beta * gap_on_view)


def margin_consistency(answers: ResponseLogps) -> Tensor:
    """(D - D')^2 of each pair, (B,), in nats squared: both images must tell the two responses apart equally well.

    Source: SymMPO, the preference margin consistency; the authors' code weights it by 0.0001, and not by beta.
    """
    gap, gap_on_view = gaps(answers)
    return (gap - gap_on_view) ** 2


def gaps(answers: ResponseLogps) -> Gaps:
    """Two tensors (B,): D = h(c|m) - h(y'|m) on the clean image and D' = h(y'|m') - h(c|m') on the view, with h the
    log-ratio, c the chosen and y' the first rejected response."""
    assert answers.on_view is not None, "the pairs have no log-probabilities on a view"
    clean, view = answers.logratios, answers.on_view.logratios
    return clean[:, 0] - clean[:, 1], view[:, 1] - view[:, 0]
