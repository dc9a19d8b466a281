"""Whether the numbers in a weight file can be those of a model: no NaN, no infinity, and no hole of zeros.

The header of a file does not show it. With NaN in its weights a model answers every question with the same token. A
hole of zeros, as a download into reserved space leaves it, makes a model that answers worse, and nothing says so.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from seva_ray.core.errors import InputError
from seva_ray.vlm.model_files import header_of

EXPONENTS = {"F16": 0x7C00, "BF16": 0x7F80, "F32": 0x7F800000, "F64": 0x7FF0000000000000}
"""The bits of the exponent, by a data type's name in safetensors. All of them are set in NaN and in infinity."""
BLOCK_BYTES = 2**22
"""Number of bytes that are looked at together."""


def check_values(file: Path) -> None:
    """Read all weights of a safetensors file, with little memory, in about a second per GB.

    A single matrix of zeros is no fault, because a model may have one that it does not use. Minus infinity is none
    either: it is what a mask for attention holds. Raises: InputError.
    """
    where = f"model {file.parent}: {file.name}"
    tensors = sorted(header_of(file).items(), key=lambda item: item[1]["data_offsets"])
    zeros: list[str] = []
    """The last matrices in the file, as far as they hold only zeros."""
    with file.open("rb") as weights:
        start = 8 + int.from_bytes(weights.read(8), "little")
        for name, entry in tensors:
            if entry["dtype"] not in EXPONENTS:
                continue
            begin, end = entry["data_offsets"]
            weights.seek(start + begin)
            is_zero = True
            for bits in blocks(weights, end - begin, entry["dtype"]):
                if found := not_finite(bits, entry["dtype"]):
                    raise InputError(f"{where} holds {found} in {name}; it must be made or copied again")
                is_zero = is_zero and not bits.any()
            if sum(side > 1 for side in entry["shape"]) < 2:
                continue  # biases may be zero
            zeros = [*zeros, name] if is_zero else []
            if len(zeros) > 1:
                raise InputError(f"{where} holds only zeros in {zeros[0]} and {zeros[1]}; it must be copied again")


def blocks(weights: BinaryIO, num_bytes: int, dtype: str) -> Iterator[np.ndarray]:
    """The next bytes of the file as whole numbers of the size of `dtype`."""
    size = EXPONENTS[dtype].bit_length() // 8 + 1
    for begin in range(0, num_bytes, BLOCK_BYTES):
        yield np.frombuffer(weights.read(min(BLOCK_BYTES, num_bytes - begin)), f"<u{size}")


def not_finite(bits: np.ndarray, dtype: str) -> str:
    """What is among these numbers: NaN, infinity, or nothing of them."""
    exponent = bits.dtype.type(EXPONENTS[dtype])
    special = bits[(bits & exponent) == exponent]
    if not special.size:
        return ""
    if dtype == "BF16":  # it is the first half of a float32
        special, dtype = special.astype("<u4") << 16, "F32"
    numbers = special.view(f"<f{special.itemsize}")
    return "NaN" if np.isnan(numbers).any() else "infinity" if (numbers > 0).any() else ""
