"""Asking the subject again, with questions made for the purpose, and comparing how its answers respond.

An output that no hypothesis explains can still be narrowed down: by what it depends on, how fast it grows, and which
tokens it sees. Each question changes one thing in a case. The right response comes from the definition, so there is no
table of what depends on what.

    depends    one input is changed: does the output change with it? Also asked at B = 0
    grows      one input, or alpha, is doubled and tripled: by how much should the output grow, if it is linear?
    sees       one token of x is changed: which tokens of the output change?
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..case import Case, is_dropout_mask
from ..contracts import CONTRACTS
from ..report import Claim, Observed
from ..tolerance.judge import Right, format_factor, right_answer
from .precision import Ask
from .words import listed

_CLEAR = 64.0  # a change of so many times what is allowed is one; up to 4 times may be rounding
_NONE = 4.0
_SEED = 4
_ORDERS = 3  # in which masks and ids are asked


@dataclass(frozen=True)
class _Asked:
    """One case with what came back and what is right, both in float64."""

    case: Case
    got: Mapping[str, np.ndarray]
    right: Mapping[str, np.ndarray]
    allowed: Mapping[str, float]  # the largest error that is allowed in each output


def interrogate(one: Observed, outputs: Sequence[str], ask: Ask) -> list[Claim]:
    """What the responses of these outputs say about them; one claim for each output that responds wrongly."""
    before = _ask(one.case, ask)
    if before is None:
        return []
    says: dict[str, list[str]] = {}
    for question in (_dependence(before, "", ask), _at_zero(before, ask), _growth(before, ask), _tokens(before, ask)):
        for name, sentence in question:
            if name in outputs and len(says.setdefault(name, [])) < 2:
                says[name].append(sentence)
    together: dict[str, list[str]] = {}
    for name, sentences in says.items():
        together.setdefault("; ".join(sentences), []).append(name)
    return [Claim((), tuple(names), f"{listed(names)}: {clause}.") for clause, names in together.items()]


def _ask(case: Case, ask: Ask) -> _Asked | None:
    outputs = ask(case)
    right = right_answer(case, CONTRACTS[case.contract].answer)
    if outputs is None or not all(isinstance(r, Right) for r in right.values()):
        return None
    rights = {name: r for name, r in right.items() if isinstance(r, Right) and name in outputs}
    if any(outputs[name].dtype.kind != "f" for name in rights):
        return None
    got = {name: outputs[name].astype(np.float64) for name in rights}
    if any(got[name].shape != r.shape or not np.isfinite(got[name]).all() for name, r in rights.items()):
        return None
    values = {name: r.value for name, r in rights.items()}
    return _Asked(case, got, values, {name: float(np.max(r.allowed, initial=0.0)) for name, r in rights.items()})


def _dependence(before: _Asked, where: str, ask: Ask) -> Iterator[tuple[str, str]]:
    """Outputs that depend on an input and should not, or the other way round."""
    rng = np.random.default_rng(_SEED)
    for name, array in before.case.arrays.items():
        times = _ORDERS if _is_permuted(array) else 1  # one other order may be the same for who uses a part of them
        asked = [_ask(before.case.with_arrays({name: _changed(array, rng)}), ask) for _ in range(times)]
        after = [one for one in asked if one is not None]
        what = f"the order of {name}" if times > 1 else name
        for output in before.got if len(after) == times else ():
            got, right = (
                [_moves(getattr(before, side), getattr(one, side), output, before) for one in after]
                for side in ("got", "right")
            )
            if any(right) and all(one is False for one in got):
                yield output, f"{where}it does not depend on {what}, but should"
            elif any(got) and all(one is False for one in right):
                yield output, f"{where}it depends on {what}, but should not"


def _changed(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Other numbers of the same kind: masks and ids are permuted, so they stay what they are."""
    if _is_permuted(array):
        return rng.permutation(array.reshape(-1)).reshape(array.shape)
    return (array.astype(np.float64) * rng.uniform(0.5, 1.5, array.shape)).astype(array.dtype)


def _is_permuted(array: np.ndarray) -> bool:
    return array.dtype.kind in "biu" or set(np.unique(array.astype(np.float64))) <= {
        0.0,
        float(np.max(array, initial=0)),
    }


def _moves(
    before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray], output: str, asked: _Asked
) -> bool | None:
    """Whether an output changes; None where that is unclear."""
    change = float(np.max(np.abs(after[output] - before[output]), initial=0.0))
    if change > _CLEAR * asked.allowed[output]:
        return True
    return False if change <= _NONE * asked.allowed[output] else None


def _at_zero(before: _Asked, ask: Ask) -> Iterator[tuple[str, str]]:
    """The same at B = 0, where the low-rank path gives nothing."""
    zeros = {name: np.zeros_like(a) for name, a in before.case.arrays.items() if name[0] == "B"}
    start = _ask(before.case.with_arrays(zeros), ask) if zeros else None
    if start is not None:
        yield from _dependence(start, "at B = 0 ", ask)


def _growth(before: _Asked, ask: Ask) -> Iterator[tuple[str, str]]:
    """Outputs that do not grow as they should when one input, or alpha, is doubled and tripled."""
    case = before.case
    for name, times in _multiples(case).items():
        twice, thrice = (_ask(times(n), ask) for n in (2, 3))
        if twice is None or thrice is None:
            continue
        for output, allowed in before.allowed.items():
            got, right = ([getattr(t, side)[output] for t in (before, twice, thrice)] for side in ("got", "right"))
            right_factor, factor = _factor(right[0], right[1], allowed), _factor(got[0], got[1], allowed)
            if right_factor is not None and factor is not None:
                if abs(factor - right_factor) > max(1e-3, _uncertainty(got[0], allowed)) * max(abs(right_factor), 1.0):
                    expected = format_factor(round(right_factor, 6))
                    yield (
                        output,
                        f"with twice {name} it is {format_factor(round(factor, 6))} times, expected {expected}",
                    )
            elif _is_linear(right, allowed) and _is_bent(got, allowed):
                yield output, f"it is not linear in {name}, but should be"


def _multiples(case: Case) -> dict[str, Callable[[int], Case]]:
    """{input: the case with so many times that input}, for numbers, and for alpha."""

    def of_array(name: str) -> Callable[[int], Case]:
        return lambda n: case.with_arrays({name: (n * case[name]).astype(case[name].dtype)})

    multiples = {name: of_array(name) for name, a in case.arrays.items() if _can_double(name, a)}
    alpha = case.config.get("alpha")
    if isinstance(alpha, int | float):
        multiples["alpha"] = lambda n: replace(case, config={**case.config, "alpha": n * alpha})
    return multiples


def _is_linear(at: Sequence[np.ndarray], allowed: float) -> bool:
    """Whether three values at even distances are on a line, and not all the same."""
    return bool(np.all(np.abs(at[2] - 2.0 * at[1] + at[0]) <= 8.0 * _NONE * allowed) and np.any(at[1] != at[0]))


def _is_bent(at: Sequence[np.ndarray], allowed: float) -> bool:
    return bool(np.max(np.abs(at[2] - 2.0 * at[1] + at[0]), initial=0.0) > 8.0 * _CLEAR * allowed)


def _can_double(name: str, array: np.ndarray) -> bool:
    return array.dtype.kind not in "biu" and not is_dropout_mask(name) and bool(np.any(array))


def _factor(before: np.ndarray, after: np.ndarray, allowed: float) -> float | None:
    """The number c with after = c before; None if there is none."""
    energy = float(np.sum(before * before))
    if before.size < 2 or energy == 0:
        return None
    c = float(np.sum(before * after)) / energy
    return c if np.all(np.abs(after - c * before) <= _NONE * (1.0 + abs(c)) * allowed) else None


def _uncertainty(before: np.ndarray, allowed: float) -> float:
    """By how much a factor may be off: a number that is small has a factor of its own within what is allowed."""
    return _CLEAR * allowed / float(np.sqrt(np.mean(before * before)))


def _tokens(before: _Asked, ask: Ask) -> Iterator[tuple[str, str]]:
    """Outputs whose tokens see a token of x that they should not see, or miss one that they should."""
    x = before.case.arrays.get("x")
    if x is None or x.ndim < 2 or x.dtype.kind in "biu":
        return
    for token in (0, x.shape[-2] - 1):
        other = x.astype(np.float64)
        other[..., token, :] *= -0.5
        after = _ask(before.case.with_arrays({"x": other.astype(x.dtype)}), ask)
        if after is None:
            continue
        for output in ("y", "dx"):
            if output not in before.got or before.got[output].shape[:-1] != x.shape[:-1]:
                continue
            got, right = (
                _moved_tokens(t[output], u[output], before.allowed[output])
                for t, u in ((before.got, after.got), (before.right, after.right))
            )
            for wrong, verb in ((got[0] & right[1], "depends"), (got[1] & right[0], "does not depend")):
                if wrong.any():
                    at = int(np.argmax(wrong))
                    should = "but should not" if verb == "depends" else "but should"
                    yield output, f"its token {at} {verb} on token {token} of x, {should}"
                    break


def _moved_tokens(before: np.ndarray, after: np.ndarray, allowed: float) -> tuple[np.ndarray, np.ndarray]:
    """Which tokens change for certain, and which for certain do not."""
    change = np.abs(after - before).reshape(-1, *before.shape[-2:]).max(axis=(0, 2))
    return change > _CLEAR * allowed, change <= _NONE * allowed
