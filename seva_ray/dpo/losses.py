"""Preference losses: pure functions of log-probabilities, each with its formula and source.

Notation: log-ratio = log pi(y|x) - log pi_ref(y|x), summed over the response's tokens; reward r = beta * log-ratio;
c is the chosen response, 1..K are the rejected ones; B is the number of pairs. To add a loss, write a function like
these, and add it to `LOSSES` and its name to `LossName` in config.py.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from seva_ray.dpo.config import Loss, LossName


@dataclass(frozen=True, kw_only=True)
class ResponseLogps:
    """Log-probabilities of a batch's responses, all tensors of shape (B, 1 + K). Column 0 is the chosen response."""

    logps: Tensor
    """Log-probabilities under the policy, with gradient."""
    ref_logps: Tensor
    """Log-probabilities under the reference."""
    num_tokens: Tensor
    """Length of each response in tokens; 0 if a pair has fewer than K rejected responses."""
    on_view: "ResponseLogps | None" = None
    """The same on another view of the image, for the chosen response and the first rejected one (B, 2), or for the
    chosen one alone (B, 1). None if the objective has no term that needs it."""

    @property
    def logratios(self) -> Tensor:
        return self.logps - self.ref_logps

    @property
    def there(self) -> Tensor:
        """(B, K): True for rejected responses that exist."""
        return self.num_tokens[:, 1:] > 0


def losses_of(loss: Loss, answers: ResponseLogps, beta: float) -> Tensor:
    """The loss of each pair, (B,)."""
    return LOSSES[loss.name](loss, answers, beta)


def mean_over_rejected(values: Tensor, there: Tensor) -> Tensor:
    """(B, K) -> (B,): the mean over the rejected responses that exist."""
    return (values * there).sum(1) / there.sum(1)


def margins(answers: ResponseLogps) -> Tensor:
    """(B, K): the log-ratio of the chosen response minus that of each rejected response."""
    logratios = answers.logratios
    return logratios[:, :1] - logratios[:, 1:]


def sigmoid(loss: Loss, answers: ResponseLogps, beta: float) -> Tensor:
    """-log sigmoid(r_c - r_k), mean over k. Source: DPO, Rafailov et al. 2023 (arXiv 2305.18290), eq. 7."""
    return mean_over_rejected(-logsigmoid(beta * margins(answers)), answers.there)


def softmax(loss: Loss, answers: ResponseLogps, beta: float) -> Tensor:
    """-log(e^{r_c} / (e^{r_c} + sum_k e^{r_k})); with K = 1 it is `sigmoid`.

    Source: SeVa (arXiv 2404.10501) section 3.4, preference optimisation as InfoNCE with K negatives.
    """
    gaps = (-beta * margins(answers)).masked_fill(~answers.there, -math.inf)
    return torch.nn.functional.softplus(torch.logsumexp(gaps, 1))


def ipo(loss: Loss, answers: ResponseLogps, beta: float) -> Tensor:
    """(h_k - 1 / (2 beta))^2 with h_k the margin of log-ratios per token, mean over k.

    Source: Azar et al. 2023 (arXiv 2310.12036), eq. 17; it is per token as its authors advise, and as in TRL.
    """
    return mean_over_rejected((margins(per_token(answers)) - 1 / (2 * beta)) ** 2, answers.there)


def hinge(loss: Loss, answers: ResponseLogps, beta: float) -> Tensor:
    """max(0, 1 - (r_c - r_k)), mean over k. Source: SLiC, Zhao et al. 2023 (arXiv 2305.10425), with DPO's rewards."""
    return mean_over_rejected(torch.relu(1 - beta * margins(answers)), answers.there)


def robust(loss: Loss, answers: ResponseLogps, beta: float) -> Tensor:
    """(-(1 - e) log sigmoid(m) + e log sigmoid(-m)) / (1 - 2 e) with m = r_c - r_k and e = label_smoothing.

    It is unbiased if a share e of the pairs has exchanged sides. Source: Chowdhury et al. 2024 (arXiv 2403.00409).
    """
    scaled, e = beta * margins(answers), loss.label_smoothing
    return mean_over_rejected((-(1 - e) * logsigmoid(scaled) + e * logsigmoid(-scaled)) / (1 - 2 * e), answers.there)


def rpo(loss: Loss, answers: ResponseLogps, beta: float) -> Tensor:
    """sigmoid + sft_weight * (-log pi(y_c|x) / |y_c|), which keeps the chosen response likely.

    Source: iterative RPO, Pang et al. 2024 (arXiv 2404.19733), eq. 1.
    """
    return sigmoid(loss, answers, beta) - loss.sft_weight * answers.logps[:, 0] / answers.num_tokens[:, 0]


def sft(loss: Loss, answers: ResponseLogps, beta: float) -> Tensor:
    """-log pi(y_c|x) / |y_c|: continual fine-tuning on the chosen responses alone, which SeVa is compared with.

    Source: SeVa (arXiv 2404.10501), table 3. Each response counts the same. In TRL's SFTTrainer each token does.
    """
    return -answers.logps[:, 0] / answers.num_tokens[:, 0]


def length_normalised(loss: Loss, answers: ResponseLogps, beta: float) -> Tensor:
    """-log sigmoid(beta * (log-ratio_c / |y_c| - log-ratio_k / |y_k|)), mean over k.

    Source: Tulu 3, Lambert et al. 2024 (arXiv 2411.15124), eq. 6.
    """
    return sigmoid(loss, per_token(answers), beta)


def per_token(answers: ResponseLogps) -> ResponseLogps:
    lengths = answers.num_tokens.clamp(min=1)
    return ResponseLogps(
        logps=answers.logps / lengths, ref_logps=answers.ref_logps / lengths, num_tokens=answers.num_tokens
    )


LOSSES: dict[LossName, Callable[[Loss, ResponseLogps, float], Tensor]] = {
    "sigmoid": sigmoid,
    "softmax": softmax,
    "ipo": ipo,
    "hinge": hinge,
    "robust": robust,
    "rpo": rpo,
    "sft": sft,
    "length_normalised": length_normalised,
}
