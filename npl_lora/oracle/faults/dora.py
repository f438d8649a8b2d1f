"""Faults of DoRA."""

from ...ops import Pullback
from ...ops.namespace import rows
from .fault import Array, Fault, backward, given


def _norms(V: Array, axis: int) -> Array:
    xp = V.__array_namespace__()
    return xp.sqrt(xp.sum(V * V, axis=axis))


def _updated(a, s) -> Array:
    return a.W + s * (a.B @ a.A)


def _as_given(a) -> Array:
    return _norms(_updated(a, a.scale), 1) if a.n is None else a.n


def _unit_lengths(op):
    """m is ignored: y = x V^T + b."""

    def wrong(x, W, A, B, m, *, scale, b=None, n=None):
        y, pullback = op(x, W, A, B, m * 0.0 + 1.0, scale=scale, b=b, n=m * 0.0 + 1.0)
        return y, Pullback(lambda dy, wrt: _no_dm(pullback(dy, wrt=wrt)), y, pullback.inputs, pullback.frozen)

    return wrong


def _no_dm(grads):
    return {**grads, "m": grads["m"] * 0.0} if "m" in grads else grads


def _plain_gradient(name):
    """A gradient as lora_linear has it, without c = m / n."""

    def change(grad, a):
        if name == "m":
            return grad * 0.0
        if name == "B":
            return a.scale * (rows(a.dy).T @ rows(a.x @ a.A.T))
        dh = a.scale * (a.dy @ a.B)
        return rows(dh).T @ rows(a.x) if name == "A" else a.dy @ a.W + dh @ a.A

    return change


def _through_the_norm(name):
    """The gradient with n differentiated: dV loses its part along V, row by row."""

    def change(grad, a):
        n = _as_given(a)
        xp = grad.__array_namespace__()
        c, V = a.m / n, _updated(a, a.scale)
        dV = rows(c * a.dy).T @ rows(a.x)
        direction = V / xp.expand_dims(n, axis=1)
        dV = dV - direction * xp.sum(dV * direction, axis=1, keepdims=True)
        return a.scale * (a.B.T @ dV if name == "A" else dV @ a.A.T)

    return change


def _scaled_bias(op):
    """m / n acts on the bias too, and m gets its gradient through it."""

    def wrong(x, W, A, B, m, *, scale, b=None, n=None):
        if b is None:
            return op(x, W, A, B, m, scale=scale, n=n)
        n = _norms(W + scale * (B @ A), 1) if n is None else n
        y, pullback = op(x, W, A, B, m, scale=scale, b=(m / n) * b, n=n)

        def gradients(dy, wrt):
            grads = pullback(dy, wrt=wrt)
            xp = dy.__array_namespace__()
            return {**grads, "m": grads["m"] + xp.sum(rows(dy * b), axis=0) / n} if "m" in grads else grads

        return y, Pullback(gradients, y, pullback.inputs, pullback.frozen)

    return wrong


def _along_the_other_axis(a):
    """Lengths of columns in the place of lengths of rows: what fits only if W is square."""
    if a.W.shape[0] != a.W.shape[1]:
        raise ValueError(f"m has shape {a.m.shape}, and the columns of W are {a.W.shape[1]}")
    return _norms(_updated(a, a.scale), 0)


FAULTS = [
    Fault(
        "R1",
        "alpha is ignored in DoRA: V = W + B A",
        "V = W + B A",
        "V = W + s B A",
        "alpha = r",
        "AnswerDotAI/fsdp_qlora#68",
        parts={"dora_linear": given(scale=lambda a: 1.0)},
    ),
    Fault(
        "R2",
        "DoRA's norm is taken along the wrong axis: one length for each input, where each output has one",
        "n_i = |V[:, i]|",
        "n_o = |V[o, :]|",
        "m = n",
        "huggingface/peft#1588",
        parts={"dora_linear": given(n=_along_the_other_axis)},
    ),
    Fault(
        "R3",
        "the backward of DoRA is plain LoRA's: m / n is missing from dx, dA and dB, and m gets no gradient",
        "dB = s dy^T (x A^T), dm = 0",
        "dB = s (m / n o dy)^T (x A^T), dm = sum of dy o x V^T / n",
        "m = n",
        "ooples/AiDotNet#256",
        parts={"dora_linear": backward(**{name: _plain_gradient(name) for name in ("x", "A", "B", "m")})},
    ),
    Fault(
        "R4",
        "DoRA's norm is differentiated, where it is a constant in the backward",
        "dV loses its part along V",
        "dV = (m / n) o dy^T x",
        "a test of the value only",
        "huggingface/peft#1474; the paper's section 4.3 has the norm detached",
        parts={"dora_linear": backward(A=_through_the_norm("A"), B=_through_the_norm("B"))},
    ),
    Fault(
        "R6",
        "the magnitude m gets no gradient",
        "dm = 0",
        "dm = sum of dy o x V^T / n",
        "a test of A and B only",
        "meta-pytorch/torchtune#2250",
        parts={"dora_linear": backward(m=lambda dm, a: dm * 0.0)},
    ),
    Fault(
        "R7",
        "DoRA scales the bias too",
        "y = (m / n) o (x V^T + b)",
        "y = (m / n) o (x V^T) + b",
        "m = n, or no bias",
        "huggingface/peft#2122, #2371",
        parts={"dora_linear": _scaled_bias},
    ),
    Fault(
        "R8",
        "dm is computed from the scaled output: it has m / n once too often",
        "dm = sum of dy o (m / n) o x V^T / n",
        "dm = sum of dy o x V^T / n",
        "m = n",
        "axolotl-ai-cloud/axolotl#3528",
        parts={"dora_linear": backward(m=lambda dm, a: dm * (a.m / _as_given(a)))},
    ),
    Fault(
        "R9",
        "the magnitude is left out: DoRA computes what LoRA does",
        "y = x V^T + b",
        "y = (m / n) o (x V^T) + b",
        "m = n",
        "ml-explore/mlx-examples#891; unslothai/unsloth-zoo#828",
        parts={"dora_linear": _unit_lengths},
    ),
    Fault(
        "R10",
        "DoRA's norm is that of the base weight: it does not follow A and B",
        "n = |W|",
        "n = |W + s B A|",
        "B = 0",
        "hand-written DoRA invites it",
        parts={"dora_linear": given(n=lambda a: _norms(a.W, 1))},
    ),
]
