"""Optimisers as pure functions: a parameter and its gradient go in, the parameter after the step comes out.

They use plain arithmetic only, so they run on any array, including the oracle's error-carrying arrays.
"""

from dataclasses import dataclass

from ..ops.checks import check_inputs
from ..support.array import Array


def sgd(p: Array, g: Array, *, lr: float, weight_decay: float = 0.0) -> Array:
    """p - lr (g + weight_decay p): plain gradient descent, with L2 decay as in torch.optim.SGD.

    Shapes: p (...), g (...) -> p after the step, all of one shape. Raises ValueError for a g of another shape.
    """
    check_inputs(p=(p, "..."), g=(g, "..."))
    return p - lr * (g + weight_decay * p)


@dataclass(frozen=True)
class AdamWState:
    """Running means for one parameter: m of its gradient, v of the gradient's square, and how many steps they hold."""

    m: Array = 0.0
    v: Array = 0.0
    step: int = 0


def adamw(
    p: Array,
    g: Array,
    state: AdamWState,
    *,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float],
    eps: float,
) -> tuple[Array, AdamWState]:
    """One step of AdamW: first the decay, then the bias-corrected step. Returns the new p and the new state.

        p <- p (1 - lr weight_decay)
        m <- b1 m + (1 - b1) g,  v <- b2 v + (1 - b2) g^2
        p <- p - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

    Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019, algorithm 2, in torch's form: the
    decay is multiplied by lr, and eps stands outside the root.
    """
    xp, _ = check_inputs(p=(p, "..."), g=(g, "..."))
    b1, b2 = betas
    t = state.step + 1
    m = b1 * state.m + (1.0 - b1) * g
    v = b2 * state.v + (1.0 - b2) * (g * g)
    unbiased_m = m / (1.0 - b1**t)
    unbiased_v = v / (1.0 - b2**t)
    decayed = p * (1.0 - lr * weight_decay)
    return decayed - lr * (unbiased_m / (xp.sqrt(unbiased_v) + eps)), AdamWState(m, v, t)
