"""Functions of named arrays that return y alone: f(x, W, A, B, alpha, r). The backward is the framework's own; NumPy
has none, so such a function is asked for y."""

import inspect
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from ..case import Case
from ..definition import RIGHT
from ..one_line import describe
from .adoption import Adoption
from .calls import first
from .law import CLOSE, Law, find_law, low_rank_scale
from .layer import RANKS
from .sentences import convention, scale_fact
from .wanted import PROBE, NotAdoptedError
from .words import array_role

Outputs = dict[str, Any]
_SHAPES = {"W": "(out, in)", "A": "(r, in)", "B": "(out, r)"}


@dataclass(frozen=True)
class ArrayFunction:
    """call: with its parameters' roles. home: "torch", "jax" or "numpy". transposed: the matrices that it takes
    transposed."""

    call: Callable[..., Any]
    roles: Mapping[str, str]
    home: str
    transposed: frozenset[str] = frozenset()

    def name_of(self, role: str) -> str:
        """The parameter that plays this role; "" if none does."""
        return next((name for name, played in self.roles.items() if played == role), "")

    def needs(self, role: str) -> bool:
        """Whether it takes this, and has no default for it."""
        name = self.name_of(role)
        return bool(name) and inspect.signature(self.call).parameters[name].default is inspect.Parameter.empty

    def given(self, arrays: Mapping[str, np.ndarray], strength: float, rank: int) -> dict[str, Any]:
        """{role: value} for what it takes. A whole strength goes in as it is annotated."""
        numbers = {"alpha": strength, "scale": 1.0 if self.name_of("alpha") else strength, "rank": rank}
        turned = {name: a.T if name in self.transposed else a for name, a in arrays.items()}
        return {role: {**turned, **numbers}[role] for role in self.roles.values() if role in turned or role in numbers}

    def value(self, given: Mapping[str, Any]) -> Any:
        """y, for values by role, in the framework's arrays. The base is added where the function takes no W."""
        return self.call(**{name: given[role] for name, role in self.roles.items() if role in given})


def takes_arrays(call: Any) -> bool:
    """Whether the parameters are x, A and B, perhaps with W, and nothing that no rule knows."""
    roles = _roles(call)
    return roles is not None and {"x", "A", "B"} <= set(roles.values())


def adopt_function(call: Any) -> tuple[dict[str, Callable[[Case], Outputs]], Adoption]:
    """The function that answers lora_linear, and what is said of it. Raises NotAdoptedError."""
    roles = _roles(call)
    assert roles is not None
    function = _oriented(call, roles, _home(call))
    parameter = function.name_of("alpha") or function.name_of("scale")
    law = find_law(lambda strength, rank: _scale(function, strength, rank), parameter, RANKS)
    scales, facts = law.slope if not law.parameter else None, tuple(scale_fact(law))
    found = (_found(function, law),)
    without = {"lora_linear": ("dx", "dA", "dB")} if function.home == "numpy" else {}
    adoption = Adoption(found, convention(law), scales, facts, without)
    return {"lora_linear": lambda case: _answer(function, law, case)}, adoption


def _answer(function: ArrayFunction, law: Law, case: Case) -> Outputs:
    """y, and where there is a backward dx, dA, dB."""
    for name in ("b", "mask"):
        if name in case and not function.name_of(name):
            raise NotImplementedError({"b": "has no bias", "mask": "has no dropout"}[name])
    config, rank = case.config, case["B"].shape[1]
    if config["use_rslora"] and law.kind in ("right", "fault"):
        raise NotImplementedError("has no rsLoRA")
    strength = float(config["alpha"])
    if law.kind == "convention" and law.parameter:
        strength = law.strength(RIGHT.scale(config), rank)
    neutral = {"b": np.zeros_like(case["W"][:, 0]), "mask": np.ones_like(case["x"])}  # where there must be one
    arrays = {name: t for name, t in neutral.items() if function.needs(name)}
    arrays |= {name: case[name] for name in ("x", "W", "A", "B", "b", "mask") if name in case}
    return _PASSES[function.home](function, arrays, case["dy"], strength, rank)


def _with_torch(f: ArrayFunction, arrays: Mapping[str, np.ndarray], dy: np.ndarray, strength: float, r: int) -> Outputs:
    import torch

    from ..libraries.torch_tools import tensor

    leaves = {name: tensor(a).requires_grad_(name in ("x", "A", "B")) for name, a in arrays.items()}
    y = first(_called(f, leaves, strength, r), torch.Tensor)
    y.backward(tensor(dy))
    zero = {name: torch.zeros_like(leaves[name]) for name in ("x", "A", "B")}
    return {"y": y, **{f"d{name}": zero[name] if leaves[name].grad is None else leaves[name].grad for name in zero}}


def _with_jax(f: ArrayFunction, arrays: Mapping[str, np.ndarray], dy: np.ndarray, strength: float, r: int) -> Outputs:
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)  # else there is no float64
    there = {name: jnp.asarray(a) for name, a in arrays.items()}
    wrt = {name: there[name] for name in ("x", "A", "B")}
    y, pull = jax.vjp(lambda wrt: first(_called(f, {**there, **wrt}, strength, r), jax.Array), wrt)
    return {"y": y, **{f"d{name}": gradient for name, gradient in pull(jnp.asarray(dy, y.dtype))[0].items()}}


def _with_numpy(f: ArrayFunction, arrays: Mapping[str, np.ndarray], dy: np.ndarray, strength: float, r: int) -> Outputs:
    return {"y": first(_called(f, arrays, strength, r), np.ndarray)}


_PASSES = {"torch": _with_torch, "jax": _with_jax, "numpy": _with_numpy}


def _called(function: ArrayFunction, arrays: Mapping[str, Any], strength: float, rank: int) -> Any:
    """y. Where the function takes no W, it is the low-rank path, and the base is added to it."""
    y = function.value(function.given(arrays, strength, rank))
    if function.name_of("W"):
        return y
    base = arrays["x"] @ arrays["W"].T
    return (y[0] if isinstance(y, tuple) else y) + (base if "b" not in arrays else base + arrays["b"])


def _roles(call: Any) -> dict[str, str] | None:
    """{parameter: role}; None if this is no such function."""
    if isinstance(call, type) or not callable(call):
        return None
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):  # no signature can be read
        return None
    names = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD, p.POSITIONAL_ONLY)]
    roles = {name: array_role(name, names) for name in names}
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if any(roles.get(name) is None for name in needed):
        return None
    return {name: role for name, role in roles.items() if role is not None}


def _home(call: Any) -> str:
    """The framework that the function's annotations name, else the one that its code and its file use."""
    plain = inspect.unwrap(call)
    words = [str(inspect.signature(plain)), *getattr(getattr(plain, "__code__", None), "co_names", ())]
    used = getattr(plain, "__globals__", {})
    modules = {name: getattr(value, "__name__", "") for name, value in used.items() if isinstance(value, ModuleType)}
    for home in _PASSES:
        if f"{home}." in words[0] or any(n in words for n, m in modules.items() if f"{m}.".startswith(f"{home}.")):
            return home
    roots = {module.partition(".")[0] for module in modules.values()}
    return next((home for home in ("torch", "jax") if home in roots or type(call).__module__.startswith(home)), "numpy")


def _oriented(call: Any, roles: dict[str, str], home: str) -> ArrayFunction:
    """The function with its matrices as it takes them. At sizes that differ, only the right way round goes through."""
    refusal: Exception | None = None
    matrices = [name for name in ("W", "A", "B") if name in roles.values()]
    for turned in itertools.chain.from_iterable(itertools.combinations(matrices, n) for n in range(len(matrices) + 1)):
        function = ArrayFunction(call, roles, home, frozenset(turned))
        try:
            y = _low_rank(function, 8.0, PROBE.rank)[0]
        except Exception as error:  # a stranger's function may raise anything
            refusal = refusal or error
            continue
        if y.shape == (PROBE.in_, PROBE.out):
            return function
    reason = "its y has another shape than (..., out)"
    if refusal is not None:
        reason = f"it raises with W, A and B whichever way round they are, {describe(refusal).rstrip('.')}"
    raise NotAdoptedError(f"{reason}. Write lora_linear(case) that calls it, and check that")


def _low_rank(function: ArrayFunction, strength: float, rank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """y for x = I, W, and A^T B^T."""
    rng = np.random.default_rng(rank)
    W, A, B = (rng.normal(size=shape) for shape in ((PROBE.out, PROBE.in_), (rank, PROBE.in_), (PROBE.out, rank)))
    arrays = {"x": np.eye(PROBE.in_), "W": W, "A": A, "B": B}
    if function.name_of("b"):
        arrays["b"] = np.zeros(PROBE.out)
    if function.name_of("mask"):
        arrays["mask"] = np.ones((PROBE.in_, PROBE.in_))
    dy = np.zeros((PROBE.in_, PROBE.out))
    y = _PASSES[function.home](function, arrays, dy, strength, rank)["y"]
    return np.asarray(y.detach() if hasattr(y, "detach") else y, dtype=np.float64), W, A.T @ B.T


def _scale(function: ArrayFunction, strength: float, rank: int) -> float:
    y, W, product = _low_rank(function, strength, rank)
    s, left = low_rank_scale(y - W.T, product)
    return s if left < CLOSE else float("nan")


def _found(function: ArrayFunction, law: Law) -> str:
    def shape(role: str) -> str:
        one, other = _SHAPES[role].strip("()").split(", ")
        return f"({other}, {one})" if role in function.transposed else _SHAPES[role]

    pieces = [f"{name} {shape(role)}" for name, role in function.roles.items() if role in _SHAPES]
    s = [] if law.kind == "fault" else [f"s = {law.formula}"]
    name = getattr(function.call, "__name__", "it")
    return f"{name}({', '.join(function.roles)}), a function in {function.home}: {'; '.join([*pieces, *s])}."
