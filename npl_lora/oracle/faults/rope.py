"""Faults of rope: angles, signs, pairs and positions."""

import functools

import numpy as np

from ... import ops
from ...ops import Pullback
from ...ops.compose import chain, join_heads, split_heads
from .fault import Fault
from .wraps import ATTENTION, as_numpy, with_arguments, with_gradients, with_parts, with_question


def _skip_rotation(op):
    def wrong(x, **settings):
        return x, Pullback(lambda dy, wrt: {"x": dy} if "x" in wrt else {}, x, inputs=("x",))

    return wrong


def _mirror(x, interleaved):
    """Negate the second of each pair. A rotation by phi between two mirrors is a rotation by -phi."""
    xp, D = x.__array_namespace__(), x.shape[-1]
    column = np.arange(D)
    second = column % 2 == 1 if interleaved else column >= D // 2
    return xp.where(xp.asarray(second), -x, x)


def _rotate_backwards(op):
    def wrong(x, **settings):
        mirror = lambda t: _mirror(t, settings.get("interleaved", False))  # noqa: E731
        y, pullback = op(mirror(x), **settings)
        gradients = lambda dy, wrt: {"x": mirror(pullback(mirror(dy))["x"])}  # noqa: E731
        return mirror(y), Pullback(gradients, y, inputs=("x",))

    return wrong


def _rotate_forwards_in_backward(op):
    def wrong(x, **settings):
        y, right = op(x, **settings)
        return y, Pullback(lambda dy, wrt: {"x": op(dy, **settings)[0]}, y, right.inputs)

    return wrong


def _rotate_twice(op):
    return lambda x, **settings: chain(*2 * [lambda t: op(t, **settings)])(x)


def _at_positions(change):
    """Answer for other positions, change(positions)."""

    def other(arrays, config):
        positions = arrays["positions"]
        changed = np.asarray(change(np.asarray(as_numpy(positions))))
        return {"positions": positions.__array_namespace__().asarray(changed)}

    return with_question(arrays=other)


def _of_v_too(arrays, config):
    if config["rope_theta"] is None:
        return {}

    def wrap(op):
        @functools.wraps(op)
        def wrong(q, k, v, **settings):
            v, rotate_back = ops.rope(v, theta=config["rope_theta"])
            y, pullback = op(q, k, v, **settings)

            def gradients(dy, wrt):
                grads = pullback(dy, wrt=wrt)
                return {**grads, "v": rotate_back(grads["v"])["x"]} if "v" in grads else grads

            return y, Pullback(gradients, y, pullback.inputs)

        return wrong

    return {"attention": wrap}


def _of_heads(change, undo):
    """rope of change(heads, D), and undo(what it gives, D)."""

    def rotate(op):
        def wrong(x, **settings):
            D = x.shape[-1]
            y, right = op(change(x, D), **settings)
            y = undo(y, D)
            return y, Pullback(lambda dy, wrt: {"x": undo(right(change(dy, D))["x"], D)}, y, right.inputs)

        return wrong

    return dict.fromkeys(ATTENTION, with_parts(lambda arrays, config: {"rope": rotate}))


def _side_by_side(t, D):
    """(..., H, T, D) -> (..., T, H D)"""
    return join_heads(t)[0]


def _cut(t, D):
    """(..., T, H D) -> (..., H, T, D)"""
    return split_heads(D)(t)[0]


def _tokens_first(t, D):
    """(..., H, T, D) -> (..., T, H, D), and back."""
    return t.__array_namespace__().reshape(join_heads(t)[0], (*t.shape[:-3], t.shape[-2], t.shape[-3], D))


FAULTS = [
    Fault(
        "A3",
        says="rope is not applied",
        wrong="q k^T",
        right="(R q) (R k)^T",
        hidden_when="rope_theta is null",
        seen_in="hand-written attention",
        parts={"rope": _skip_rotation},
    ),
    Fault(
        "A4",
        says="rope rotates the other way: the signs of sin are swapped",
        wrong="u_a cos + u_b sin",
        right="u_a cos - u_b sin",
        hidden_when="there is only one position",
        seen_in="hand-written attention",
        parts={"rope": _rotate_backwards},
    ),
    Fault(
        "A5",
        says="the backward of rope rotates forwards by phi instead of back by -phi",
        wrong="dx = R dy",
        right="dx = R^T dy",
        hidden_when="the test checks the value only",
        seen_in="hand-written attention",
        parts={"rope": _rotate_forwards_in_backward},
    ),
    Fault(
        "A6",
        says="rope's base is 10000 whatever rope_theta is",
        wrong="theta = 10000",
        right="theta = rope_theta",
        hidden_when="rope_theta = 10000",
        seen_in="hand-written attention",
        parts={"rope": with_arguments(theta=lambda a: 10000.0)},
    ),
    Fault(
        "A5",
        variant="none",
        says="the backward of rope is left out: dx = dy",
        wrong="dx = dy",
        right="dx = R^T dy",
        hidden_when="the test checks the value only",
        seen_in="paiml/aprender#2232",
        parts={"rope": with_gradients(x=lambda dx, a: a.dy)},
    ),
    Fault(
        "L10",
        variant="halves",
        says="rope rotates halves (i, i + D/2), but the interleaved pairs (2i, 2i + 1) are asked for",
        wrong="pairs (i, i + D/2)",
        right="pairs (2i, 2i + 1)",
        hidden_when="D = 2, or every position is 0",
        seen_in="ooples/AiDotNet#2074; huggingface/nanotron#427",
        answers={"rope": with_question(config=lambda arrays, config: {"interleaved": False})},
    ),
    Fault(
        "A7",
        says="rope's frequencies are theta^(-i / D): the exponent lacks the factor 2",
        wrong="theta^(-i / D)",
        right="theta^(-2i / D)",
        hidden_when="D = 2",
        seen_in="hand-written attention",
        parts={"rope": with_arguments(theta=lambda a: a.theta**0.5)},
    ),
    Fault(
        "A8",
        says="rope is applied twice",
        wrong="R R x",
        right="R x",
        hidden_when="all positions are 0",
        seen_in="caches that hold rotated keys and rotate them again",
        parts={"rope": _rotate_twice},
    ),
    Fault(
        "A9",
        says="rope ignores the positions and counts the rows from 0",
        wrong="phi = t theta^(-2i / D) for row t",
        right="phi = p_t theta^(-2i / D)",
        hidden_when="positions count from 0",
        seen_in="hand-written attention with a cache or padding on the left",
        answers={"rope": _at_positions(lambda p: np.arange(p.size))},
    ),
    Fault(
        "A9",
        variant="consecutive",
        says="rope counts on from the first position, although the positions are not consecutive",
        wrong="phi = (p_0 + t) theta^(-2i / D) for row t",
        right="phi = p_t theta^(-2i / D)",
        hidden_when="positions are consecutive",
        seen_in="hand-written attention with packed texts",
        answers={"rope": _at_positions(lambda p: p[0] + np.arange(p.size))},
    ),
    Fault(
        "A9",
        variant="first",
        says="rope takes the first position for all rows",
        wrong="phi = p_0 theta^(-2i / D) for row t",
        right="phi = p_t theta^(-2i / D)",
        hidden_when="all positions are the same",
        seen_in="hand-written attention with a cache",
        answers={"rope": _at_positions(lambda p: p[0] + 0 * p)},
    ),
    Fault(
        "A15",
        says="rope is applied to v as well",
        wrong="z = P (R v)",
        right="z = P v",
        hidden_when="rope_theta is null",
        seen_in="hand-written attention",
        answers=dict.fromkeys(ATTENTION, with_parts(_of_v_too)),
    ),
    Fault(
        "A16",
        says="rope is applied before the heads are cut: all of them are rotated as one head of size H D",
        wrong="pairs and frequencies of a head of size H D",
        right="pairs and frequencies of a head of size D, in each head",
        hidden_when="there is one head",
        seen_in="hand-written attention",
        answers=_of_heads(_side_by_side, _cut),
    ),
    Fault(
        "A16",
        variant="axis",
        says="rope is applied before the heads are moved: it takes the number of the head for the position",
        wrong="phi = h theta^(-2i / D) for head h",
        right="phi = t theta^(-2i / D) for token t",
        hidden_when="rope_theta is null",
        seen_in="mlfoundations/open_lm#4; facebookresearch/xformers#841; NVIDIA/audio-flamingo#27",
        answers=_of_heads(_tokens_first, _tokens_first),
    ),
    Fault(
        "A10",
        says="rope's positions are one too large: they count from 1",
        wrong="phi = (p_t + 1) theta^(-2i / D)",
        right="phi = p_t theta^(-2i / D)",
        hidden_when="only scores are looked at, which depend on differences of positions",
        seen_in="hand-written attention",
        answers={"rope": _at_positions(lambda p: p + 1)},
    ),
]
