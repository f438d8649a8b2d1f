"""What the tests of the ops share: derivatives by complex step, naive answers, and S, the size of a gradient's
terms."""

import naive
import numpy as np
import scalars

from npl_lora import ops

STEP = 1e-200

# Ops that put a computed number into exp, Phi, cos. Its rounding is part of any answer, and can be worth many units of
# the function's value: softmax has |x - max(x)| units from it (9.5 seen), attention those of its scores (21 seen), an
# MLP z^2 units from gelu far left (18 seen, 120 at z = -15), rope |phi| units (940 seen at position 1000). So
# there, and only where a few units are asked for, S counts the argument's terms too: f(a (1 + u)) = f(a) + u a f'(a).
CONDITIONED = {"softmax", "attention", "lora_attention", "cross_entropy", "gated_mlp", "lora_mlp", "rope"}


def call(name, inputs, config, op=None):
    """y and every gradient, the frozen ones included, for a dy in general position."""
    y, pullback = (op or getattr(ops, name))(**inputs, **config)
    dy = cotangent(y)
    return y, pullback(dy, wrt=pullback.inputs), dy


def cotangent(y, seed=3):
    return np.random.default_rng(seed).standard_normal(y.shape).astype(y.dtype)


def complex_step(op, inputs, config, name, dy):
    """d<dy, op>/d(inputs[name]), element by element."""
    gradient = np.zeros(inputs[name].shape)
    for index in np.ndindex(gradient.shape):
        shifted = inputs[name].astype(np.complex128)
        shifted[index] += 1j * STEP
        y, _ = op(**{**inputs, name: shifted}, **config)
        gradient[index] = np.sum(np.imag(y) / STEP * dy)
    return gradient


def convention(name, config, input_name, gradient):
    """The padding row is held, by convention: its gradient is zero and not the derivative."""
    pad = config.get("padding_idx")
    if pad is not None and input_name in "AE":
        gradient = gradient.copy()
        gradient[(slice(None), pad) if input_name == "A" else pad] = 0
    return gradient


def to_scalars(m, array):
    """Floats become scalars of m, exactly; integers and bools stay."""
    if array.dtype.kind in "biu":
        return array
    out = np.empty(array.shape, dtype=object)
    for index in np.ndindex(array.shape):
        out[index] = m.number(float(array[index])) if array.dtype != object else array[index]
    return out


def naive_answer(m, name, inputs, config, dy):
    given = {n: to_scalars(m, a) for n, a in inputs.items()}
    return getattr(naive, name)(m, given, config, to_scalars(m, dy))


def values(array, dtype=float):
    """Scalars of any kind as an array of numbers."""
    return np.array([v.value if isinstance(v, scalars.Terms) else v for v in array.ravel()], dtype=dtype).reshape(
        array.shape
    )


def term_sizes(name, inputs, config, dy, with_arguments=False):
    """S of y and of every gradient: the naive expressions with every term taken in absolute value.

    with_arguments: for bounds of a few units, which the rounding of a function's argument alone can exceed; see above.
    """
    m = scalars.ConditionedMath() if with_arguments and name in CONDITIONED else scalars.TermsMath()
    y, grads = naive_answer(m, name, inputs, config, dy)

    def size(array):
        return np.array([scalars.terms(v).size for v in array.ravel()], dtype=float).reshape(array.shape)

    return size(y), {n: size(g) for n, g in grads.items()}


def assert_close(got, expected, size, units, what):
    """|got - expected| <= units * size, element by element; where size is 0, exactly 0."""
    assert got.shape == expected.shape, (what, got.shape, expected.shape)
    error = np.abs(np.asarray(got, dtype=float) - expected)
    bad = ~(error <= units * size)
    assert not bad.any(), (
        f"{what}: worst {np.max(error[bad] / np.maximum(size[bad], 1e-300)):.3g} of S, {units:.3g} allowed"
    )
