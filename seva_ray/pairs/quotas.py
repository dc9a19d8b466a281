"""Quotas limit the number of pairs per source. A hash of prompt_id chooses the pairs.

In: the keys of each source's kept prompts, in any order, one part per shard. Out: for each source the greatest key that
is kept. So the choice depends neither on shards nor on order, and a smaller quota keeps a subset of a larger one.
Source: SeVa (arXiv 2404.10501), whose larger view is cut to 4,300 pairs of ocr_vqa and 6,500 of textvqa.
"""

import heapq
from collections.abc import Iterable, Mapping

from seva_ray.core.seeds import key_of


def quota_key(prompt_id: str) -> int:
    """The key of a prompt. The prompts with the lowest keys are kept."""
    return key_of(0, "quota", prompt_id)


def last_keys(quotas: Mapping[str, int], parts: Iterable[Mapping[str, Iterable[int]]]) -> dict[str, int]:
    """Source -> the greatest key that is kept, or -1 if none is. It holds no more keys than the quotas allow."""
    lowest: dict[str, list[int]] = {source: [] for source in quotas}  # heaps of negated keys, so the greatest is first
    for part in parts:
        for source in quotas.keys() & part.keys():
            heap = lowest[source]
            for key in part[source]:
                if len(heap) < quotas[source]:
                    heapq.heappush(heap, -key)
                else:
                    heapq.heappushpop(heap, -key)
    return {source: -min(heap, default=1) for source, heap in lowest.items()}
