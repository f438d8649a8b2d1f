"""A LoRA layer that stands in a model, with the sizes and numbers that it has: which tensor is which, and its scale.

The rules are those for a layer that the check builds itself: shapes and names give hypotheses, and probing decides. A
copy in float64 is probed, so the model keeps its numbers, its gradients and its random numbers.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from ..one_line import describe
from .kinds import LINEAR
from .law import CLOSE, low_rank_scale
from .shapes import Held, Roles, Shapes, find_roles, list_shapes, square_roles
from .torch_layers import TorchLayers, held, needed_by_call, walk
from .wanted import NotAdoptedError, Wanted
from .words import of_factor

_ROWS = 5  # of x in a probe
_MOST = 60  # hypotheses that are probed

Hypothesis = tuple[Roles, Wanted]


@dataclass(frozen=True)
class Standing:
    """roles: where its tensors are. sizes: in, out and r. s: what B A is multiplied with, or nan where what the layer
    adds to x W^T + b is no multiple of B A."""

    roles: Roles
    sizes: Wanted
    s: float

    @property
    def fits(self) -> bool:
        """Whether the layer is x W^T + b + s x A^T B^T, with an s that is not 0."""
        return math.isfinite(self.s) and self.s != 0.0


def read(module: nn.Module, shapes: Shapes) -> Standing:
    """The layer that a module is. shapes: of its tensors by their paths. Raises NotAdoptedError, with what is in the
    way."""
    hypotheses = find_hypotheses(shapes)
    if not hypotheses:
        raise NotAdoptedError(_nothing_fits(shapes))
    needed_by_call(module)
    copy, refused, wrong = _copy_of(module), "", []
    for roles, sizes in hypotheses[:_MOST]:
        try:
            is_base, s = _probe(copy, roles, sizes)
        except NotAdoptedError as error:
            refused = refused or str(error)
        except Exception as error:  # whatever a stranger's forward raises
            refused = refused or f"a copy of it, called with x of in = {sizes.in_}, raised {describe(error)}"
        else:
            found = Standing(roles, sizes, s)
            if is_base and found.fits:
                _refuse_bias(roles, shapes)
                return found
            wrong += [found] if is_base else []
            refused = refused or "with A and B at zero it is not x W^T + b"
    _refuse_variants(wrong[0].roles if wrong else hypotheses[0][0], shapes, bool(wrong))
    if not wrong:
        raise NotAdoptedError(refused)
    return wrong[0]


def _refuse_variants(roles: Roles, shapes: Shapes, is_base: bool) -> None:
    """What fits no law of LoRA, and has tensors that LoRA has not, is another method and no wrong layer. is_base:
    whether it is x W^T + b where A and B are zero."""
    if roles.m is not None:
        raise NotAdoptedError(f"it is DoRA, with the magnitude {roles.m}")
    _refuse_bias(roles, shapes)
    known = {roles.A.path, roles.B.path, *roles.biases, *([roles.W.path] if roles.W else [])}
    more = ", ".join(path for path in shapes if path not in known)
    if is_base and more:
        raise NotAdoptedError(f"what it adds to x W^T + b is no multiple of B A, and it has {more} besides")


def _refuse_bias(roles: Roles, shapes: Shapes) -> None:
    for name, factor in (("A", roles.A), ("B", roles.B)):
        owner, _, last = factor.path.rpartition(".")
        if last == "weight" and f"{owner}.bias" in shapes:
            raise NotAdoptedError(f"it has a bias in {name}")


def find_hypotheses(shapes: Shapes) -> list[Hypothesis]:
    """What the tensors may be, by shapes and names; the likeliest first. W is None for the low-rank path alone."""
    found = [hypothesis for W, sizes in _sizes(shapes) for hypothesis in _roles(shapes, W, sizes)]
    if any(roles.W is not None for roles, _ in found):
        found = [(roles, sizes) for roles, sizes in found if roles.W is not None]
    return sorted(found, key=_unlikely)


def _sizes(shapes: Shapes) -> Iterator[tuple[Held | None, Wanted]]:
    """Every matrix as W, (out, in) or (in, out), with every rank that is a length of another; and no W."""
    matrices = {path: shape for path, shape in shapes.items() if len(shape) == 2}
    lengths = sorted({n for shape in matrices.values() for n in shape})
    for path, (out, in_) in matrices.items():
        for rank in (n for n in lengths if n not in (in_, out)):
            yield Held(path), Wanted(in_, out, rank)
            yield Held(path, True), Wanted(out, in_, rank)
    if len(matrices) == 2:
        for in_, out, rank in ((i, o, r) for i in lengths for o in lengths for r in lengths if r not in (i, o)):
            yield None, Wanted(in_, out, rank)


def _roles(shapes: Shapes, W: Held | None, sizes: Wanted) -> Iterator[Hypothesis]:
    """The roles of the others. Where W is square, the factors may be either."""
    others = {path: shape for path, shape in shapes.items() if W is None or path != W.path}
    with suppress(NotAdoptedError):
        yield replace(find_roles(others, sizes, LINEAR), W=W), sizes
    if sizes.in_ == sizes.out:
        with suppress(NotAdoptedError):
            for roles in square_roles(others, sizes):
                yield replace(roles, W=W), sizes


def _unlikely(hypothesis: Hypothesis) -> tuple[bool, bool]:
    roles, _ = hypothesis
    named = of_factor(roles.A.path, "a") and of_factor(roles.B.path, "b")
    return not named, roles.W is not None and roles.W.transposed


def _nothing_fits(shapes: Shapes) -> str:
    matrices = {path: shape for path, shape in shapes.items() if len(shape) > 1}
    named = [path for path in matrices if of_factor(path, "a")], [path for path in matrices if of_factor(path, "b")]
    if len(named[0]) > 1 or len(named[1]) > 1:
        return f"it has several factors at once: {', '.join(named[0] + named[1])}"
    return f"of its tensors no two are A (r, in) and B (out, r) for a W (out, in): {list_shapes(shapes)}"


def _copy_of(module: nn.Module) -> nn.Module:
    """The module again, in float64 in main memory. A tensor that it kept from a graph is copied without the graph."""
    kept: dict[int, Any] = {id(t): t.detach().clone() for _, _, t in walk(module) if not t.is_leaf}
    try:
        copy = deepcopy(module, kept)
        for _, _, t in walk(copy):
            t.grad = None
        return TorchLayers().cast(copy, "float64")
    except Exception as error:  # a stranger's module may hold anything
        raise NotAdoptedError(f"no copy of it in float64 can be made to probe its scale: {describe(error)}") from None


def _probe(copy: nn.Module, roles: Roles, sizes: Wanted) -> tuple[bool, float]:
    """Whether the layer is x W^T + b where A and B are zero; and s, for which W and b are zero for a while."""
    framework, rng = TorchLayers(), np.random.default_rng(0)

    def write(A: np.ndarray, B: np.ndarray) -> None:
        for one, array in ((roles.A, A), (roles.B, B)):
            framework.write(copy, one.path, array.T if one.transposed else array)

    x = rng.normal(size=(_ROWS, sizes.in_))
    A, B = rng.normal(size=(sizes.rank, sizes.in_)), rng.normal(size=(sizes.out, sizes.rank))
    write(0 * A, 0 * B)
    y, base = _value(framework, copy, x), _base_value(copy, roles, x, np.zeros((_ROWS, sizes.out)))
    is_base = y.shape == base.shape and bool(np.max(np.abs(y - base)) <= CLOSE * max(np.max(np.abs(base)), CLOSE))
    with _zero(copy, [*([roles.W.path] if roles.W else []), *roles.biases[:1]]):
        write(A, B)
        s, left = low_rank_scale(_value(framework, copy, x), x @ A.T @ B.T)
        if left >= CLOSE:
            return is_base, math.nan
        write(np.eye(*A.shape), np.eye(*B.shape))
        exact = float(_value(framework, copy, np.eye(1, sizes.in_))[0, 0])
    return is_base, exact if abs(exact - s) <= CLOSE * abs(s) else s


def _base_value(copy: nn.Module, roles: Roles, x: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """x W^T + b of those of W and b that there are."""
    y = zero
    if roles.W is not None:
        W = held(copy, roles.W.path).detach().numpy()
        y = y + x @ (W if roles.W.transposed else W.T)
    return y + sum(held(copy, path).detach().numpy() for path in roles.biases[:1])


@contextmanager
def _zero(copy: nn.Module, paths: list[str]) -> Iterator[None]:
    """These tensors are zero for a while."""
    tensors = [held(copy, path) for path in paths]
    before = [t.data for t in tensors]
    for t in tensors:
        t.data = torch.zeros_like(t)
    try:
        yield
    finally:
        for t, data in zip(tensors, before, strict=True):
            t.data = data


def _value(framework: TorchLayers, copy: nn.Module, x: np.ndarray) -> np.ndarray:
    """y of rows; with a batch axis if two axes are not taken."""
    try:
        return framework.value(copy, x)
    except NotAdoptedError:
        raise
    except Exception:  # whatever a stranger's forward raises; it raises again if that is not the reason
        return framework.value(copy, x[None])[0]
