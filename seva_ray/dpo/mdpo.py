"""mDPO's preference between images: the chosen response must be likelier on the clean image than on another one."""

from torch import Tensor
from torch.nn.functional import logsigmoid

from seva_ray.dpo.losses import ResponseLogps


def image_preference(answers: ResponseLogps, beta: float) -> Tensor:
    """-log sigmoid(beta * (h(c|m) - h(c|m'))) of each pair, (B,).

    h(c|m) is the log-ratio of the chosen response on the clean image m, and h(c|m') the one on the view m'.

    Source: mDPO, Wang et al. 2024 (arXiv 2406.11839), the conditional preference; in the authors' code it has the same
    beta and weight as the preference between responses (luka-group/mDPO@ec316ce, mdpo_trainer.py).
    """
    return -logsigmoid(beta * image_margins(answers))


def image_margins(answers: ResponseLogps) -> Tensor:
    """(B,): the log-ratio of the chosen response on the clean image minus the one on the view."""
    assert answers.on_view is not None, "the pairs have no log-probabilities on a view"
    return answers.logratios[:, 0] - answers.on_view.logratios[:, 0]
