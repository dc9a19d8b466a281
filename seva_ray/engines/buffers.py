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


def packed(items: Sequence[Arrays]) -> tuple[list[dict[str, Place]], np.ndarray]:
    """Where each array is in the buffer, and the buffer, uint8 (bytes,). It has at least one byte."""
    places: list[dict[str, Place]] = []
    end = 0
    for arrays in items:
        of_item: dict[str, Place] = {}
        for name, array in arrays.items():
            of_item[name] = array.dtype.str, array.shape, end
            end += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
        places.append(of_item)
    buffer = np.empty(max(1, end), np.uint8)
    for arrays, of_item in zip(items, places, strict=True):
        for name, array in arrays.items():
            at(buffer, of_item[name])[...] = array
    return places, buffer


def unpacked(places: Sequence[Mapping[str, Place]], buffer: np.ndarray) -> list[dict[str, np.ndarray]]:
    """The arrays where they are in the buffer."""
    return [{name: at(buffer, place) for name, place in of_item.items()} for of_item in places]


def at(buffer: np.ndarray, place: Place) -> np.ndarray:
    kind, shape, begin = place
    size = math.prod(shape) * np.dtype(kind).itemsize
    return buffer[begin : begin + size].view(kind).reshape(shape)
