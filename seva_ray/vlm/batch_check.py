"""Whether a model of transformers answers each row of a batch as it answers the row alone.

transformers means its models to do so, but not all of them do. In its release 5.19, the vision tower of MiniMax-M3-VL
lets the images of a batch see each other, and the positions of HunYuan-VL count the images of all rows. Neither says
so: only a trial shows it.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from seva_ray.vlm.rows import Row

NUM_TOKENS = 3
"""Number of tokens that are generated in the trial: later ones come from the cache of the first ones."""
LIKELIEST = 50
"""Number of the likeliest tokens whose log-probabilities are compared at each place."""
LEAST_NATS = 0.0001
"""Smallest difference that is no rounding in float32, in nats. HunYuan-VL's is 0.0015, and rounding some 0.00001."""
LEAST_NATS_IN_HALF = 0.02
"""The same in half precision. A smaller fault cannot be told from rounding there."""


class Generated(NamedTuple):
    """Greedy answers of NUM_TOKENS tokens to a batch of rows."""

    token_ids: Tensor
    """(B, T)."""
    logits: Tensor
    """Those of which each token was chosen, (B, T, V)."""


def off_in_batch(generate: Callable[[Sequence[Row]], Generated], rows: Sequence[Row], exact: bool) -> float:
    """How far the model answers some row otherwise in a batch of all `rows` than alone, in nats; 0 if it is rounding.

    `exact`: the model computes in float32. Batches of another size may round otherwise: as a row in a batch of copies.
    """
    alone, together = [generate([row]) for row in rows], generate(rows)
    off = max(distance(one, together, number) for number, one in enumerate(alone))
    least = LEAST_NATS if exact else LEAST_NATS_IN_HALF
    if off < least:
        return 0.0
    rounding = distance(alone[0], generate([rows[0]] * len(rows)), 0)
    return off if off > 3 * rounding else 0.0


def distance(alone: Generated, together: Generated, number: int) -> float:
    """Root mean square of the differences between the log-probabilities of the likeliest tokens, in nats, at the place
    where it is largest. `number`: the row's place in `together`. After another token, answers cannot be compared."""
    same = (alone.token_ids[0] == together.token_ids[number]).long().cumprod(0)
    places = 1 + int(same[:-1].sum())
    one, other = (logits[:places].float().log_softmax(-1) for logits in (alone.logits[0], together.logits[number]))
    likeliest = one.topk(min(LIKELIEST, one.shape[-1])).indices
    return float((one - other).gather(-1, likeliest).square().mean(-1).sqrt().max())
