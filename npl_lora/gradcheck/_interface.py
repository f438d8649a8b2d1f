"""The op under test: it is called as the interface says, and every call is watched.

    y, pullback = op(**inputs, **config)
    grads       = pullback(dy)                      # {name: gradient}
    grads       = pullback(dy, wrt=names)           # only when the pullback has `.inputs`

The gradients expected are those named by `pullback.inputs`. A pullback without this attribute must give one for every
floating array among the inputs. Everything in config is a constant, including arrays.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Array = Any  # not support.array's: gradcheck stands alone, and serves code that is not of this project


class CannotJudge(Exception):
    """The method cannot judge this op; the message says why. That is not a pass, and not a fault of the gradient."""


class OpUnderTest:
    """One call of an op, and what its pullback answers.

    The op gets copies of its arguments, so a comparison with the originals shows whether it wrote into them.

    names: the inputs to check.
    gradients: {name: the distinct answers} for each name with a gradient of the right shape. The pullback is asked for
        all names at once, for its default, and for each name alone, and every answer has to be right.
    faults: what is wrong, as pairs (name of an input or "", sentence).
    """

    def __init__(self, op: Callable[..., Any], inputs: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        self._op = op
        self.inputs = dict(inputs)
        self._config = dict(config)
        self.faults: list[tuple[str, str]] = []
        self.gradients: dict[str, list[Array]] = {}
        self._arguments = {**copies(self.inputs), **copies(self._config)}
        y, self._pullback = _pair(op(**self._arguments))
        self.y = as_array(y).copy()
        self._note_changes("the forward")
        self._named = hasattr(self._pullback, "inputs")
        self.names = self._differentiable()

    def value(self, changes: Mapping[str, Array] | None = None) -> Array:
        """y, with some inputs changed."""
        given = {**copies(self.inputs | dict(changes or {})), **copies(self._config)}
        return as_array(_pair(self._op(**given))[0])

    def ask(self, dy: Array) -> None:
        """Get the gradients, in every way in which they can be asked for."""
        self.dy = dy
        answers = [self._answer(dy, self.names if self._named else None)]
        if self._named:
            answers += [self._answer(dy, None), *(self._answer(dy, (name,)) for name in self.names)]
        self._first = answers[0]
        for name in self.names:
            shape = self.inputs[name].shape
            got = [answer[name] for answer in answers if name in answer]
            kinds = "fiuO" if dy.dtype == object else "fiu"
            if odd := [g for g in got if g.dtype.kind not in kinds]:
                self._fault(name, f"the gradient is {describe(odd[0])}, expected {dy.dtype}")
            elif wrong := [g for g in got if g.shape != shape]:
                self._fault(name, f"the gradient has shape {wrong[0].shape}, expected {shape}")
            elif got:
                self.gradients[name] = _distinct(got)
        for name, g in self._answer(np.zeros_like(dy), self.names if self._named else None).items():
            if not np.all(g == 0):
                self._fault(name, "a zero dy gives a gradient that is not zero")

    def ask_again(self) -> None:
        """Ask once more, after all other calls: the same questions must get the same answers, bit by bit."""
        again = self._answer(self.dy, self.names if self._named else None)
        for name, g in self._first.items():
            if name in again and not same_bits(g, again[name]):
                self._fault(name, "a second call of the pullback with the same dy gives another gradient")
        if not same_bits(self.y, self.value()):
            self._fault("", "a second call of the op gives another y: it keeps state or draws numbers")

    def in_longdouble(self) -> "OpUnderTest":
        """The same in longdouble. Raises CannotJudge where longdouble has no more digits or the op cannot run in it."""
        if np.finfo(np.longdouble).eps > 0.01 * np.finfo(self.dy.dtype).eps:
            raise CannotJudge("longdouble has no more digits")
        inputs = {n: v.astype(np.longdouble) if is_floating(v) else v for n, v in self.inputs.items()}
        try:
            wide = OpUnderTest(self._op, inputs, self._config)
            wide.ask(self.dy.astype(np.longdouble))
        except Exception as error:
            raise CannotJudge(f"the op does not run in longdouble ({error})") from error
        return wide

    def _differentiable(self) -> tuple[str, ...]:
        candidates = self._pullback.inputs if self._named else self.inputs
        fit = [name for name in candidates if _fits(self.inputs.get(name))]
        names = tuple(fit)
        for name in candidates if self._named else ():
            if name not in fit and name not in self._config:
                came = describe(self.inputs.get(name))
                raise ValueError(f"the pullback differentiates {name}: it is {came}, expected a floating array")
        if not names:
            raise ValueError("inputs has nothing to differentiate, expected at least one floating array")
        return names

    def _answer(self, dy: Array, names: tuple[str, ...] | None) -> dict[str, Array]:
        """One call of the pullback. The answer is copied, because a pullback may reuse its buffers."""
        given = dy.copy()
        grads = self._call(given, names)
        if not isinstance(grads, Mapping):
            raise CannotJudge(f"the pullback returned {describe(grads)}, expected a mapping of names to gradients")
        if not same_bits(given, dy):
            self._fault("", "the pullback changes dy")
        self._note_changes("the pullback")
        present = {name: g for name, g in grads.items() if g is not None}  # None is no gradient
        self._check_names(set(present), names)
        return {name: as_array(g).copy() for name, g in present.items() if name in self.names}

    def _call(self, dy: Array, names: tuple[str, ...] | None) -> Any:
        """Call the pullback. A KeyError with the name of an input means that the backward leaves that one out."""
        try:
            return self._pullback(dy) if names is None else self._pullback(dy, wrt=names)
        except KeyError as error:
            missing = error.args[0] if error.args else None
            if missing not in self.names:
                raise
            self._fault(missing, "no gradient was returned")
            rest = tuple(name for name in names or self.names if name != missing)
            return self._call(dy, rest) if self._named and rest else {}

    def _check_names(self, got: set[str], names: tuple[str, ...] | None) -> None:
        if names is None and self._named:
            expected = set(self._pullback.inputs) - set(getattr(self._pullback, "frozen", ()))
            when = " by default"
        else:
            expected = set(self.names if names is None else names)
            when = ""
        for name in sorted(expected - got - set(self._config)):
            self._fault(name, f"no gradient was returned{when}")
        for name in sorted(map(str, got - expected - set(self._config))):
            if self._named and name in self._pullback.inputs:
                self._fault(name, f"a gradient was returned that was not asked for{when}")
            else:
                known = ", ".join(self.names)
                self._fault("", f"a gradient was returned for {name!r}, expected names among {known}")

    def _note_changes(self, who: str) -> None:
        for name, original in {**self.inputs, **self._config}.items():
            if isinstance(original, np.ndarray) and not same_bits(original, self._arguments[name]):
                self._fault(name, f"{who} changes this input")

    def _fault(self, name: str, sentence: str) -> None:
        if name and name not in self.inputs:  # an array of config
            name, sentence = "", f"{name}: {sentence}"
        # A fault that is there for all names is there by default too; it is listed once.
        if not any(n == name and sentence.startswith(s) for n, s in self.faults):
            self.faults.append((name, sentence))


def as_array(value: Any) -> Array:
    """The value as an array. A lone Python integer becomes an object array: NumPy would squeeze it into 64 bits."""
    return np.asarray(value, dtype=object) if type(value) is int else np.asarray(value)


def _distinct(arrays: list[Array]) -> list[Array]:
    return [a for i, a in enumerate(arrays) if not any(same_bits(a, b) for b in arrays[:i])]


def _pair(result: Any) -> tuple[Any, Any]:
    if not isinstance(result, tuple) or len(result) != 2 or not callable(result[1]):
        raise TypeError(f"op returned {describe(result)}, expected a pair (y, pullback)")
    return result


def widen(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Floating arrays in float64 (longdouble if one of them is), everything else unchanged."""
    floating = [value for value in inputs.values() if is_floating(value)]
    dtype = np.result_type(np.float64, *floating) if floating else np.float64
    return {name: value.astype(dtype) if is_floating(value) else value for name, value in inputs.items()}


def copies(values: Mapping[str, Any]) -> dict[str, Any]:
    return {n: value.copy("K") if isinstance(value, np.ndarray) else value for n, value in values.items()}


def same_bits(a: Array, b: Array) -> bool:
    """Whether two arrays have the same bits; for arrays of Python integers, the same numbers."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype == object:
        return bool(a.tolist() == b.tolist())
    if a.dtype.char in "gG":  # longdouble, whose unused bytes hold anything
        return np.array_equal(a, b, equal_nan=True)
    return a.tobytes() == b.tobytes()


def is_floating(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def _fits(value: Any) -> bool:
    return is_floating(value) or is_integers(value)


def is_integers(value: Any) -> bool:
    """Whether it is an array of Python integers, as the exact check draws them."""
    return isinstance(value, np.ndarray) and value.dtype == object


def describe(value: Any) -> str:
    """The type of a value, for a sentence: None, an array of int64, a list."""
    if value is None:
        return "None"
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}"
    article = "an" if type(value).__name__[0] in "aeiou" else "a"
    return f"{article} {type(value).__name__}"
