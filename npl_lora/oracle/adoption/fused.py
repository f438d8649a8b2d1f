"""Fused projections: one linear layer for q, k and v, of which some have factors of their own.

Such a layer answers cases of lora_linear in which B has zeros in the rows of the groups without factors. Every other
group has the case's A, and its own rows of B. So dA is the sum over the groups. Groups that are exchanged don't show
there: what each adds is looked at in fused_groups.
"""

from dataclasses import replace

import numpy as np

from ..case import Case

Groups = tuple[bool, ...]  # for each whether it has factors; () where nothing is fused

SOME: Groups = (True, False, True)  # what is asked for: q and v, and not k
CONTRACTS = ("lora_linear", "lora_merge")


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
