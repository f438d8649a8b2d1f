"""Faults of the initial A and B."""

from dataclasses import replace

from ..tolerance.statistics import Distribution
from .fault import Fault


def _draw_otherwise(drawn=None, zero=None):
    """Replace the drawn factor by drawn(factor, config, right, arrays), and the zero one by zero(...)."""

    def wrap(answer):
        def wrong(arrays, config, d):
            right = answer(arrays, config, d)
            outputs = {}
            for name, factor in right.items():
                change = drawn if isinstance(factor, Distribution) else zero
                outputs[name] = factor if change is None else change(factor, config, right, arrays)
            return outputs

        return wrong

    return {"lora_init": wrap}


def _zeros(factor, config, right, arrays):
    return arrays["W"].__array_namespace__().zeros(factor.shape)


def _like_the_other(factor, config, right, arrays):
    (drawn,) = (one for one in right.values() if isinstance(one, Distribution))
    spread = factor.shape[1] ** -0.5 if drawn.kind == "uniform" else drawn.spread
    return replace(drawn, shape=factor.shape, spread=spread)


def _bound_over_both_axes(factor, config, right, arrays):
    """The bound 1 / sqrt(in r): the fan-in is counted over both axes."""
    return replace(factor, spread=factor.spread * config["r"] ** -0.5) if factor.kind == "uniform" else factor


def _bound_by_rank(factor, config, right, arrays):
    """The bound 1 / sqrt(r): the fan-in is counted along the other axis."""
    return replace(factor, spread=config["r"] ** -0.5) if factor.kind == "uniform" else factor


def _root_of_variance(factor, config, right, arrays):
    return replace(factor, spread=config["r"] ** -0.5) if config["distribution"] == "gaussian" else factor


def _alpha_as_slope(factor, config, right, arrays):
    """Kaiming's bound sqrt(6 / ((1 + a^2) in)) with a = alpha instead of sqrt(5)."""
    if factor.kind != "uniform":
        return factor
    return replace(factor, spread=factor.spread * (6.0 / (1.0 + config["alpha"] ** 2)) ** 0.5)


def _never_negative(factor, config, right, arrays):
    return replace(factor, kind="positive") if factor.kind == "uniform" else factor


FAULTS = [
    Fault(
        "I1",
        says="A and B are both zero at the start, so neither ever gets a gradient",
        wrong="A = B = 0",
        right="one of A and B zero, the other drawn",
        hidden_when="the test checks the value only",
        seen_in="NovaSky-AI/SkyRL#852; circle-hit/SAPT#11",
        answers=_draw_otherwise(drawn=_zeros),
    ),
    Fault(
        "I2",
        says="A and B are both drawn at random, so the adapter changes the model before training",
        wrong="A and B drawn",
        right="one of A and B zero, the other drawn",
        hidden_when="the test sets A and B itself",
        seen_in="hao-ai-lab/FastVideo#781",
        answers=_draw_otherwise(zero=_like_the_other),
    ),
    Fault(
        "I4",
        says="A's fan-in is counted over both axes: its bound is 1 / sqrt(in r)",
        wrong="A ~ U(-1 / sqrt(in r), 1 / sqrt(in r))",
        right="A ~ U(-1 / sqrt(in), 1 / sqrt(in))",
        hidden_when="r = 1",
        seen_in="torchtune 0.7, modules/moe/experts.py",
        answers=_draw_otherwise(drawn=_bound_over_both_axes),
    ),
    Fault(
        "I4",
        variant="axis",
        says="A's fan-in is counted along the wrong axis: its bound is 1 / sqrt(r)",
        wrong="A ~ U(-1 / sqrt(r), 1 / sqrt(r))",
        right="A ~ U(-1 / sqrt(in), 1 / sqrt(in))",
        hidden_when="in = r",
        seen_in="hand-written layers that store A transposed",
        answers=_draw_otherwise(drawn=_bound_by_rank),
    ),
    Fault(
        "I11",
        says="the Gaussian has the standard deviation 1 / sqrt(r) instead of 1 / r",
        wrong="A ~ N(0, 1 / r)",
        right="A ~ N(0, 1 / r^2)",
        hidden_when="r = 1",
        seen_in="code that takes a variance for a standard deviation",
        answers=_draw_otherwise(drawn=_root_of_variance),
    ),
    Fault(
        "I12",
        says="alpha is passed on as the slope of Kaiming's distribution: it changes A's bound",
        wrong="A ~ U(-c, c) with c = sqrt(6 / ((1 + alpha^2) in))",
        right="A ~ U(-1 / sqrt(in), 1 / sqrt(in))",
        hidden_when="alpha = sqrt(5)",
        seen_in="lora-pytorch, whose alpha has no other effect",
        answers=_draw_otherwise(drawn=_alpha_as_slope),
    ),
    Fault(
        "I13",
        says="A is drawn from 0 to the bound: it has no negative numbers",
        wrong="A ~ U(0, 1 / sqrt(in))",
        right="A ~ U(-1 / sqrt(in), 1 / sqrt(in))",
        hidden_when="the test looks at the largest number alone",
        seen_in="hand-written layers",
        answers=_draw_otherwise(drawn=_never_negative),
    ),
]
