"""Faults of DoRA."""

from ...ops import Pullback
from ...ops.namespace import rows
from ...support.array import Array
from .fault import Fault
from .wraps import with_arguments, with_gradients


def _lengths(V: Array, axis: int) -> Array:
    xp = V.__array_namespace__()
    return xp.sqrt(xp.sum(V * V, axis=axis))


def _adapted_weight(a) -> Array:
    return a.W + a.scale * (a.B @ a.A)


def _norm(a) -> Array:
    return _lengths(_adapted_weight(a), 1) if a.n is None else a.n


def _ignore_magnitude(op):
    """Leave out m: y = x V^T + b."""

    def wrong(x, W, A, B, m, *, scale, b=None, n=None):
        y, pullback = op(x, W, A, B, m * 0.0 + 1.0, scale=scale, b=b, n=m * 0.0 + 1.0)
        return y, Pullback(lambda dy, wrt: _zero_dm(pullback(dy, wrt=wrt)), y, pullback.inputs, pullback.frozen)

    return wrong


def _zero_dm(grads):
    return {**grads, "m": grads["m"] * 0.0} if "m" in grads else grads


def _gradient_of_lora(name):
    """The gradient of lora_linear, without c = m / n; 0 for m."""

    def change(grad, a):
        if name == "m":
            return grad * 0.0
        if name == "B":
            return a.scale * (rows(a.dy).T @ rows(a.x @ a.A.T))
        dh = a.scale * (a.dy @ a.B)
        return rows(dh).T @ rows(a.x) if name == "A" else a.dy @ a.W + dh @ a.A

    return change


def _gradient_through_norm(name):
    """The gradient with n differentiated: each row of dV loses its component along the same row of V."""

    def change(grad, a):
        n = _norm(a)
        xp = grad.__array_namespace__()
        c, V = a.m / n, _adapted_weight(a)
        dV = rows(c * a.dy).T @ rows(a.x)
        direction = V / xp.expand_dims(n, axis=1)
        dV = dV - direction * xp.sum(dV * direction, axis=1, keepdims=True)
        return a.scale * (a.B.T @ dV if name == "A" else dV @ a.A.T)

    return change


def _scale_bias(op):
    """m / n scales the bias as well, and dm has a term for that."""

    def wrong(x, W, A, B, m, *, scale, b=None, n=None):
        if b is None:
            return op(x, W, A, B, m, scale=scale, n=n)
        n = _lengths(W + scale * (B @ A), 1) if n is None else n
        y, pullback = op(x, W, A, B, m, scale=scale, b=(m / n) * b, n=n)

        def gradients(dy, wrt):
            grads = pullback(dy, wrt=wrt)
            xp = dy.__array_namespace__()
            return {**grads, "m": grads["m"] + xp.sum(rows(dy * b), axis=0) / n} if "m" in grads else grads

        return y, Pullback(gradients, y, pullback.inputs, pullback.frozen)

    return wrong


def _norm_of_columns(a):
    """The lengths of the columns instead of the rows. They fit m only if W is square."""
    if a.W.shape[0] != a.W.shape[1]:
        raise ValueError(f"m has shape {a.m.shape}, but W has {a.W.shape[1]} columns")
    return _lengths(_adapted_weight(a), 0)


FAULTS = [
    Fault(
        "R1",
        says="DoRA ignores alpha: V lacks s = alpha / r",
        wrong="V = W + B A",
        right="V = W + s B A",
        hidden_when="alpha = r",
        seen_in="AnswerDotAI/fsdp_qlora#68",
        parts={"dora_linear": with_arguments(scale=lambda a: 1.0)},
    ),
    Fault(
        "R2",
        says="DoRA's norm is taken along the wrong axis: one length for each input instead of one for each output",
        wrong="n_i = |V[:, i]|",
        right="n_o = |V[o, :]|",
        hidden_when="m = n",
        seen_in="huggingface/peft#1588",
        parts={"dora_linear": with_arguments(n=_norm_of_columns)},
    ),
    Fault(
        "R3",
        says="the backward of DoRA is that of plain LoRA: dx, dA and dB lack m / n, and m gets no gradient",
        wrong="dB = s dy^T (x A^T), dm = 0",
        right="dB = s ((m / n) o dy)^T (x A^T), dm = sum of dy o x V^T / n",
        hidden_when="m = n",
        seen_in="ooples/AiDotNet#256",
        parts={"dora_linear": with_gradients(**{name: _gradient_of_lora(name) for name in ("x", "A", "B", "m")})},
    ),
    Fault(
        "R4",
        says="DoRA's norm is differentiated, but it should be a constant in the backward",
        wrong="dV = ((m / n) o dy)^T x without its part along V",
        right="dV = ((m / n) o dy)^T x",
        hidden_when="the test checks the value only",
        seen_in="huggingface/peft#1474; the paper's section 4.3 detaches the norm",
        parts={"dora_linear": with_gradients(A=_gradient_through_norm("A"), B=_gradient_through_norm("B"))},
    ),
    Fault(
        "R6",
        says="the magnitude m gets no gradient",
        wrong="dm = 0",
        right="dm = sum of dy o x V^T / n",
        hidden_when="the test checks A and B only",
        seen_in="meta-pytorch/torchtune#2250",
        parts={"dora_linear": with_gradients(m=lambda dm, a: dm * 0.0)},
    ),
    Fault(
        "R7",
        says="DoRA scales the bias as well",
        wrong="y = (m / n) o (x V^T + b)",
        right="y = (m / n) o (x V^T) + b",
        hidden_when="m = n, or there is no bias",
        seen_in="huggingface/peft#2122, #2371",
        parts={"dora_linear": _scale_bias},
    ),
    Fault(
        "R8",
        says="dm is computed from the scaled output: it has the factor m / n once too often",
        wrong="dm = sum of dy o (m / n) o x V^T / n",
        right="dm = sum of dy o x V^T / n",
        hidden_when="m = n",
        seen_in="axolotl-ai-cloud/axolotl#3528",
        parts={"dora_linear": with_gradients(m=lambda dm, a: dm * (a.m / _norm(a)))},
    ),
    Fault(
        "R9",
        says="the magnitude is left out, so DoRA computes what LoRA computes",
        wrong="y = x V^T + b",
        right="y = (m / n) o (x V^T) + b",
        hidden_when="m = n",
        seen_in="ml-explore/mlx-examples#891; unslothai/unsloth-zoo#828",
        parts={"dora_linear": _ignore_magnitude},
    ),
    Fault(
        "R10",
        says="DoRA's norm is that of the base weight: it does not follow A and B",
        wrong="n = |W|",
        right="n = |W + s B A|",
        hidden_when="B = 0",
        seen_in="hand-written DoRA layers",
        parts={"dora_linear": with_arguments(n=lambda a: _lengths(a.W, 1))},
    ),
]
