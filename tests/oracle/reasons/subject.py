"""Subjects made of one function, and whether a fault of the catalogue gives their numbers.

Nothing here looks into the diagnosis. A fault's numbers are computed anew, as the whole fault and as its two halves: a
wrong value with the right pullback, and the right value with a wrong pullback.
"""

import itertools
from dataclasses import replace
from functools import cache

import numpy as np

from npl_lora.oracle import CONTRACTS
from npl_lora.oracle.case import widen
from npl_lora.oracle.contracts.contract import scales
from npl_lora.oracle.definition import RIGHT
from npl_lora.oracle.dtypes import computable, dtype_by_name
from npl_lora.oracle.faults import FAULTS, wrong_answer
from npl_lora.oracle.faults.wraps import with_arguments
from npl_lora.oracle.subjects import Answer
from npl_lora.oracle.subjects.injected import Injected
from npl_lora.oracle.tolerance.judge import judge_output, right_answer
from npl_lora.oracle.tolerance.measured import tighten
from npl_lora.oracle.tolerance.statistics import Distribution

NUMBERS = tuple(name for name in CONTRACTS if name != "lora_init")  # whose answers are numbers, not distributions

UNFIT = (ValueError, IndexError, TypeError, ArithmeticError)  # what a wrong formula raises where it fits no shapes


class Function:
    """A subject of one contract. answer(arrays, config) -> outputs, in the dtype of the arrays."""

    def __init__(self, name, contract, answer):
        self.name, self.contracts, self.answer = name, (contract,), answer
        self._masks, self._rng = Injected(), np.random.default_rng(0)

    def ask(self, case):
        try:
            with np.errstate(all="ignore"):
                outputs = self.answer(computable(self._masks.question(case).arrays), case.config)
                return Answer(outputs=({name: self._stored(t, case) for name, t in outputs.items()},))
        except UNFIT as error:
            return Answer(error=str(error))

    def _stored(self, output, case):
        numbers = output.draw(self._rng) if isinstance(output, Distribution) else np.asarray(output)
        return numbers.astype(dtype_by_name(case.dtype))

    def close(self):
        """Nothing runs."""


def combined(right, wrong, when):
    """An op whose value, whose pullback, or both are the wrong op's."""

    def op(*args, **kwargs):
        y, pullback = right(*args, **kwargs)
        z, wrong_pullback = wrong(*args, **kwargs)
        if y.shape != z.shape:
            raise ValueError(f"the value has shape {z.shape}, its pullback takes {y.shape}")
        return (z, pullback) if when == "value" else (y, wrong_pullback)

    return wrong if when == "both" else op


def variants(contract, fault):
    """Answer functions: the fault, and its value and its pullback alone where an op of the contract has both."""
    yield wrong_answer(contract, fault)
    for when in ("value", "pullback"):
        if fault.parts.keys() - {"scale", "low_rank", "sgd", "adamw"}:
            yield _half(contract, lambda config: dict(fault.parts), when)
        elif "scale" in fault.parts and contract != "adapter_combine":
            yield _half(contract, lambda config: _scaled(fault, config), when)


def _half(contract, parts, when):
    def answer(arrays, config):
        halves = {name: _halved(wrap, when) for name, wrap in parts(config).items()}
        return CONTRACTS[contract].answer(arrays, config, RIGHT.wrapped(**halves))

    return answer


def _halved(wrap, when):
    return lambda op: combined(op, wrap(op), when)


def _scaled(fault, config):
    """The wrong scale as an argument of the ops that take it."""
    wrong = RIGHT.wrapped(scale=fault.parts["scale"])
    if isinstance(config["r"], list):  # one scale an adapter
        return {"lora_batched": with_arguments(scales=lambda a: scales(config, wrong))}
    factor = wrong.scale(config) / RIGHT.scale(config)
    ops = ("lora_linear", "lora_embedding", "dora_linear", "merge", "unmerge")
    return dict.fromkeys(ops, with_arguments(scale=lambda a: a.scale * factor))


def named(ids):
    """For each way to read these ids as entries of the catalogue: those entries."""
    return itertools.product(*([fault for fault in FAULTS if fault.id == id_] for id_ in ids))


def attempt(answer, arrays, config):
    """The outputs, or None where a wrong formula does not fit the shapes."""
    try:
        with np.errstate(all="ignore"):
            return answer(arrays, config)
    except UNFIT:
        return None


@cache
def float64_cases(contract):
    """The contract's cases, with the masks that a subject of lora_dropout draws."""
    return [Injected().question(case) for case in CONTRACTS[contract].cases("float64")]


def same(a, b):
    """Equal numbers, but for the last digits of float64."""
    if isinstance(a, Distribution) or isinstance(b, Distribution):
        return type(a) is type(b) and str(a) == str(b)
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or not (np.all(np.isfinite(a)) and np.all(np.isfinite(b))):
        return False
    return bool(np.all(np.abs(a - b) <= 1e-9 * max(np.max(np.abs(b), initial=0.0), 1e-3)))


def changed(outputs, right):
    return frozenset(name for name in right if not same(outputs[name], right[name]))


def equal(answer, fault_answer, observed):
    """Whether the two give the same numbers in float64 in every failing output, and wrong ones in some."""
    wrong = False
    for one in observed:
        arrays, right = widen(one.case), CONTRACTS[one.case.contract].answer
        a, b, c = (attempt(f, arrays, one.case.config) for f in (answer, fault_answer, right))
        if a is None or b is None or any(not same(a[name], b[name]) for name in one.failed):
            return False
        wrong = wrong or any(not same(b[name], c[name]) for name in one.failed)
    return wrong


def reproduced(answer, observed):
    """The failing (case, output) whose answers are within what is allowed of this answer function's."""
    return {(one.case.id, name) for one in observed for name in _fitting(answer, one)}


def _fitting(answer, one):
    try:
        with np.errstate(all="ignore"):
            right = right_answer(one.case, answer)
    except UNFIT:
        return []
    measured = tighten(one.case, one.right, CONTRACTS[one.case.contract].answer)
    return [name for name in one.failed if name in right and _fits(name, right, measured, one)]


def _fits(name, right, measured, one):
    """Much nearer than the right answer is, and judged as that is: its measured bar is a share of the derived one."""
    got, known, like = one.outputs[name].astype(np.float64), one.right[name], right[name]
    if isinstance(known, Distribution) or isinstance(like, Distribution):
        return judge_output(like, got).verdict == "pass"
    if got.shape != like.shape or got.shape != known.shape:
        return got.shape == like.shape and np.allclose(got, like.value, rtol=0.02)
    if not np.isfinite(got).all():
        return np.array_equal(np.isfinite(got), np.isfinite(like.value))
    if np.linalg.norm(got - like.value) > 0.5 * np.linalg.norm(got - known.value):
        return False
    shares = np.divide(measured[name].allowed, known.allowed, out=np.zeros(known.shape), where=known.allowed > 0)
    allowed = like.allowed * np.max(shares, initial=0.0)
    return judge_output(replace(like, allowed=allowed), got).verdict == "pass"


def explains_something(answer, observed):
    """Whether some output comes out as answered: in all cases where it fails, or all with or all without a mask."""
    found = reproduced(answer, observed)
    for name in {name for one in observed for name in one.failed}:
        for branch in ((True, False), (True,), (False,)):
            failing = {(o.case.id, name) for o in observed if name in o.failed and ("mask" in o.case) in branch}
            if failing and failing <= found:
                return True
    return False


def false_ids(contract, diagnosis, observed):
    """The ids that explain no failing output, alone or with the others that they are given with."""
    true = set()
    for ids in (*((id_,) for id_ in diagnosis.ids), *diagnosis.matches):
        if not set(ids) <= true and any(explains_something(a, observed) for a in _answers(contract, ids)):
            true |= set(ids)
    return [id_ for id_ in diagnosis.ids if id_ not in true]


def _answers(contract, ids):
    for faults in named(ids):
        yield from variants(contract, faults[0]) if len(faults) == 1 else (wrong_answer(contract, *faults),)
