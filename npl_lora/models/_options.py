"""The options of a model's loss."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from .. import ops as reference
from ..support.array import Array


@dataclass(frozen=True)
class LossOptions:
    """How a loss and its gradients are computed. Each option may also be given to `loss` by name.

    key_mask: (B, T) bool, True for tokens that are not padding. None: there is no padding.
    count: how many labels are counted in the whole batch, if these tokens are a part of it. The loss is the sum over
        these labels, divided by count. None: these tokens are the whole batch.
    wrt: the names whose gradients the pullback can give. None: all that the adapter trains.
    recompute: keep only each block's input for the backward, which then computes the block again. None: recompute if
        the weights are coded.
    masks: masks(path, x) gives the dropout mask on the input x of the module at this path. None: no dropout.
    ops: the functions that compute, with the names and signatures of `npl_lora.ops`.
    """

    key_mask: Array | None = None
    count: int | None = None
    wrt: Iterable[str] | None = None
    recompute: bool | None = None
    masks: Callable[[str, Array], Array] | None = None
    ops: Any = reference
