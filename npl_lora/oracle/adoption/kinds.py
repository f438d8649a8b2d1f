"""The kinds of layers: a linear layer, an embedding, a convolution. For each, the shapes of its tensors, the contract
that asks it, and the input for which y is the layer as a matrix (in, out)."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from .constructor import Constructor
from .fused import Groups
from .wanted import Wanted

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Kind:
    """name; contract; W: what a case calls the base weight. base, factor_A, factor_B: the shapes of W, A and B from the
    sizes. identity(wanted) -> x. as_matrix: whether W is (in, out), as an embedding's; else it is (out, in). groups: of
    a fused projection."""

    name: str
    contract: str
    W: str
    base: Callable[[Wanted], Shape]
    factor_A: Callable[[Wanted], Shape]
    factor_B: Callable[[Wanted], Shape]
    identity: Callable[[Wanted], np.ndarray]
    as_matrix: bool = False
    groups: Groups = ()


LINEAR = Kind(
    "linear",
    "lora_linear",
    "W",
    lambda w: (w.out, w.in_),
    lambda w: (w.rank, w.in_),
    lambda w: (w.out, w.rank),
    lambda w: np.eye(w.in_),
)
CONV1D = replace(LINEAR, name="conv1d")  # GPT-2's: linear, and its weight is (in, out)
EMBEDDING = Kind(
    "embedding",
    "lora_embedding",
    "E",
    lambda w: (w.in_, w.out),
    lambda w: (w.rank, w.in_),
    lambda w: (w.out, w.rank),
    lambda w: np.arange(w.in_),
    as_matrix=True,
)
CONV2D = Kind(
    "conv2d",
    "lora_conv2d",
    "W",
    lambda w: (w.out, w.in_, *w.kernel),
    lambda w: (w.rank, w.in_, *w.kernel),
    lambda w: (w.out, w.rank, 1, 1),
    lambda w: np.eye(w.in_)[:, :, None, None],
)


def kind_of(constructor: Constructor) -> Kind:
    """The kind that a class's name, its bases and its parameters tell."""
    call = constructor.call
    names = [base.__name__.lower() for base in call.__mro__] if isinstance(call, type) else [constructor.name.lower()]
    words = [name.lower() for name, role in constructor.roles.items() if role == "base"]
    if constructor.has("ids") or any(_is_of_ids(name) for name in (*names, *words)):
        return EMBEDDING
    if constructor.has("kernel") or any("conv2d" in name for name in names):
        return CONV2D
    if constructor.groups:
        return replace(LINEAR, name="fused", groups=constructor.groups)
    if any("conv1d" in name for name in names):
        return CONV1D
    return CONV2D if any("conv" in word for word in words) else LINEAR


def _is_of_ids(name: str) -> bool:
    return "embed" in name and not any(word in name for word in ("patch", "position", "rotary", "time"))
