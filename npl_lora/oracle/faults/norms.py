"""Faults of RMSNorm: eps, the mean, the weight, and the terms of its backward."""

from ...ops import Pullback
from ...ops.namespace import rows
from .fault import Fault
from .wraps import with_arguments, with_gradients


def _mean(t):
    return t.__array_namespace__().mean(t, axis=-1, keepdims=True)


def _divided_by(root):
    """y = w o x / root, where root(mean square, n, eps) gives the root and its derivative by the mean square."""

    def wrap(op):
        def wrong(x, w, *, eps):
            xp, n = x.__array_namespace__(), x.shape[-1]
            divisor, slope = root(_mean(x * x), n, eps)
            q = 1.0 / divisor
            y = w * (x * q)

            def gradients(dy, wrt):
                g = w * dy
                dx = q * g - (2.0 * q * q * slope) * (x * _mean(g * x))
                grads = {"x": dx, "w": xp.sum(rows(dy * (x * q)), axis=0)}
                return {name: grads[name] for name in wrt}

            return y, Pullback(gradients, y, ("x", "w"))

        return wrong

    return wrap


def _sqrt(t):
    return t.__array_namespace__().sqrt(t)


def _eps_outside(square, n, eps):
    return _sqrt(square) + eps, 0.5 / _sqrt(square)


def _no_eps(square, n, eps):
    return _sqrt(square), 0.5 / _sqrt(square)


def _length(square, n, eps):
    length = _sqrt(n * square + eps)
    return length, 0.5 * n / length


def _subtract_mean(op):
    """The norm of x - mean(x), as LayerNorm has it."""

    def wrong(x, w, *, eps):
        y, right = op(x - _mean(x), w, eps=eps)

        def gradients(dy, wrt):
            grads = right(dy, wrt=wrt)
            return {**grads, "x": grads["x"] - _mean(grads["x"])} if "x" in grads else grads

        return y, Pullback(gradients, y, right.inputs)

    return wrong


def _q(a):
    return 1.0 / _sqrt(_mean(a.x * a.x) + a.eps)


def _without_weight(dx, a):
    """q (dy - xhat mean(dy o xhat))."""
    xhat = a.x * _q(a)
    return _q(a) * (a.dy - xhat * _mean(a.dy * xhat))


def _without_weight_in_mean(dx, a):
    xhat = a.x * _q(a)
    return _q(a) * (a.w * a.dy - xhat * _mean(a.dy * xhat))


def _sum_for_mean(dx, a):
    xhat, g = a.x * _q(a), a.w * a.dy
    return _q(a) * (g - xhat * (float(a.x.shape[-1]) * _mean(g * xhat)))


def _with_mean_of_gradient(dx, a):
    """q (g - mean(g) - xhat mean(g o xhat)): LayerNorm's."""
    return dx - _q(a) * _mean(a.w * a.dy)


def _weight_outside(dx, a):
    """w o q (dy - xhat mean(dy o xhat))."""
    return a.w * _without_weight(dx, a)


def _not_normalised(dx, a):
    """q g - q^2 x mean(g o x)."""
    q, g = _q(a), a.w * a.dy
    return q * g - q * q * (a.x * _mean(g * a.x))


def _weight_added(op):
    """y = xhat + w, with its gradients."""

    def wrong(x, w, *, eps):
        xhat, right = op(x, 0.0 * w + 1.0, eps=eps)
        y = xhat + w

        def gradients(dy, wrt):
            grads = right(dy, wrt=wrt)
            return {**grads, "w": _sum_over_tokens(dy)} if "w" in grads else grads

        return y, Pullback(gradients, y, right.inputs)

    return wrong


def _last_token(dw, a):
    return rows(a.dy * (a.x * _q(a)))[-1, :]


def _sum_over_tokens(t):
    return t.__array_namespace__().sum(rows(t), axis=0)


FAULTS = [
    Fault(
        "N1",
        says="eps is added to the root, not inside it",
        wrong="x / (sqrt(mean(x^2)) + eps)",
        right="x / sqrt(mean(x^2) + eps)",
        hidden_when="eps is tiny and no token is near 0",
        seen_in="hand-written norms",
        parts={"rms_norm": _divided_by(_eps_outside)},
    ),
    Fault(
        "N2",
        says="eps is left out: a token of zeros gives NaN",
        wrong="x / sqrt(mean(x^2))",
        right="x / sqrt(mean(x^2) + eps)",
        hidden_when="eps is tiny and no token is near 0",
        seen_in="hand-written norms",
        parts={"rms_norm": _divided_by(_no_eps)},
    ),
    Fault(
        "N3",
        says="the mean is subtracted, as in LayerNorm",
        wrong="(x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps)",
        right="x / sqrt(mean(x^2) + eps)",
        hidden_when="every token has mean 0",
        seen_in="hand-written norms",
        parts={"rms_norm": _subtract_mean},
    ),
    Fault(
        "N4",
        says="1 is added to the weight, as in Gemma",
        wrong="y = (1 + w) o xhat",
        right="y = w o xhat",
        hidden_when="nothing hides it",
        seen_in="norms that are shared with Gemma's",
        parts={"rms_norm": with_arguments(w=lambda a: a.w + 1.0)},
    ),
    Fault(
        "N4",
        variant="added",
        says="the weight is added, not multiplied",
        wrong="y = xhat + w",
        right="y = w o xhat",
        hidden_when="nothing hides it",
        seen_in="hand-written norms",
        parts={"rms_norm": _weight_added},
    ),
    Fault(
        "N5",
        says="dx lacks the weight",
        wrong="dx = q (dy - xhat mean(dy o xhat))",
        right="dx = q (g - xhat mean(g o xhat)) with g = w o dy",
        hidden_when="the weight is 1",
        seen_in="hand-written backward passes",
        parts={"rms_norm": with_gradients(x=_without_weight)},
    ),
    Fault(
        "N5",
        variant="mean",
        says="the mean in dx lacks the weight",
        wrong="dx = q (g - xhat mean(dy o xhat))",
        right="dx = q (g - xhat mean(g o xhat)) with g = w o dy",
        hidden_when="the weight is 1",
        seen_in="hand-written backward passes",
        parts={"rms_norm": with_gradients(x=_without_weight_in_mean)},
    ),
    Fault(
        "N5",
        variant="outside",
        says="the weight stands outside the bracket of dx, so the mean lacks it",
        wrong="dx = w o q (dy - xhat mean(dy o xhat))",
        right="dx = q (g - xhat mean(g o xhat)) with g = w o dy",
        hidden_when="the weight is the same for all features",
        seen_in="hand-written backward passes",
        parts={"rms_norm": with_gradients(x=_weight_outside)},
    ),
    Fault(
        "N6",
        says="dx lacks the term through the norm: the root is taken for a constant",
        wrong="dx = q g",
        right="dx = q (g - xhat mean(g o xhat)) with g = w o dy",
        hidden_when="the test checks the value only",
        seen_in="hand-written backward passes",
        parts={"rms_norm": with_gradients(x=lambda dx, a: _q(a) * (a.w * a.dy))},
    ),
    Fault(
        "N6",
        variant="sum",
        says="dx has the sum over the features where their mean should be",
        wrong="dx = q (g - xhat sum(g o xhat))",
        right="dx = q (g - xhat mean(g o xhat)) with g = w o dy",
        hidden_when="there is one feature",
        seen_in="hand-written backward passes",
        parts={"rms_norm": with_gradients(x=_sum_for_mean)},
    ),
    Fault(
        "N6",
        variant="mean",
        says="the mean of g is subtracted in dx too, as in LayerNorm's",
        wrong="dx = q (g - mean(g) - xhat mean(g o xhat))",
        right="dx = q (g - xhat mean(g o xhat)) with g = w o dy",
        hidden_when="the mean of w o dy is 0",
        seen_in="backward passes copied from LayerNorm's",
        parts={"rms_norm": with_gradients(x=_with_mean_of_gradient)},
    ),
    Fault(
        "N6",
        variant="power",
        says="the second term of dx has q^2 where q^3 should be",
        wrong="dx = q g - q^2 x mean(g o x)",
        right="dx = q g - q^3 x mean(g o x) with g = w o dy",
        hidden_when="every token has mean square 1",
        seen_in="hand-written backward passes",
        parts={"rms_norm": with_gradients(x=_not_normalised)},
    ),
    Fault(
        "N7",
        says="the root is that of the sum of squares, not of their mean",
        wrong="x / sqrt(sum(x^2) + eps)",
        right="x / sqrt(mean(x^2) + eps)",
        hidden_when="there is one feature",
        seen_in="hand-written norms",
        parts={"rms_norm": _divided_by(_length)},
    ),
    Fault(
        "N8",
        says="dw is computed from x before it is normalised",
        wrong="dw = sum_n dy o x",
        right="dw = sum_n dy o xhat",
        hidden_when="every token has mean square 1",
        seen_in="hand-written backward passes",
        parts={"rms_norm": with_gradients(w=lambda dw, a: _sum_over_tokens(a.dy * a.x))},
    ),
    Fault(
        "N8",
        variant="bias",
        says="dw is the sum of dy, as a bias's is",
        wrong="dw = sum_n dy",
        right="dw = sum_n dy o xhat",
        hidden_when="the test checks y and dx only",
        seen_in="hand-written backward passes",
        parts={"rms_norm": with_gradients(w=lambda dw, a: _sum_over_tokens(a.dy))},
    ),
    Fault(
        "N9",
        says="eps is 1e-6 whatever the configuration says",
        wrong="sqrt(mean(x^2) + 1e-6)",
        right="sqrt(mean(x^2) + eps)",
        hidden_when="eps is about 1e-6",
        seen_in="hand-written norms",
        parts={"rms_norm": with_arguments(eps=lambda a: 1e-6)},
    ),
    Fault(
        "N9",
        variant="1e-5",
        says="eps is 1e-5 whatever the configuration says",
        wrong="sqrt(mean(x^2) + 1e-5)",
        right="sqrt(mean(x^2) + eps)",
        hidden_when="eps is about 1e-5",
        seen_in="hand-written norms",
        parts={"rms_norm": with_arguments(eps=lambda a: 1e-5)},
    ),
    Fault(
        "N10",
        says="dw is that of the last token: the tokens overwrite each other",
        wrong="dw = dy_N o xhat_N",
        right="dw = sum_n dy_n o xhat_n",
        hidden_when="there is one token",
        seen_in="hand-written kernels whose blocks do not add up their sums",
        parts={"rms_norm": with_gradients(w=_last_token)},
    ),
]
