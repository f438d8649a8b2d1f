"""Arrays that know by which formula they were computed, so that one term inside an op can be found and changed.

An op runs on them as on any arrays: its code is its own. Each result that is computed, and not just moved about, is a
term. A term is known by its formula in the names of the op's arguments, without those that may be absent: h = x A^T in
lora_linear has the same formula with dropout and without.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from ...ops import namespace as ops_namespace
from ...support.array import Array

OPTIONAL = frozenset({"mask", "b", "key_mask"})

_SUM, _QUOTIENT, _PRODUCT, _ATOM = range(4)  # how tightly a formula holds together
_NUMBER_FUNCTIONS = ("sigmoid", "normal_cdf", "normal_pdf")  # one step, whatever the namespace makes of them
_MOVES = ("reshape", "permute_dims", "expand_dims", "broadcast_to", "concat", "stack", "take", "where", "astype", "max")
_NAMED = {"normal_cdf": "Phi", "normal_pdf": "phi"}

Term = tuple[str, str]  # (FORWARD or BACKWARD, formula)
FORWARD, BACKWARD = "forward", "backward"


class Symbol(float):
    """A number with a name, such as the scale."""

    name: str

    def __new__(cls, name: str, value: float) -> "Symbol":
        self = super().__new__(cls, value)
        self.name = name
        return self

    def __neg__(self) -> "Symbol":
        return Symbol(f"-{self.name}", -float(self))


@dataclass
class Trace:
    """One call of an op, in which the terms `edited` are changed.

    terms: what was computed, by formula, as it was. scaled: formulas that only a number was put before.
    """

    edited: frozenset[Term] = frozenset()
    change: Callable[[Array], Array] | None = None
    phase: str = FORWARD
    terms: dict[Term, Any] = field(default_factory=dict)
    scaled: set[str] = field(default_factory=set)

    def argument(self, name: str, value: Any) -> Any:
        if isinstance(value, float):
            return Symbol(name, value)
        return Traced(value, name, _ATOM, self) if hasattr(value, "__array_namespace__") else value

    def computed(self, t: Any, formula: str, level: int) -> Any:
        """The result, changed where its term is to be: once in each phase, since what is optional has no formula."""
        term = (self.phase, formula)
        if term not in self.terms:
            self.terms[term] = t
            if self.change is not None and term in self.edited:
                t = self.change(t)
        return Traced(t, formula, level, self)


class Traced:
    """An array of any namespace, and its formula."""

    __slots__ = ("formula", "level", "t", "trace")
    __array_ufunc__ = None  # NumPy's arrays leave operators to this class

    def __init__(self, t: Any, formula: str, level: int, trace: Trace) -> None:
        self.t, self.formula, self.level, self.trace = t, formula, level, trace

    def __array_namespace__(self, api_version: str | None = None) -> "_Namespace":
        return _namespace(self.t.__array_namespace__())

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.t.shape)

    @property
    def ndim(self) -> int:
        return int(self.t.ndim)

    @property
    def dtype(self) -> Any:
        return self.t.dtype

    @property
    def T(self) -> "Traced":
        return self._transposed(self.t.T)

    @property
    def mT(self) -> "Traced":
        return self._transposed(self.t.mT)

    def _transposed(self, t: Any) -> "Traced":
        undone = self.formula.endswith("^T") and self.level == _ATOM
        formula = self.formula[:-2].strip() if undone else f"{_held(self, _ATOM)}^T"
        return Traced(t, formula, _ATOM, self.trace)

    def __getitem__(self, key: Any) -> "Traced":
        return self._moved(self.t[bare(key)])

    def _moved(self, t: Any) -> "Traced":
        return Traced(t, self.formula, self.level, self.trace)

    def __int__(self) -> int:
        return int(self.t)

    def __float__(self) -> float:
        return float(self.t)

    def __bool__(self) -> bool:
        return bool(self.t)

    def __neg__(self) -> "Traced":
        return self._of(-self.t, f"-{_held(self, _QUOTIENT)}", _QUOTIENT)

    def __matmul__(self, other: Any) -> Any:
        return self._of(self.t @ bare(other), f"{_held(self, _PRODUCT)} {_held(other, _PRODUCT)}", _PRODUCT)

    def __add__(self, other: Any) -> Any:
        if _is_optional(other):
            return self._moved(self.t + bare(other))
        return self._of(self.t + bare(other), f"{self.formula} + {_text(other)}", _SUM)

    def __radd__(self, other: Any) -> Any:
        return self._of(bare(other) + self.t, f"{_text(other)} + {self.formula}", _SUM)

    def __sub__(self, other: Any) -> Any:
        return self._of(self.t - bare(other), f"{self.formula} - {_held(other, _QUOTIENT)}", _SUM)

    def __rsub__(self, other: Any) -> Any:
        return self._of(bare(other) - self.t, f"{_text(other)} - {_held(self, _QUOTIENT)}", _SUM)

    def __mul__(self, other: Any) -> Any:
        t = self.t * bare(other)
        if _is_optional(other):
            return self._of(t, self.formula, self.level)
        if not isinstance(other, Traced) or other.shape == ():
            self.trace.scaled.add(self.formula)
            return self._of(t, f"{_held(other, _PRODUCT)} {_held(self, _PRODUCT)}", _PRODUCT)
        return self._of(t, f"{_held(self, _QUOTIENT)} o {_held(other, _QUOTIENT)}", _QUOTIENT)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        t = self.t / bare(other)
        if _text(other) == f"sum({self.formula})" and self.formula.startswith("exp("):
            return self._of(t, f"softmax{self.formula.removeprefix('exp').removesuffix(' - max)')})", _ATOM)
        return self._of(t, f"{_held(self, _QUOTIENT)} / {_held(other, _PRODUCT)}", _QUOTIENT)

    def __rtruediv__(self, other: Any) -> Any:
        return self._of(bare(other) / self.t, f"{_held(other, _QUOTIENT)} / {_held(self, _PRODUCT)}", _QUOTIENT)

    def __pow__(self, other: Any) -> Any:
        return self._of(self.t ** bare(other), f"{_held(self, _ATOM)}^{_text(other)}", _ATOM)

    def __rpow__(self, other: Any) -> Any:
        return self._of(bare(other) ** self.t, f"{_text(other)}^{_held(self, _ATOM)}", _ATOM)

    def __and__(self, other: Any) -> Any:
        return self._moved(self.t & bare(other))

    def __eq__(self, other: object) -> Any:
        t = self.t == bare(other)
        return self._of(t, f"{self.formula} = {_text(other)}", _SUM) if isinstance(other, Traced) else self._moved(t)

    def __ne__(self, other: object) -> Any:
        return self._moved(self.t != bare(other))

    def __lt__(self, other: Any) -> Any:
        return self._moved(self.t < bare(other))

    def __le__(self, other: Any) -> Any:
        return self._moved(self.t <= bare(other))

    def __gt__(self, other: Any) -> Any:
        return self._moved(self.t > bare(other))

    def __ge__(self, other: Any) -> Any:
        return self._moved(self.t >= bare(other))

    __hash__ = None  # type: ignore[assignment]

    def _of(self, t: Any, formula: str, level: int) -> Any:
        return self.trace.computed(t, formula, level)


def bare(value: Any) -> Any:
    """Without formulas: an array, or a tuple, list or dictionary of arrays."""
    if isinstance(value, Traced):
        return value.t
    if isinstance(value, Symbol):
        return float(value)
    if type(value) in (tuple, list):
        return type(value)(map(bare, value))
    return {name: bare(one) for name, one in value.items()} if type(value) is dict else value


def _text(value: Any) -> str:
    if isinstance(value, Traced):
        return value.formula
    if isinstance(value, Symbol):
        return value.name
    is_whole = isinstance(value, int | float) and value == int(value) and abs(value) < 10
    return f"{value:.0f}" if is_whole else "c"  # another in each case, such as 1 / sqrt(D)


def _held(value: Any, level: int) -> str:
    """The formula, in brackets unless it holds together as tightly as this."""
    text = _text(value)
    return f"({text})" if isinstance(value, Traced) and value.level < level else text


def _is_optional(value: Any) -> bool:
    return isinstance(value, Traced) and value.formula in OPTIONAL


@lru_cache(maxsize=8)  # ops ask whether two arrays have the same namespace, and mean the same object
def _namespace(xp: Any) -> "_Namespace":
    return _Namespace(xp)


class _Namespace:
    """The functions of an array's namespace, on arrays with formulas."""

    def __init__(self, xp: Any) -> None:
        self._xp = xp
        self.__name__ = xp.__name__
        for name in _NUMBER_FUNCTIONS:
            setattr(self, name, self._function(_NAMED.get(name, name), getattr(ops_namespace, name)))

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._xp, name)
        if isinstance(member, type) or not callable(member) or name in ("isdtype", "finfo"):
            return member
        found = self._move(name, member) if name in _MOVES else self._function(name, member)
        setattr(self, name, found)
        return found

    def _function(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that computes something new of its first argument, or makes an array of nothing."""

        def traced(*args: Any, **how: Any) -> Any:
            result = function(*bare(args), **bare(how))
            of = args[0] if args and isinstance(args[0], Traced) else None
            if not hasattr(result, "__array_namespace__"):
                return result
            if of is None or name.endswith("_like"):
                return Traced(result, "v" if name == "arange" else "0", _ATOM, of.trace if of is not None else _NOWHERE)
            return of.trace.computed(result, _applied(name, of.formula), _ATOM)

        return traced

    def _move(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that moves the numbers of its arrays about, or chooses among them."""

        def traced(*args: Any, **how: Any) -> Any:
            result = function(*bare(args), **bare(how))
            if not hasattr(result, "__array_namespace__"):
                return result
            if name == "max":
                return Traced(result, "max", _ATOM, args[0].trace)
            arrays = [a for a in (args[0] if type(args[0]) in (tuple, list) else args) if isinstance(a, Traced)]
            if name == "where":
                return _chosen(result, *arrays)
            if name == "take" and len(arrays) > 1 and arrays[1].formula != "0":
                return arrays[0].trace.computed(result, f"{arrays[0].formula}[{arrays[1].formula}]", _ATOM)
            return arrays[0]._moved(result)

        return traced


def _applied(name: str, formula: str) -> str:
    """name(formula); |V| for the root of a sum of squares."""
    squared = formula.removeprefix("sum(").removesuffix(")")
    if name == "sqrt" and formula == f"sum({squared})":
        half = squared[: (len(squared) - 3) // 2]
        if squared == f"{half} o {half}":
            return f"|{half.removeprefix('(').removesuffix(')') if half.startswith('(') else half}|"
    return f"{name}({formula})"


def _chosen(result: Any, condition: Traced, *choices: Traced) -> Traced:
    """where(condition, a, b): a's formula, unless a is nothing; a mask is optional. A condition such as labels = v is
    not: it picks one of each row, which is a term."""
    first = next((one for one in choices if one.formula != "0"), choices[0])
    if " = " in condition.formula and len(choices) == 2 and choices[1].formula == "0":
        return first.trace.computed(result, f"({first.formula} at {condition.formula})", _ATOM)
    return first._moved(result)


_NOWHERE = Trace()
