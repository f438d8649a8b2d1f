"""Fused projections: one linear layer for q, k and v, of which some have factors of their own.

Such a layer answers cases of lora_linear in which B has zeros in the rows of the groups without factors. Every other
group has the case's A, and its own rows of B. So dA is the sum over the groups. Groups that are exchanged don't show
there: what each adds is looked at for itself.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..case import Case
from .law import CLOSE, low_rank_scale

if TYPE_CHECKING:
    from .layer import Layer

Groups = tuple[bool, ...]  # for each whether it has factors; () where nothing is fused

SOME: Groups = (True, False, True)  # what is asked for: q and v, and not k
CONTRACTS = ("lora_linear", "lora_merge")
_NAMES = ("first", "second", "third")


def question(case: Case, groups: Groups, square: bool) -> Case:
    """The case with outputs that can be divided into groups, and without factors and gradients where a group has none.

    square: each group has as many outputs as there are inputs. Then outputs are taken more than once.
    """
    if case.contract not in CONTRACTS:
        return case
    out, in_ = len(case["B"]), case["A"].shape[1]
    size = in_ if square else out // len(groups)
    rows = np.array([(g * (1 if square else size) + j) % out for g in range(len(groups)) for j in range(size)])
    turned = case.config.get("fan_in_fan_out", False)
    arrays = dict(case.arrays)
    arrays["B"] = case["B"][rows] * of_rows(groups, size)[:, None]
    arrays["W"] = case["W"][:, rows] if turned else case["W"][rows]
    if "b" in case:
        arrays["b"] = case["b"][rows]
    if "dy" in case:
        arrays["dy"] = case["dy"][..., rows] * of_rows(groups, size)
    kept = {name: array.astype(case[name].dtype) for name, array in arrays.items()}
    return replace(case, arrays=kept, exact=case.exact and not square)


def of_rows(groups: Groups, size: int) -> np.ndarray:
    """For each output whether its group has factors, as 1 or 0."""
    return np.repeat(np.array(groups, dtype=np.int8), size)


def stored(array: np.ndarray, factor: str, groups: Groups) -> np.ndarray:
    """A once for each group that has factors; of B the rows of these groups."""
    if factor == "A":
        return np.tile(array, (sum(groups), 1))
    return array[of_rows(groups, len(array) // len(groups)) == 1]


def gradient(of_stored: np.ndarray, factor: str, groups: Groups) -> np.ndarray:
    """dA or dB from the gradient of what is stored. No gradient reaches the other rows of B."""
    if factor == "A":
        return of_stored.reshape(sum(groups), -1, of_stored.shape[1]).sum(axis=0)
    size = len(of_stored) // sum(groups)
    dB = np.zeros((size * len(groups), of_stored.shape[1]))
    dB[of_rows(groups, size) == 1] = of_stored
    return dB


def groups_kept(layer: "Layer") -> Iterator[str]:
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


def _with_factors(layer: "Layer", W: np.ndarray, A: np.ndarray, B: np.ndarray) -> np.ndarray:
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
