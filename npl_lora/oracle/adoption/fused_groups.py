"""What each group of a fused projection adds: the product of its own factors, or nothing."""

from collections.abc import Iterator, Mapping

import numpy as np

from .law import CLOSE, low_rank_scale
from .layer import Layer

_NAMES = ("first", "second", "third")


def groups_kept(layer: Layer) -> Iterator[str]:
    """Each group adds the product of its own factors, and a group without factors is the base."""
    groups, wanted, rng = layer.kind.groups, layer.probe, np.random.default_rng(8)
    size, count = wanted.out // len(groups), sum(groups)
    A = rng.normal(size=(count, wanted.rank, wanted.in_))
    B = rng.normal(size=(count, size, wanted.rank))
    W = rng.normal(size=(wanted.out, wanted.in_))
    added = _with_factors(layer, W, np.concatenate(list(A)), np.concatenate(list(B))) - W.T
    own = iter(range(count))
    with_factors = [name for name, has in zip(_NAMES, groups, strict=True) if has]
    products = {(i, j): A[i].T @ B[j].T for i in range(count) for j in range(count)}
    for name, has, part in zip(_NAMES, groups, np.split(added, len(groups), axis=1), strict=True):
        right = next(own) if has else None
        if (found := _product_in(part, products)) == ((right, right) if has else None):
            continue
        said = f"of {len(groups)} equal parts of y, the {name}"
        if found is None:
            yield f"{said} has no low-rank path of its own"
        elif not found:
            yield f"{said} adds what is no product of one A and one B"
        else:
            i, j = (with_factors[k] for k in found)
            yield f"{said} adds the product of the A of the {i} and the B of the {j}"


def _with_factors(layer: Layer, W: np.ndarray, A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """The layer as a matrix (in, out), with factors as it stores them."""
    wanted = layer.probe.but(bias=not layer.takes_no_bias)
    zeros = {"A": np.zeros((wanted.rank, wanted.in_)), "B": np.zeros((wanted.out, wanted.rank))}
    filled = layer.filled(wanted, {"W": W, **zeros}, layer.framework.widest)
    for held, array in ((layer.roles.A, A), (layer.roles.B, B)):
        layer.framework.write(filled, held.path, array.T if held.transposed else array)
    return layer.of_identity(filled, wanted)


def _product_in(part: np.ndarray, products: Mapping[tuple[int, int], np.ndarray]) -> tuple[int, ...] | None:
    """Whose A and B a part is a multiple of; None for nothing, () for no one's."""
    if not np.any(np.abs(part) > CLOSE):
        return None
    return next((pair for pair, product in products.items() if low_rank_scale(part, product)[1] < CLOSE), ())
