"""The anchor: a term that keeps a response's reward above 0. Without it, DPO may lower the chosen response too."""

from torch import Tensor
from torch.nn.functional import logsigmoid


def anchor(logratios: Tensor, beta: float) -> Tensor:
    """-log sigmoid(beta * h) of each pair, (B,), with h the log-ratio of one response to each pair, (B,).

    Source: mDPO, Wang et al. 2024 (arXiv 2406.11839), the anchored preference, with the anchor at a reward of 0 as in
    the authors' code (luka-group/mDPO@ec316ce, mdpo_trainer.py).
    """
    return -logsigmoid(beta * logratios)
