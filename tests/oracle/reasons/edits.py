"""Wrong formulas that the catalogue does not have: one argument, term or gradient of one op changed at random.

The change is in the op's value, in its pullback or in both; in all calls of the op or in one (the q projection, say).
An edit is drawn again if it changes no number, or exactly those that a fault of the catalogue changes.
"""

import inspect
import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np

from npl_lora.ops import Pullback
from npl_lora.oracle import CONTRACTS
from npl_lora.oracle.definition import RIGHT
from npl_lora.oracle.faults.relevant import parts_used, relevant_to

from .plain import OTHER_ACTIVATIONS, PLAIN
from .subject import NUMBERS, Function, attempt, changed, combined, false_ids, float64_cases, same, variants

COLUMNS = {
    "where": "the sentence names the op, the argument, the place, or what an output is made up of (read by its words)",
    "true id": "every id explains some failing output",
    "other": "another sentence",
    "silent": "there is no sentence",
    "false precision": "the sentence speaks of a precision or of rounding, and nothing was rounded",
    "false id": "some id explains no failing output",
    "passed": "nothing was judged wrong (not counted in the shares)",
}
BAD = ("false precision", "false id", "other", "silent")
CALLS = {
    ("lora_attention", "lora_linear"): "qkvo",
    ("lora_attention", "rope"): "qk",
    ("lora_mlp", "lora_linear"): ("gate", "up", "down"),
}
PRECISION = re.compile(r"b?float\d+|tf32|\b[bf]p?(16|32)\b|significand|\bround(ed|ing|s)?\b|truncat|\d-bit", re.I)
CASE_ID = re.compile(r"\w+/[\w-]+/\w+")
PLACE = r"\b(tokens?|heads?|ranks?|rows?|columns?|index|axis|positions?|neighbour|entry|entries|element)\b"
SHARE = r"\b(times|minus|zero|factor|doubled?|half|halved|missing|left out|lacks|term|comes? of)\b|="


@dataclass(frozen=True)
class Edit:
    """change(t) -> t of one name of one op; when: "value", "pullback" or "both"; call: its number, or None for all."""

    op: str
    name: str
    kind: str
    when: str
    call: int | None
    change: Callable[[Any], Any]

    def answer(self, contract, arrays, config):
        return CONTRACTS[contract].answer(arrays, config, RIGHT.wrapped(**{self.op: self._wrap}))

    def _wrap(self, op):
        if self.op == "scale":
            return lambda config: self.change(op(config))
        number = itertools.count()

        def edited(*args, **kwargs):
            if self.call not in (None, next(number)):
                return op(*args, **kwargs)
            arguments = bound(op, args, kwargs)
            return combined(op, partial(self._wrong, op), self.when)(**arguments)

        return edited

    def _touch(self, name, t):
        return self.change(t) if name == self.name and t is not None else t

    def _wrong(self, op, **arguments):
        arguments = {name: self._touch(name, t) for name, t in arguments.items()}
        plain = PLAIN.get(self.op)
        result = plain(self._touch, **arguments) if plain else op(**arguments)
        if not (isinstance(result, tuple) and isinstance(result[1], Pullback)):
            return (self._touch("y", result[0]), *result[1:]) if isinstance(result, tuple) else self._touch("y", result)
        y, pullback = self._touch("y", result[0]), result[1]

        def backward(dy, wrt):
            grads = pullback(self._touch("dy", dy), wrt=wrt)
            return {name: self._touch(f"d{name}", grad) for name, grad in grads.items()}

        return y, Pullback(backward, result[0], pullback.inputs, pullback.frozen)


def bound(op, args, kwargs):
    """The arguments by name; those of **factors among them."""
    signature = inspect.signature(inspect.unwrap(op))
    arguments = signature.bind(*args, **kwargs)
    arguments.apply_defaults()
    spread = [p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD]
    named = {name: t for name, t in arguments.arguments.items() if name not in spread}
    return {**named, **{k: t for name in spread for k, t in arguments.arguments.get(name, {}).items()}}


@cache
def terms(contract):
    """{op: {name: what it was in some call}}: arguments, "y", "dy", gradients, and the terms of the plain ops."""
    seen = {}

    def recording(name, op):
        def recorded(*args, **kwargs):
            found, arguments, result = seen.setdefault(name, {}), bound(op, args, kwargs), op(*args, **kwargs)
            y, pullback = result if isinstance(result, tuple) else (result, None)
            found.update({term: t for term, t in arguments.items() if t is not None}, y=y)
            if isinstance(pullback, Pullback):
                found.update({f"d{n}": arguments[n] for n in pullback.inputs if n not in pullback.frozen}, dy=y)
            if name in PLAIN:
                _record_terms(found, PLAIN[name], arguments, y)
            return result

        return recorded

    ops = [name for name in parts_used(contract) if name != "scale"]
    d = RIGHT.wrapped(**{name: partial(recording, name) for name in ops})
    for case in float64_cases(contract):
        CONTRACTS[contract].answer(case.arrays, case.config, d)
    return {**seen, "scale": {"y": 1.0}} if "scale" in parts_used(contract) else seen


def _record_terms(found, plain, arguments, y):
    def tap(term, t):
        found[term] = t
        return t

    _, pullback = plain(tap, **arguments)
    pullback(1.0 if y.shape == () else y)


def draw(contract, rng):
    """An edit that may fit or not."""
    places = [(op, name) for op, found in sorted(terms(contract).items()) for name in sorted(found)]
    places = [(op, name) for op, name in places if _editable(terms(contract)[op][name])]
    op, name = places[rng.integers(len(places))]
    kind, change = _change(terms(contract)[op][name], rng)
    when = ("value", "pullback", "both")[rng.integers(3)]
    has_pullback = "dy" in terms(contract)[op]
    calls = CALLS.get((contract, op), ())
    call = int(rng.integers(len(calls))) if calls and rng.integers(2) else None
    return Edit(op, name, kind, when if has_pullback else "both", call, change)


def _editable(t):
    return isinstance(t, (float, str, np.ndarray, list)) and not (isinstance(t, np.ndarray) and t.ndim == 0)


def _change(t, rng):
    """(what it does, change) for something like t."""
    if isinstance(t, str):
        other = sorted(OTHER_ACTIVATIONS)[rng.integers(len(OTHER_ACTIVATIONS))]
        return other, lambda t: other
    if isinstance(t, list):
        kinds = [("reversed", lambda t: t[::-1]), ("squared", lambda t: [u * u for u in t])]
        return kinds[rng.integers(2)]
    c = (0.5, 2.0, -1.0, 1.1, 0.9)[rng.integers(5)]
    kinds = [(f"times {c}", lambda t: t * c), ("dropped", lambda t: t * 0.0), ("squared", lambda t: t * t)]
    kinds += [("rooted", lambda t: np.sign(t) * np.abs(t) ** 0.5), ("plus 1/16", lambda t: t + 0.0625)]
    if isinstance(t, float):
        kind, change = kinds[rng.integers(len(kinds))]
        return kind, lambda t: float(change(t))
    if t.dtype.kind == "f":
        kinds += [("clipped", lambda t: np.clip(t, -0.5, 0.5)), ("softcapped", np.tanh), *_along(t, rng, floats=True)]
    else:
        kinds = _along(t, rng, floats=False)
    if t.ndim > 1 and t.shape[-1] == t.shape[-2]:
        kinds.append(("transposed", lambda t: t.mT if t.shape[-1] == t.shape[-2] else t))
    return kinds[rng.integers(len(kinds))]


def _along(t, rng, floats):
    """Changes along one axis. An array that lacks it, as that of a single token does, stays as it is."""
    axis, i, seed = int(rng.integers(-min(t.ndim, 3), 0)), int(rng.integers(4)), int(rng.integers(100))
    kinds = [
        (f"rolled along {axis}", lambda t: np.roll(t, 1, axis)),
        (f"permuted along {axis}", lambda t: np.take(t, np.random.default_rng(seed).permutation(t.shape[axis]), axis)),
        (f"index {i} of {axis} from its neighbour", lambda t: _at(t, axis, i, lambda u, v: v)),
    ]
    if floats:
        kinds += [
            (f"index {i} of {axis} zeroed", lambda t: _at(t, axis, i, lambda u, v: u * 0.0)),
            (f"index {i} of {axis} doubled", lambda t: _at(t, axis, i, lambda u, v: u * 2.0)),
            (f"mean for sum along {axis}", lambda t: t / t.shape[axis]),
        ]
    return [(says, lambda t, change=change: change(t) if t.ndim >= -axis else t) for says, change in kinds]


def _at(t, axis, i, change):
    """The array with one index of an axis changed: change(it, its neighbour)."""
    t, n = np.moveaxis(np.array(t), axis, 0), t.shape[axis]
    t[i % n] = change(t[i % n], t[(i + 1) % n])
    return np.moveaxis(t, 0, axis)


def trials(contracts, dtypes, seed=0):
    """Endless: edits of every contract and dtype in turn."""
    contracts = [contract for contract in contracts if contract in NUMBERS]
    for i in itertools.count():
        contract = contracts[i % len(contracts)]
        dtype = dtypes[i // len(contracts) % len(dtypes)]
        yield contract, dtype, partial(_made, contract, dtype, seed, i)


def _made(contract, dtype, seed, i):
    rng = np.random.default_rng([seed, i])
    while True:
        edit = draw(contract, rng)
        if _is_new(contract, edit):
            break
    call = "" if edit.call is None else f" of call {CALLS[contract, edit.op][edit.call]}"
    name = f"{i}: {edit.op}'s {edit.name}{call} {edit.kind} ({edit.when}), in {contract}, {dtype}"
    return Function(name, contract, partial(edit.answer, contract)), edit


def _is_new(contract, edit):
    """Whether it runs, changes some number, and is no part of what a fault of the catalogue does."""
    wrong = [attempt(partial(edit.answer, contract), case.arrays, case.config) for case in float64_cases(contract)]
    right = _right(contract)
    if any(w is None or not all(np.all(np.isfinite(t)) for t in w.values()) for w in wrong):
        return False
    if any(w[name].shape != r[name].shape for w, r in zip(wrong, right, strict=True) for name in r):
        return False
    wrongs = [(i, name) for i, (w, r) in enumerate(zip(wrong, right, strict=True)) for name in changed(w, r)]
    if not wrongs:
        return False
    return not any(all(f[i] and same(wrong[i][n], f[i][n]) for i, n in wrongs) for f in _catalogue(contract))


@cache
def _right(contract):
    return [CONTRACTS[contract].answer(case.arrays, case.config) for case in float64_cases(contract)]


@cache
def _catalogue(contract):
    """What each fault answers to the cases in float64: whole, its value and its pullback alone."""
    answers = [answer for fault in relevant_to(contract) for answer in variants(contract, fault)]
    return [[attempt(answer, case.arrays, case.config) for case in float64_cases(contract)] for answer in answers]


def warm(contract):
    """Compute once what all trials of a contract need."""
    if contract in NUMBERS:
        terms(contract), _catalogue(contract), _right(contract)


def score(subject, edit, report):
    """The column, and nothing more to say."""
    [contract] = report.contracts
    if contract.verdict == "pass":
        return "passed", False
    diagnosis = contract.diagnosis
    if diagnosis.ids and false_ids(contract.contract, diagnosis, contract.observed):
        return "false id", False
    if claims_precision(diagnosis.says):
        return "false precision", False
    if diagnosis.ids:
        return "true id", False
    if not diagnosis.says:
        return "silent", False
    return "where" if tells_where(contract.contract, edit, diagnosis.says) else "other", False


def claims_precision(says):
    """Whether a sentence speaks of a precision or of rounding, other than in a case's name."""
    return bool(PRECISION.search(CASE_ID.sub("", says)))


def tells_where(contract, edit, says):
    """Whether a sentence names what is edited, or where, or how an output is made up. A guess: it reads words alone."""
    bare = edit.name.removeprefix("d") or edit.name
    words = {edit.op, edit.name, bare, f"d{bare}"}
    if edit.op == "scale" or edit.name == "scale":
        words |= {"s", "scale", "alpha"}
    if edit.call is not None:
        call = CALLS[contract, edit.op][edit.call]
        words |= {call, *(f"{word}_{call}" for word in words)}
    named = rf"(?<!\w)({'|'.join(map(re.escape, words))})(_\w+)?(?!\w)"
    return bool(re.search(f"{named}|{PLACE}|{SHARE}", CASE_ID.sub("", says)))
