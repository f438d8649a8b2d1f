"""Faults of how A and B begin."""

from dataclasses import replace

from ..tolerance.statistics import Distribution
from .fault import Fault


def _other(drawn=None, zero=None):
    """The factor that is drawn becomes drawn(it, config), and the one that is zero becomes zero(it, config)."""

    def wrap(answer):
        def wrong(arrays, config, d):
            right = answer(arrays, config, d)
            found = {}
            for name, factor in right.items():
                change = drawn if isinstance(factor, Distribution) else zero
                found[name] = factor if change is None else change(factor, config, right, arrays)
            return found

        return wrong

    return {"lora_init": wrap}


def _zeros(factor, config, right, arrays):
    return arrays["W"].__array_namespace__().zeros(factor.shape)


def _drawn_like_the_other(factor, config, right, arrays):
    (drawn,) = (one for one in right.values() if isinstance(one, Distribution))
    spread = factor.shape[1] ** -0.5 if drawn.kind == "uniform" else drawn.spread
    return replace(drawn, shape=factor.shape, spread=spread)


def _narrower(factor, config, right, arrays):
    """The bound 1 / sqrt(in r): fan-in counted over both axes."""
    return replace(factor, spread=factor.spread * config["r"] ** -0.5) if factor.kind == "uniform" else factor


def _by_rank(factor, config, right, arrays):
    """The bound 1 / sqrt(r): fan-in counted along the other axis."""
    return replace(factor, spread=config["r"] ** -0.5) if factor.kind == "uniform" else factor


def _wider(factor, config, right, arrays):
    return replace(factor, spread=config["r"] ** -0.5) if config["distribution"] == "gaussian" else factor


FAULTS = [
    Fault(
        "I1",
        "A and B are both zero at the start: neither ever gets a gradient",
        "A = B = 0",
        "one of the two zero, the other drawn",
        "a test of the value only",
        "NovaSky-AI/SkyRL#852; circle-hit/SAPT#11",
        answers=_other(drawn=_zeros),
    ),
    Fault(
        "I2",
        "A and B are both drawn at random: the adapter changes the model before training",
        "A and B drawn",
        "one of the two zero, the other drawn",
        "a test that sets A and B itself",
        "hao-ai-lab/FastVideo#781",
        answers=_other(zero=_drawn_like_the_other),
    ),
    Fault(
        "I4",
        "A's fan-in is counted over both axes: its bound is 1 / sqrt(in r)",
        "A ~ U(-1 / sqrt(in r), 1 / sqrt(in r))",
        "A ~ U(-1 / sqrt(in), 1 / sqrt(in))",
        "r = 1",
        "torchtune 0.7, modules/moe/experts.py",
        answers=_other(drawn=_narrower),
    ),
    Fault(
        "I4",
        "A's fan-in is counted along the wrong axis: its bound is 1 / sqrt(r)",
        "A ~ U(-1 / sqrt(r), 1 / sqrt(r))",
        "A ~ U(-1 / sqrt(in), 1 / sqrt(in))",
        "in = r",
        "hand-written layers that store A transposed invite it",
        variant="axis",
        answers=_other(drawn=_by_rank),
    ),
    Fault(
        "I11",
        "the Gaussian has the standard deviation 1 / sqrt(r), where 1 / r is asked",
        "A ~ N(0, 1 / r)",
        "A ~ N(0, 1 / r^2)",
        "r = 1",
        "a variance taken for a standard deviation",
        answers=_other(drawn=_wider),
    ),
]
