"""Quotas limit the number of pairs per source. A hash of prompt_id chooses the pairs.

In: the keys of each source's kept prompts, in any order, one part per shard. Out: for each source the greatest key that
is kept. So the choice depends neither on shards nor on order, and a smaller quota keeps a subset of a larger one.
Source: SeVa (arXiv 2404.10501), whose larger view is cut to 4,300 pairs of ocr_vqa and 6,500 of textvqa.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack

import numpy as np

from seva_ray.core.seeds import key_of, keys_of
from seva_ray.core.sorting import sorter


def quota_key(prompt_id: str) -> int:
    """The key of a prompt. The prompts with the lowest keys are kept."""
    return key_of(0, "quota", prompt_id)


def keys_by_quota(ids: Sequence[str]) -> np.ndarray:
    """The same for several prompts, as the bytes of these integers: S16 (N,)."""
    return keys_of(0, "quota", ids=ids)


def last_keys(quotas: Mapping[str, int], parts: Iterable[Mapping[str, np.ndarray]]) -> dict[str, int]:
    """Source -> the greatest key that is kept, or -1 if none is. Keys lie in temporary files if there are many."""
    with ExitStack() as stack:
        sorters = {source: stack.enter_context(sorter(share=len(quotas))) for source in quotas}
        for part in parts:
            for source in quotas.keys() & part.keys():
                sorters[source].add(part[source], np.zeros(len(part[source]), np.int64))
        kept = {source: min(quota, sorters[source].total) for source, quota in quotas.items()}
        return {
            source: int.from_bytes(sorters[source].key_at(number - 1), "big") if number else -1
            for source, number in kept.items()
        }
