"""torch.nn.Module: how to make, read, fill and call layers."""

import copy
import inspect
import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import nn

from ..case import Case
from ..libraries.torch_tools import run_steps, tensor
from .calls import only_array
from .constructor import Constructor
from .framework import Based, Pass, Tensor
from .shapes import Held
from .torch_fused import OfImages, parts, takes_images_alone
from .wanted import NotAdoptedError, Wanted
from .words import BASE_OUTPUT, SET_UP, SET_WEIGHT, is_weight, plain, role_of


class WithBase(nn.Module):
    """A low-rank path, added to a linear layer. A path whose forward takes the layer's output adds it itself."""

    def __init__(self, path: nn.Module, wanted: Wanted) -> None:
        super().__init__()
        self.base = _base(wanted).requires_grad_(False)
        self.path = path

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.base(x)
        names = list(inspect.signature(self.path.forward).parameters)
        taken = [name for name in names if plain(name) in BASE_OUTPUT]
        return call(self.path, x, **{taken[0]: y}) if taken else y + call(self.path, x)


class OfItsWeight(nn.Module):
    """The linear layer of a weight that a module gives without any input."""

    def __init__(self, weight: nn.Module, wanted: Wanted) -> None:
        super().__init__()
        self.of, self.size = weight, (wanted.out, wanted.in_)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.of()
        return nn.functional.linear(x, weight if tuple(weight.shape) == self.size else weight.T)


class Conv1D(nn.Module):
    """A linear layer as GPT-2 has it: its weight is (in, out)."""

    def __init__(self, wanted: Wanted, home: Mapping[str, Any]) -> None:
        super().__init__()
        self.nx, self.nf = wanted.in_, wanted.out
        self.weight = nn.Parameter(torch.randn(wanted.in_, wanted.out, **home))
        self.bias = nn.Parameter(torch.zeros(wanted.out, **home))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight + self.bias


class TorchLayers:
    """The framework torch. strength of a scale that forward takes is 1."""

    name = "torch"
    frozen = "requires_grad is False"
    widest = "float64"
    parts: Mapping[str, Callable[[Wanted], Any]]
    other_homes: Mapping[str, Mapping[str, str]] = MappingProxyType(
        {
            " of a layer in another dtype": {"dtype": "float64"},
            " of a layer on another device": {"device": "meta"},
        }
    )

    def __init__(self) -> None:
        self.of_images_alone = False  # whether x must have four axes
        self._last_base: Any = None
        self._as_handed: Any = None  # a copy of it, as it was before the layer had it
        self.parts = {
            "base": self._handed_base,
            "base class": lambda wanted: nn.Conv2d if wanted.kind == "conv2d" else nn.Linear,
            "weight": lambda wanted: nn.Parameter(_base(wanted).weight.detach().clone()),
            "bias tensor": lambda wanted: nn.Parameter(torch.zeros(wanted.out)),
            "A": lambda wanted: nn.Linear(wanted.in_, wanted.rank, bias=False),
            "B": lambda wanted: nn.Linear(wanted.rank, wanted.out, bias=False),
            "A tensor": lambda wanted: nn.Parameter(torch.randn(wanted.rank, wanted.in_)),
            "B tensor": lambda wanted: nn.Parameter(torch.zeros(wanted.out, wanted.rank)),
            "A parts": lambda wanted: parts(wanted.rank, wanted.in_, wanted.groups, _home(wanted)),
            "B parts": lambda wanted: parts(_group_size(wanted), wanted.rank, wanted.groups, _home(wanted)),
            "device": lambda wanted: wanted.device or "cpu",
            "dtype": _dtype,
        }

    def _handed_base(self, wanted: Wanted) -> Any:
        self._last_base = _base(wanted)
        self._as_handed = copy.deepcopy(self._last_base)
        return self._last_base

    def finish(self, layer: Any, wanted: Wanted, constructor: Constructor) -> Any:
        if not isinstance(layer, nn.Module):
            raise NotAdoptedError(f"{constructor.name} returned {type(layer).__name__}, expected a torch.nn.Module")
        if constructor.groups and takes_images_alone(layer, wanted.in_):
            self.of_images_alone = True
            return OfImages(layer)
        if constructor.of_weights is None:
            constructor.of_weights = is_parametrization(layer) or _takes_weights_alone(layer, wanted)
        if constructor.of_weights:
            linear = _base(wanted)
            nn.utils.parametrize.register_parametrization(linear, "weight", layer)
            return linear
        if hasattr(layer, "apply_to") and self._last_base is not None:
            layer.apply_to()
            base, self._last_base = self._last_base, None
            base.lora = layer  # it replaces the base's forward, and is called through it
            return base
        _set_up(layer, wanted, constructor)
        _set_weight(layer, wanted, constructor)
        return layer if inspect.signature(layer.forward).parameters else OfItsWeight(layer, wanted)

    @contextmanager
    def made_in(self, dtype: str) -> Iterator[None]:
        """Makes layers in float64 where they are wanted so: a scale that one keeps as a tensor is not rounded."""
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64 if dtype == "float64" else before)
        try:
            yield
        finally:
            torch.set_default_dtype(before)

    @contextmanager
    def repeatable(self) -> Iterator[None]:
        """Layers that are made in here draw the same numbers each time, those that no role fills included. Memory that
        their author leaves as it is holds nan."""
        with torch.random.fork_rng(devices=[]), _empty_is_nan():
            torch.manual_seed(0)
            yield

    @contextmanager
    def unset(self) -> Iterator[None]:
        """Layers that are made in here hold no numbers (nan) but those that their own class sets."""

        def reset(linear: nn.Linear) -> None:
            for t in linear.parameters(recurse=False):
                t.data.fill_(torch.nan)

        before = nn.Linear.reset_parameters
        nn.Linear.reset_parameters = reset
        try:
            with _empty_is_nan():
                yield
        finally:
            nn.Linear.reset_parameters = before

    def with_base(self, path: Any, wanted: Wanted) -> tuple[Any, Based]:
        return WithBase(path, wanted), Based(Held("base.weight"), "base.bias", "path")

    def tensors(self, layer: Any) -> dict[str, Tensor]:
        return {
            path: Tensor(tuple(t.shape), kind, kind == "parameter" and t.requires_grad) for path, kind, t in walk(layer)
        }

    def read(self, layer: Any, path: str) -> np.ndarray:
        return held(layer, path).detach().double().numpy().copy()

    def write(self, layer: Any, path: str, array: np.ndarray) -> None:
        with torch.no_grad():
            held(layer, path).data.copy_(tensor(np.ascontiguousarray(array)))

    def cast(self, layer: Any, dtype: str) -> Any:
        to = getattr(torch, dtype)
        plain_ones = [(path, t) for path, kind, t in walk(layer) if kind == "plain" and t.is_floating_point()]
        layer.to("cpu", to)
        for path, t in plain_ones:  # torch does not know of them, so they would stay as they are
            owner, _, name = path.rpartition(".")
            setattr(layer.get_submodule(owner), name, t.detach().to("cpu", to).requires_grad_(t.requires_grad))
        return layer

    def value(self, layer: Any, x: np.ndarray, own_dropout: bool = False) -> np.ndarray:
        with torch.no_grad(), nullcontext() if own_dropout else dropout_as(None):
            layer.train()
            return call(layer, tensor(x)).double().numpy()

    def value_of_handed(self, x: np.ndarray) -> np.ndarray:
        """y of the base that was handed to the last layer, as it was before."""
        with torch.no_grad():
            return self._as_handed(tensor(x)).double().numpy()

    def evaluate(self, layer: Any, x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            layer.eval()
            return call(layer, tensor(x)).double().numpy()

    def differentiate(self, layer: Any, what: Pass) -> dict[str, Any]:
        layer.train()
        x = tensor(what.x)
        if x.is_floating_point():
            x.requires_grad_()
        leaves = {name: held(layer, path) for name, path in what.wrt.items()}
        for leaf in leaves.values():
            _trainable(leaf)
        with nullcontext() if what.own_dropout else dropout_as(what.mask):
            y = call(layer, x)
        y.backward(tensor(what.dy))
        dx = {"dx": x.grad} if x.requires_grad else {}
        return {"y": y, **dx, **{name: _gradient(leaf) for name, leaf in leaves.items()}}

    def numbers(self, array: Any) -> np.ndarray:
        return array.detach().double().numpy()

    def step(self, layer: Any, what: Pass) -> None:
        optimizer = torch.optim.SGD([p for p in layer.parameters() if p.requires_grad], lr=0.5)
        layer.train()
        with dropout_as(None):
            call(layer, tensor(what.x)).backward(tensor(what.dy))
        optimizer.step()

    def train(self, layer: Any, case: Case, paths: Sequence[str]) -> Any:
        layer.train()
        with dropout_as(None):
            return run_steps(case, partial(call, layer), [held(layer, path) for path in paths])["losses"]

    def saved(self, layer: Any) -> frozenset[str]:
        return frozenset(layer.state_dict())

    def dropped(self, layer: Any, x: np.ndarray) -> list[tuple[int, ...]]:
        layer.train()
        seen: list[tuple[int, ...]] = []
        with torch.no_grad(), dropout_as(None, seen):
            call(layer, tensor(x))
        return seen


@contextmanager
def _empty_is_nan() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def is_parametrization(layer: nn.Module) -> bool:
    """Whether forward takes a weight and returns another, as torch.nn.utils.parametrize wants it."""
    names = list(inspect.signature(type(layer).forward).parameters)[1:]
    return bool(names) and (is_weight(names[0]) or "arametri" in type(layer).__name__)


def _takes_weights_alone(layer: nn.Module, wanted: Wanted) -> bool:
    """Whether a low-rank path without a W raises with x, and gives a weight for a weight, whatever it calls that."""
    names = list(inspect.signature(layer.forward).parameters)
    if len(names) != 1 or any(tuple(t.shape) == (wanted.out, wanted.in_) for _, _, t in walk(layer)):
        return False
    try:
        with torch.no_grad():
            layer(torch.zeros(1, wanted.out + 1, wanted.in_))
    except Exception:  # a stranger's forward may raise anything
        with suppress(Exception), torch.no_grad():
            return tuple(layer(torch.zeros(wanted.out, wanted.in_)).shape) == (wanted.out, wanted.in_)
    return False


def held(layer: nn.Module, path: str) -> torch.Tensor:
    """The tensor at a path."""
    value: Any = layer
    for name in path.split("."):
        value = value[name] if isinstance(value, (nn.ModuleDict, nn.ParameterDict)) else getattr(value, name)
    return value


@contextmanager
def dropout_as(mask: np.ndarray | None, seen: list[tuple[int, ...]] | None = None) -> Iterator[None]:
    """Dropout multiplies with this mask, or does nothing. nn.Dropout goes through the same function of torch."""
    factor = None if mask is None else tensor(mask)

    def dropout(input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
        if not training or p == 0:
            return input
        if seen is not None:
            seen.append(tuple(input.shape))
        return input if factor is None else input * factor

    before = nn.functional.dropout
    nn.functional.dropout = dropout
    try:
        yield
    finally:
        nn.functional.dropout = before


def _base(wanted: Wanted) -> Any:
    """torch's own layer."""
    home = _home(wanted)
    if wanted.kind == "conv1d" or wanted.transposed:
        return Conv1D(wanted, home)
    if wanted.kind == "embedding":
        return nn.Embedding(wanted.in_, wanted.out, padding_idx=wanted.padding_idx, **home)
    if wanted.kind == "conv2d":
        places = {"stride": wanted.stride, "padding": wanted.padding, "dilation": wanted.dilation}
        return nn.Conv2d(wanted.in_, wanted.out, wanted.kernel, bias=wanted.bias, **places, **home)
    return nn.Linear(wanted.in_, wanted.out, bias=wanted.bias, **home)


def _home(wanted: Wanted) -> dict[str, Any]:
    return {"dtype": _dtype(wanted), "device": wanted.device or "cpu"}


def _group_size(wanted: Wanted) -> int:
    return wanted.out // len(wanted.groups)


def _dtype(wanted: Wanted) -> torch.dtype:
    return getattr(torch, wanted.dtype) if wanted.dtype else torch.get_default_dtype()


def call(layer: nn.Module, x: torch.Tensor, **given: torch.Tensor) -> torch.Tensor:
    """y; the first of a tuple. Raises NotAdoptedError for what cannot be called with x and what is given alone."""
    y = layer(x, **needed_by_call(layer, given), **given)
    y = only_array(y, torch.Tensor)
    if not isinstance(y, torch.Tensor):
        raise TypeError(f"forward returned {'None' if y is None else 'a ' + type(y).__name__}, expected a tensor")
    return y


def needed_by_call(layer: nn.Module, given: Container[str] = ()) -> dict[str, Any]:
    """What forward needs besides x and what it is given. Raises NotAdoptedError for what no rule knows."""
    found: dict[str, Any] = {}
    for p in list(inspect.signature(layer.forward).parameters.values())[1:]:
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) or p.default is not p.empty or p.name in given:
            continue
        if role_of(p.name) not in ("scale", "alpha"):
            raise NotAdoptedError(
                f"its forward needs {p.name}, which no rule knows. Write a layer around it whose forward takes x alone"
            )
        found[p.name] = 1.0
    return found


def walk(layer: nn.Module) -> Iterator[tuple[str, str, torch.Tensor]]:
    """path, kind and tensor, each tensor once. A plain one is an attribute that torch does not know of."""
    seen: set[int] = set()
    for prefix, module in layer.named_modules():
        kinds = {
            "parameter": module._parameters,
            "buffer": module._buffers,
            "plain": {name: value for name, value in vars(module).items() if isinstance(value, torch.Tensor)},
        }
        for kind, tensors in kinds.items():
            for name, t in tensors.items():
                if t is not None and id(t) not in seen:
                    seen.add(id(t))
                    yield f"{prefix}.{name}".lstrip("."), kind, t


def _trainable(t: torch.Tensor) -> None:
    if t.is_leaf:
        t.requires_grad_()
    else:
        t.retain_grad()


def _gradient(t: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(t) if t.grad is None else t.grad


def _set_up(layer: nn.Module, wanted: Wanted, constructor: Constructor) -> None:
    """Call what makes the factors, where the constructor made none."""
    sizes = sorted((wanted.rank, wanted.in_))
    if any(sorted(t.shape) == sizes for _, _, t in walk(layer)):
        return
    for name in dir(type(layer)):
        if name.startswith(SET_UP):
            values = {
                "rank": wanted.rank,
                "alpha": wanted.strength,
                "dropout": wanted.dropout,
                "scale": wanted.strength,
                "name": "default",
            }
            call = getattr(layer, name)
            parameters = inspect.signature(call).parameters.values()
            if any(p.default is p.empty and role_of(p.name) not in values for p in parameters):
                continue
            roles = {p.name: role for p in parameters if (role := role_of(p.name)) in values}
            call(**{name: values[role] for name, role in roles.items()})
            for name, role in roles.items():
                constructor.asked_elsewhere(role or "", name)
            return


def _set_weight(layer: nn.Module, wanted: Wanted, constructor: Constructor) -> None:
    """Call what takes the frozen weight, where the constructor took none."""
    if constructor.has("base", "weight"):
        return
    for name in dir(type(layer)):
        if re.fullmatch("|".join(SET_WEIGHT), name):
            linear = _base(wanted)
            getattr(layer, name)(linear if "linear" in name else nn.Parameter(linear.weight.detach().clone()))
            return
