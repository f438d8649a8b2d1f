"""What adds no multiple of B A, and has parameters that LoRA has not, is another method and no wrong layer."""

import numpy as np

from .law import CLOSE
from .layer import Layer
from .wanted import NotAdoptedError


def refuse_another_method(layer: Layer) -> None:
    """Raise NotAdoptedError for a layer that is another method."""
    if not layer.law.formula and (others := _other_parameters(layer)):
        raise NotAdoptedError(f"what it adds to x W^T + b is no multiple of B A, and it has {others} besides")


def _other_parameters(layer: Layer) -> str:
    """The paths of the parameters that LoRA has not, of a layer that is its base where A and B are zero; else ""."""
    roles = layer.roles
    known = {roles.A.path, roles.B.path, *roles.biases, *([roles.W.path] if roles.W else [])}
    built = layer.framework.tensors(layer.build(layer.probe.but(bias=not layer.takes_no_bias)))
    others = [path for path, t in built.items() if t.kind == "parameter" and path not in known]
    return " and ".join(others) if others and roles.m is None and _is_base_without_update(layer) else ""


def _is_base_without_update(layer: Layer) -> bool:
    wanted = layer.probe
    W = np.random.default_rng(0).normal(size=(wanted.out, wanted.in_))
    A, B = np.zeros((wanted.rank, wanted.in_)), np.zeros((wanted.out, wanted.rank))
    try:
        return bool(np.allclose(layer.as_matrix(wanted.strength, W, A, B), W.T, atol=CLOSE))
    except Exception:  # a forward that raises is judged case by case
        return False
