"""The order of training: every chosen pair `num_repeats` times, shuffled by a hash of its prompt_id.

In: the pairs' ids and lengths, file by file. Out: an array of the pairs' numbers, 4 bytes for each time that a pair is
seen. Keys of 16 bytes decide the order. If there are many, they are sorted by way of temporary files, so that they
never lie in memory together.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from seva_ray.core.seeds import keys_of
from seva_ray.core.sorting import sorter
from seva_ray.dpo.config import Train
from seva_ray.dpo.grouping import together

MOST_AT_ONCE = 4
"""The largest number of pairs in a forward pass if the configuration does not say how many."""


def choose(ids: Iterable[Sequence[str]], config: Train) -> np.ndarray:
    """Which pairs to train on, as bool (N,): those with the smallest keys. `ids`: prompt_ids of all pairs, in parts."""
    with sorter() as keyed:
        for some in ids:
            keyed.add(keys_of(config.seed, "pairs", ids=some), np.arange(keyed.total, keyed.total + len(some)))
        by_key = np.empty(keyed.total, np.min_scalar_type(keyed.total))
        keyed.fill(by_key)
    chosen = np.zeros(len(by_key), bool)
    chosen[by_key[: config.num_pairs]] = True
    return chosen


LARGEST = np.iinfo(np.uint16).max
"""The largest length in two bytes. Up to it, the lengths of 10 million pairs take 20 MB while they are ordered."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The order in which pairs are seen, with `step_size` pairs per step.

    The order is the same for any number of workers. Within a step, pairs are sorted by length, so that one forward pass
    needs little padding, and pairs about one image stand together if they are grouped. The last step is filled up with
    pairs of weight 0, and the weight of its other pairs is raised so that its loss is their mean.
    """

    order: np.ndarray
    """Numbers of the pairs."""
    step_size: int
    num_filling: int
    """How many pairs at the end have weight 0."""

    def __len__(self) -> int:
        return len(self.order)

    @property
    def num_steps(self) -> int:
        return len(self.order) // self.step_size

    def weight(self, place: int) -> float:
        """How much the pair at this place of the order counts in the mean loss of its step."""
        left, counted = len(self.order) - place, self.step_size - self.num_filling
        if left > self.step_size:
            return 1.0
        return float(np.float32(self.step_size / counted)) if left > self.num_filling else 0.0


def keys_of_ranks(ranks: np.ndarray, again: int, num_repeats: int) -> np.ndarray:
    """Keys of a curriculum: in each pass over the pairs, the smallest rank comes first. `ranks`: (N,), from 0 to below
    1. Returns (N,) of S16."""
    places = (again + ranks) / num_repeats * 2.0**63
    return np.array([place.to_bytes(8, "big") for place in places.astype(np.int64).tolist()], "S16")


def schedule(
    pairs: Iterable[tuple[Sequence[str], np.ndarray, *tuple[np.ndarray | None, ...]]],
    config: Train,
    chosen: np.ndarray | None = None,
) -> Schedule:
    """`pairs`: of all pairs, in parts, the prompt_ids, the lengths, and the ranks in a curriculum if there is one. A
    pair's number is its place among them. `chosen`: bool (N,), or None for all. The order depends only on the ids, the
    lengths and the seed, or on the ranks. If pairs are grouped by image, the image_ids come in place of the prompt_ids,
    and images are shuffled."""
    start, size = 0, config.global_batch_size
    lengths, images = bytearray(), bytearray()  # millions of small arrays would leave the heap in pieces
    kind: type[np.integer] = np.uint16
    with sorter() as keyed:
        for ids, some, *ranks in pairs:
            if kind is np.uint16 and some.max(initial=0) > LARGEST:
                lengths, kind = bytearray(np.frombuffer(lengths, kind).astype(np.int32).tobytes()), np.int32
            lengths += some.astype(kind).tobytes()
            if config.group_by_image:
                images += keys_of(config.seed, "image", ids=ids).view(np.int64)[::2].tobytes()
            places = np.arange(len(ids)) if chosen is None else np.flatnonzero(chosen[start : start + len(ids)])
            seen = [ids[place] for place in places.tolist()]
            for again in range(config.num_repeats):
                keys = keys_of(config.seed, "order", again, ids=seen)
                for of_pairs in ranks:
                    keys = keys if of_pairs is None else keys_of_ranks(of_pairs[places], again, config.num_repeats)
                keyed.add(keys, start + places)
            start += len(ids)
        num_filling = -keyed.total % size
        order = np.empty(keyed.total + num_filling, np.min_scalar_type(start))
        keyed.fill(order[: keyed.total])
    counted = order[: len(order) - num_filling]
    sort_steps(counted, np.frombuffer(lengths, kind), size)
    if config.group_by_image:
        group_steps(counted, np.frombuffer(images, np.int64), size, config.per_device_batch_size or MOST_AT_ONCE)
    order[len(order) - num_filling :] = order[len(order) - size :][:1].repeat(num_filling)
    return Schedule(order=order, step_size=size, num_filling=num_filling)


def sort_steps(order: np.ndarray, lengths: np.ndarray, size: int) -> None:
    """Sort the pairs of each step by their lengths, in place."""
    for start in range(0, len(order), size):
        step = order[start : start + size]
        step[:] = step[np.argsort(lengths[step], kind="stable")]


def group_steps(order: np.ndarray, images: np.ndarray, size: int, at_once: int) -> None:
    """Put the pairs of each step that have the same image next to each other, in place. `at_once`: number of pairs in
    a forward pass."""
    for start in range(0, len(order), size):
        step = order[start : start + size]
        step[:] = step[together(images[step].tolist(), at_once)]


def lengths_of(pairs: pa.Table) -> np.ndarray:
    """A measure of each pair's length: the bytes of its question plus the tokens of all its responses."""
    import pyarrow.compute as pc

    return pc.binary_length(pairs["question"]).to_numpy() + num_response_tokens(pairs)


def num_response_tokens(pairs: pa.Table) -> np.ndarray:
    """The number of tokens in all responses of each pair."""
    import pyarrow.compute as pc

    rejected = pairs["rejected"]
    tokens = pc.list_value_length(pc.struct_field(pc.list_flatten(rejected), "token_ids")).to_numpy()
    up_to = np.concatenate([[0], np.cumsum(tokens, dtype=np.int64)])  # sums over the rejected responses of all pairs
    ends = np.cumsum(pc.list_value_length(rejected).to_numpy(), dtype=np.int64)
    return pc.list_value_length(pairs["chosen_token_ids"]).to_numpy() + np.diff(up_to[ends], prepend=0)
