"""Quotas: at most so many pairs of a source, chosen by a hash of prompt_id.

In: the keys of each source's kept prompts, in any order and in as many parts as there are shards. Out: per source the
greatest key that stays. So the choice depends on neither shards nor order, and a smaller quota's is part of a larger's.
Source: SeVa (arXiv 2404.10501), whose larger view is cut to 4,300 pairs of ocr_vqa and 6,500 of textvqa.
"""

import heapq
from collections.abc import Iterable, Mapping

from seva_ray.core.seeds import key_of


def quota_key(prompt_id: str) -> int:
    """A prompt's place in the queue; the lowest stay."""
    return key_of(0, "quota", prompt_id)


def last_keys(quotas: Mapping[str, int], parts: Iterable[Mapping[str, Iterable[int]]]) -> dict[str, int]:
    """Source -> the greatest key that stays, -1 where none does. Holds no more keys than the quotas allow."""
    lowest: dict[str, list[int]] = {source: [] for source in quotas}  # heaps of negated keys: the greatest comes first
    for part in parts:
        for source in quotas.keys() & part.keys():
            heap = lowest[source]
            for key in part[source]:
                if len(heap) < quotas[source]:
                    heapq.heappush(heap, -key)
                else:
                    heapq.heappushpop(heap, -key)
    return {source: -min(heap, default=1) for source, heap in lowest.items()}
