"""Which tensor of a layer is which. The shape decides; the name breaks ties, since names are exchanged as often as not.

W (out, in)    A (r, in)    B (out, r)    b (out,)    m, the magnitude of DoRA: as many numbers as b, or as inputs

Of an embedding W is (in, out), which its author calls (ids, width); of a convolution W and A have a kernel's axes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from . import blocks, fused
from .fused import Groups
from .kinds import Kind
from .wanted import NotAdoptedError, Wanted
from .words import MAGNITUDES, of_factor, plain

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Held:
    """Where a layer keeps a matrix: the tensor's path, and whether it is stored transposed. flat: whether a
    convolution's factor is stored as the matrix (first axis, all the others). factor: "A" or "B" of a fused projection
    with these groups; without groups, of a convolution as blocks.py has it."""

    path: str
    transposed: bool = False
    flat: bool = False
    factor: str = ""
    groups: Groups = ()

    def describe(self, shape: str) -> str:
        """lora_A (in, r)."""
        axes = shape.strip("()").split(", ")
        if self.flat:
            axes = [axes[0], " ".join(axis for axis in axes[1:] if axis != "1")]
        return f"{self.path} ({', '.join(axes[::-1] if self.transposed else axes)})"

    def stored(self, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The matrix as the layer stores it, in a tensor of this shape."""
        array = array.reshape(len(array), -1) if self.flat else array
        if self.groups:
            array = fused.stored(array, self.factor, self.groups)
        elif self.factor:
            array = blocks.stored(array, self.factor, shape[-1 if self.transposed else 0])
        return array.T if self.transposed else array

    def gradient(self, of_stored: Any, rows: int) -> Any:
        """The gradient of the matrix, which has so many rows, from that of what the layer stores."""
        of_stored = of_stored.T if self.transposed else of_stored
        if not self.factor:
            return of_stored
        array = of_stored.detach().double().numpy()  # of torch alone
        if self.groups:
            return fused.gradient(array, self.factor, self.groups)
        return blocks.gradient(array, self.factor, rows)


@dataclass(frozen=True)
class Roles:
    """The tensors of a layer. W: None for the low-rank path alone. biases: the first is the base layer's."""

    A: Held
    B: Held
    W: Held | None = None
    biases: tuple[str, ...] = ()
    m: str | None = None


def find_roles(shapes: Shapes, wanted: Wanted, kind: Kind, prefer: frozenset[str] = frozenset()) -> Roles:
    """The roles of the tensors of a layer that was built at sizes that differ.

    prefer: paths of parameters, which win over buffers and caches of the same shape. Raises NotAdoptedError.
    """
    W = _candidates(shapes, kind.base(wanted), prefer)
    if kind.groups:
        return _fused_roles(shapes, wanted, kind.groups, prefer, W)
    A = _named(_candidates(shapes, kind.factor_A(wanted), prefer), "a")
    B = _named(_candidates(shapes, kind.factor_B(wanted), prefer), "b")
    if (len(A) != 1 or len(B) != 1) and kind.name == "conv2d" and W:
        in_blocks = blocks.shapes(wanted.in_, wanted.out, wanted.rank, wanted.kernel)
        A, B = (
            [replace(held, factor=letter) for held in _candidates(shapes, shape, prefer)]
            for letter, shape in zip("AB", in_blocks, strict=True)
        )
    if len(A) != 1 or len(B) != 1:
        raise NotAdoptedError(
            f"built with in = {wanted.in_}, out = {wanted.out} and r = {wanted.rank} it has {_count(A, '(r, in)')} and"
            f" {_count(B, '(out, r)')}, expected one of each. Its tensors: {list_shapes(shapes)}"
        )
    base = _base(W)
    beside = base.path.rpartition(".")[0] if base else ""  # where W is, its bias is
    biases = sorted(_biases(shapes, wanted), key=lambda path: path.rpartition(".")[0] != beside)
    return Roles(A[0], B[0], base, tuple(biases), _magnitude(shapes, wanted))


def _fused_roles(shapes: Shapes, wanted: Wanted, groups: Groups, prefer: frozenset[str], W: list[Held]) -> Roles:
    """The roles of a fused projection, which keeps the factors of all groups in one tensor each."""
    count, size = sum(groups), wanted.out // len(groups)
    A = _named(_candidates(shapes, (count * wanted.rank, wanted.in_), prefer), "a")
    B = _named(_candidates(shapes, (count * size, wanted.rank), prefer), "b")
    if len(A) != 1 or len(B) != 1:
        asked = f"in = {wanted.in_}, out = {wanted.out}, r = {wanted.rank} and {count} of {len(groups)} groups"
        has = f"{_count(A, f'({count} r, in)')} and {_count(B, f'({count} out / {len(groups)}, r)')}"
        raise NotAdoptedError(
            f"built with {asked} it has {has}, expected one of each. Its tensors: {list_shapes(shapes)}"
        )
    held_A, held_B = replace(A[0], factor="A", groups=groups), replace(B[0], factor="B", groups=groups)
    return Roles(held_A, held_B, _base(W), _biases(shapes, wanted))


def square_roles(shapes: Shapes, wanted: Wanted) -> list[Roles]:
    """The roles in both orders, where W is square: what is A (r, in) may be B stored transposed."""
    factors, biases = square_candidates(shapes, wanted), _biases(shapes, wanted)
    orders = ((factors[0], factors[1]), (factors[1], factors[0]))
    return [Roles(A, Held(B.path, not B.transposed), None, biases) for A, B in orders]


def square_candidates(shapes: Shapes, wanted: Wanted) -> list[Held]:
    """The two factors of a layer whose weight must be square, in no order. transposed: stored as (size, r)."""
    found = [
        Held(path, shape != (wanted.rank, wanted.in_))
        for path, shape in shapes.items()
        if len(shape) == 2 and sorted(shape) == sorted((wanted.rank, wanted.in_))
    ]
    if len(found) != 2:
        raise NotAdoptedError(f"it has {len(found)} matrices of a factor's shape, expected two")
    return found


def _candidates(shapes: Shapes, shape: tuple[int, ...], prefer: frozenset[str]) -> list[Held]:
    matrix = (shape[0], math.prod(shape[1:]))  # a convolution's factor may be kept as one
    found = [
        Held(path, has == matrix[::-1], has != shape and len(shape) > 2)
        for path, has in shapes.items()
        if has in (shape, matrix, matrix[::-1])
    ]
    preferred = [held for held in found if held.path in prefer]
    return preferred or found


def _named(candidates: list[Held], letter: str) -> list[Held]:
    """Those that are named like the factor, if there are several."""
    if len(candidates) < 2:
        return candidates
    return [held for held in candidates if of_factor(held.path, letter)] or candidates


def _base(candidates: list[Held]) -> Held | None:
    """The first one: a second is a copy that the layer keeps for itself."""
    return candidates[0] if candidates else None


def _biases(shapes: Shapes, wanted: Wanted) -> tuple[str, ...]:
    """The base's, and those that the low-rank path has of its own: after B, and after A."""
    names = ("bias", "b", "base_bias", "original_bias")
    after_B = [path for path, shape in shapes.items() if shape == (wanted.out,) and path.split(".")[-1] in names]
    after_A = [path for path, shape in shapes.items() if shape == (wanted.rank,) and path.split(".")[-1] == "bias"]
    return (*after_B, *after_A)


def _magnitude(shapes: Shapes, wanted: Wanted) -> str | None:
    for path, shape in shapes.items():
        named = any(plain(word) in MAGNITUDES for word in path.split("."))
        if named and math.prod(shape) in (wanted.out, wanted.in_) and max(shape, default=0) == math.prod(shape):
            return path
    return None


def _count(found: list[Held], shape: str) -> str:
    return f"{len(found)} {'matrix' if len(found) == 1 else 'matrices'} {shape}"


def list_shapes(shapes: Shapes) -> str:
    """Each tensor with its shape."""
    return ", ".join(f"{path} {shape}" for path, shape in shapes.items()) or "none"
