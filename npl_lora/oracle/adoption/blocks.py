"""Convolutions whose factors are the matrices A (r k, in k) and B (out k, r k), as loralib has them: the update is B A,
viewed as the kernel (out, in, k, k).

What lora_conv2d defines is the part of it where B has one number for each k rows and k columns, on their diagonal:
then the update is that of A viewed as (r, in, k, k), and of B (out, r, 1, 1).
"""

import numpy as np


def shapes(in_: int, out: int, rank: int, kernel: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Those of A and B."""
    k, _ = kernel
    return (rank * k, in_ * k), (out * k, rank * k)


def stored(array: np.ndarray, factor: str, rows: int) -> np.ndarray:
    """A factor as it is stored, with so many rows."""
    if factor == "A":
        return array.reshape(rows, -1)
    return np.kron(array.reshape(len(array), -1), np.eye(rows // len(array), dtype=array.dtype))


def gradient(of_stored: np.ndarray, factor: str, rows: int) -> np.ndarray:
    """The gradient of the factor, which has so many rows, from that of what is stored."""
    if factor == "A":
        return of_stored
    k = len(of_stored) // rows
    return np.einsum("okrk->or", of_stored.reshape(rows, k, -1, k))
