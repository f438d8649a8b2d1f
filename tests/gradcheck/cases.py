"""The table of inputs (configurations.py) as gradcheck takes it: each op with everything among its inputs."""

from collections.abc import Callable
from typing import Any

import numpy as np
from configurations import OPS, POLYNOMIALS, build, points_of

from npl_lora import ops

Case = tuple[Callable[..., Any], dict[str, Any]]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


LISTS = ("weights", "scales")


def with_lists(op: Callable[..., Any]) -> Callable[..., Any]:
    """The op with the numbers of its lists by name, weights_1, scales_1, ..., as the exact check wants them."""

    def listed(**inputs: Any) -> Any:
        numbers = {kind: [inputs.pop(n) for n in sorted(inputs) if n.startswith(f"{kind}_")] for kind in LISTS}
        return op(**inputs, **{kind: values for kind, values in numbers.items() if values})

    listed.__name__ = op.__name__
    return listed


def hold_padding(op: Callable[..., Any]) -> Callable[..., Any]:
    """The padding token's rows are held constant: then their zero gradients, a convention, are the derivative."""

    def held(padding_idx: Any, E: Any, A: Any = None, **inputs: Any) -> Any:
        if padding_idx is not None:
            E = np.where(np.arange(E.shape[0])[:, None] == padding_idx, 7, E)
        if A is not None:
            A = A if padding_idx is None else np.where(np.arange(A.shape[1])[None, :] == padding_idx, 3, A)
            inputs |= {"A": A}
        return op(E=E, padding_idx=padding_idx, **inputs)

    held.__name__ = op.__name__
    return held


def case(name: str, point: dict[str, Any]) -> Case:
    """The op, and all its arguments at the point."""
    inputs, config = build(name, point)
    op = getattr(ops, name)
    if lists := {kind: config.pop(kind) for kind in LISTS if kind in config}:
        config |= {f"{kind}_{i}": value for kind, values in lists.items() for i, value in enumerate(values, 1)}
        return with_lists(op), inputs | config
    return hold_padding(op) if "padding_idx" in config else op, inputs | config


def cases(names: list[str]) -> dict[str, Case]:
    """At two points, which have every switch both ways, and more where there are more activations."""
    points = {name: points_of(name, ("first", "second")) for name in names}
    return {f"{name} {label}": case(name, point) for name in names for label, point in points[name].items()}


AFFINE = cases(POLYNOMIALS)  # polynomials of their inputs, affine in each alone
SMOOTH = cases([name for name in OPS if name not in POLYNOMIALS])
ALL = AFFINE | SMOOTH
LORA = ALL["lora_linear first"][1]
