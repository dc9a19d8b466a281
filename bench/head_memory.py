"""What the output head and the log-probabilities of a step's responses take of memory, forward and backward.

Two pairs of responses of 150 tokens are 602 states of hidden size 512; the weights of the head are there before.
"""

import torch
from torch.nn.functional import cross_entropy

from bench.fresh import peak_mb
from seva_ray.dpo.token_logps import TokenLogps, chunk_of

NUM_TOKENS, HIDDEN = 602, 512
VOCABULARIES = (32_064, 152_064)
"""Vocabulary sizes of LLaVA-1.5 and of Qwen2.5-VL."""
WAYS = ("ours", "all logits", "trl")


def growth_mb(way: str, vocabulary: int) -> float:
    """By how much the peak memory of this process grows, which must be a fresh one, in MB."""
    if way == "trl":
        from trl.kernels import ChunkedLogProbFunction

        from seva_ray.private.trl import chunk_size_of_logps
    torch.manual_seed(0)
    head = torch.nn.Linear(HIDDEN, vocabulary, bias=False).requires_grad_(False)
    targets = torch.randint(vocabulary, (NUM_TOKENS,))

    def step(number: int) -> None:
        states = torch.randn(number, HIDDEN, requires_grad=True)
        wanted = targets[:number]
        if way == "ours":
            chunk = chunk_of(vocabulary, "cpu")
            TokenLogps.apply(states, head.weight, wanted, chunk).sum().backward()
        elif way == "all logits":
            cross_entropy(head(states).float(), wanted, reduction="sum").backward()
        else:
            size = chunk_size_of_logps()
            given = (states, head.weight, None, wanted, 1.0, size, None, 1.0, ("log_probs",))
            ChunkedLogProbFunction.apply(*given)[0].sum().backward()

    step(2)  # the libraries keep this memory afterwards
    before = peak_mb()
    step(NUM_TOKENS)
    return peak_mb() - before
