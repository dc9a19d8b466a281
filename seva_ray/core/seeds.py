"""Randomness is an argument: there is one generator per (seed, key...), whatever the worker, block, order or restart.

NumPy's PCG64 and its normal sampler give the same stream on every machine. torch's CPU sampler does not promise that.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np


def key_of(seed: int, *keys: str | int) -> int:
    """A 128-bit integer that depends on the seed, on every key, and on the order and borders of the keys."""
    text = "\x1f".join([str(seed), *(str(key) for key in keys)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")


def keys_of(seed: int, *keys: str | int, ids: Sequence[str]) -> np.ndarray:
    """For each id the 16 bytes of `key_of(seed, *keys, id)`, as S16 (N,). They sort as the integers do."""
    start = hashlib.sha256("".join(f"{key}\x1f" for key in (seed, *keys)).encode())

    def key(name: str) -> bytes:
        digest = start.copy()
        digest.update(name.encode())
        return digest.digest()[:16]

    return np.fromiter(map(key, ids), "S16", len(ids))


def generator(seed: int, *keys: str | int) -> np.random.Generator:
    """The generator of (seed, keys...), for example (seed, prompt_id, view)."""
    return np.random.Generator(np.random.PCG64(key_of(seed, *keys)))


def generator_at(state: Any) -> np.random.Generator:
    """A generator that goes on where another one was. `state`: the `bit_generator.state` of that one."""
    source = np.random.PCG64()
    source.state = state
    return np.random.Generator(source)
