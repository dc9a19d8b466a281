"""Named arrays of any types and shapes in one flat buffer, and back without a copy.

Rows of one unit differ in shape, and travel from one process to another in one cell of an Arrow table.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

Arrays = Mapping[str, np.ndarray]

Place = tuple[str, Sequence[int], int]
"""An array in a buffer: its type, its shape, and where it begins, in bytes."""

ALIGNMENT = 64
"""Arrays begin at multiples of this, in bytes, so that they can be used where they are."""


class Packing:
    """A buffer that grows by one array after the other, so that no array is in memory twice."""

    def __init__(self) -> None:
        self.data = bytearray()  # it grows in place

    def add(self, arrays: Arrays) -> dict[str, Place]:
        """Append the arrays. Return where each of them is in the buffer."""
        places: dict[str, Place] = {}
        for name, array in arrays.items():
            self.data.extend(bytes(-len(self.data) % ALIGNMENT))
            places[name] = array.dtype.str, array.shape, len(self.data)
            self.data.extend(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return places

    def buffer(self) -> np.ndarray:
        """The buffer, uint8 (bytes,), without a copy. It has at least one byte. Nothing can be added any more."""
        return np.frombuffer(self.data or bytes(1), np.uint8)


def unpacked(places: Sequence[Mapping[str, Place]], buffer: np.ndarray) -> list[dict[str, np.ndarray]]:
    """The arrays where they are in the buffer."""
    return [{name: at(buffer, place) for name, place in of_item.items()} for of_item in places]


def at(buffer: np.ndarray, place: Place) -> np.ndarray:
    kind, shape, begin = place
    return buffer[begin : begin + num_bytes(place)].view(kind).reshape(shape)


def num_bytes(place: Place) -> int:
    kind, shape, _ = place
    return math.prod(shape) * np.dtype(kind).itemsize
