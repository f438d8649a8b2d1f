"""The precision that an output was really computed in: claimed only where it is proved.

A wrong formula may be off by little, too, and its errors then look like rounding. What tells the two apart:

    stored     every number that came back fits a coarser format
    pattern    the errors are, number by number, those of the right formula computed in that format (see `coarse`)
    redrawn    the subject is asked again with inputs that differ by a few roundings. A wrong formula is off by nearly
               the same amount again. Rounding errors are drawn anew, so they have nothing to do with the first ones.
               A few roundings of a fine format are a good part of one of a coarse format. So where both could make
               errors of this size, inputs that differ by less than one rounding tell which it is.

The first two need no second question. Errors that are small enough, but pass none of these tests, are not explained.
Nor are those that also come where nothing rounds: in the exact cases of the suspected format. Integers times a scale
are off there, for one, which elsewhere look like a coarse format.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np

from ..case import Case, is_dropout_mask, widen
from ..contracts import CONTRACTS
from ..dtypes import askable, dtype_by_name
from ..report import Observed
from ..tolerance.judge import Right, right_answer
from ..tolerance.rounding import PRECISIONS
from ..tolerance.statistics import Distribution
from . import coarse
from .coarse import FORMATS, Format

_ENOUGH = 16  # numbers, to compare two patterns
SAME = 0.85  # the correlation of two patterns above which they are one
_EXACT = 0.99  # and above which it is so in every number: a proof that needs no other
_ANEW = 0.7  # and below which they have nothing to do with each other
_FORMULA = 0.95  # above this, the error is that of a wrong formula, whatever its pattern
_ROUGH = 0.05  # the share of an error that is left beside a smooth function of the value, at least, if it is rounding
_QUESTIONS = 3
_ROUNDINGS = 3.0  # by so many unit roundoffs inputs differ at most
_LESS = 0.75  # where it is asked which of two formats it is: there the errors of this one are alike by 0 to 0.35,
_FINER = 0.45  # and those of a coarser one by 0.5 or more
_CASES = 4  # of each dtype, that are tried
_A_FEW = 8.0  # roundings of the format, of the largest number: a wrong formula is off by more
_SEED = 15

Ask = Callable[[Case], Mapping[str, np.ndarray] | None]
Element = tuple[str, str]  # (case id, output)


@dataclass(frozen=True)
class Coarseness:
    """A format, and the outputs whose errors are rounding to it; truncated where that is toward zero."""

    format: Format
    truncate: bool
    elements: frozenset[Element]


def proven(failing: Sequence[Observed], ask: Ask | None) -> Coarseness | None:
    """The format that errors of some outputs prove, with all outputs that it explains; None if there is no proof.

    An output is explained if there is a proof for it in some case, or if it has too few numbers for a proof. Where
    most outputs are proved, the others are explained, too, if their errors are as small.
    """
    tried = largest(failing)
    proofs = [(name, p) for one in tried for name, p in _proofs(one, ask).items()]
    claims = [proof for _, proof in proofs]
    provable_names = [name for one in tried for name in provable(one)]
    if len(claims) < min(2, len(provable_names)) or not claims:
        return None  # one pattern among many may be alike by chance
    format, truncate = max(dict.fromkeys(claims), key=claims.count)
    proved = [name for name, proof in proofs if proof[0] == format]
    names = {name for name in proved if 2 * proved.count(name) >= provable_names.count(name)}
    if not names:
        return None
    if ask is not None and names & _off_where_nothing_rounds(format, failing[0].case, ask):
        return None
    few = {name for one in failing for name in one.failed} - set(provable_names)
    if 2 * len(claims) > len(provable_names):
        names |= set(provable_names)
    elements = {
        (one.case.id, name)
        for one in failing
        for name in one.failed
        if name in names | few and _is_coarser(format, one.case) and _within(one, name, format)
    }
    return Coarseness(format, truncate or _is_biased(failing, elements), frozenset(elements))


def _off_where_nothing_rounds(format: Format, of: Case, ask: Ask) -> set[str]:
    """The outputs that are off by about a rounding of this format in a case of such small whole numbers that all that
    is computed on the way fits the format."""
    off = set[str]()
    contract = CONTRACTS[of.contract]
    for case in contract.cases(format.as_dtype) if format.as_dtype in askable() else ():
        if not case.exact:
            continue
        stored = {n: a if a.dtype.kind in "biu" else a.astype(dtype_by_name(of.dtype)) for n, a in case.arrays.items()}
        asked = replace(case, id=of.id, dtype=of.dtype, arrays=stored)
        got, right = ask(asked) or {}, contract.answer(widen(case), case.config)
        for name in got.keys() & right.keys():
            error, size = got[name].astype(np.float64) - right[name], np.max(np.abs(right[name]), initial=0.0)
            if np.any(error) and np.max(np.abs(error)) <= size * _A_FEW * 2.0**-format.bits:
                off.add(name)
    return off


def _is_biased(failing: Sequence[Observed], elements: Set[Element]) -> bool:
    """Whether the errors point toward zero, as truncation's do: by five standard deviations of unbiased ones, and in
    nearly all outputs. Errors of one output may go together, where many of its numbers share a rounded weight."""
    along, energy, toward = 0.0, 0.0, []
    for one in failing:
        for name, error in provable(one).items():
            right = one.right[name]
            if (one.case.id, name) in elements and isinstance(right, Right):
                here = float(error @ np.sign(_in_deviations(right.value, right)))
                along, energy = along + here, energy + float(error @ error)
                toward.append(here < 0)
    n = len(toward)
    return along < -5.0 * np.sqrt(energy) and sum(toward) >= min(n, 0.5 * n + 1.25 * np.sqrt(n))


def could_be_rounding(one: Observed, name: str) -> bool:
    """Whether an output's errors are so small that rounding in some coarser format could make them."""
    return any(_is_coarser(format, one.case) and _within(one, name, format) for format in FORMATS)


def largest(failing: Sequence[Observed]) -> list[Observed]:
    """A few of the failing cases of each dtype, those with most numbers: they prove most."""
    chosen = []
    for dtype in dict.fromkeys(one.case.dtype for one in failing):
        of_dtype = [one for one in failing if one.case.dtype == dtype]
        chosen += sorted(of_dtype, key=lambda one: -sum(e.size for e in provable(one).values()))[:_CASES]
    return chosen


def provable(one: Observed) -> dict[str, np.ndarray]:
    """{output: its error} for the wrong outputs with enough numbers to compare patterns."""
    errors = {name: errors_of(one, name) for name in one.failed}
    return {name: e for name, e in errors.items() if e is not None and np.count_nonzero(e) >= _ENOUGH}


def admitted(observed: Iterable[Observed], claim: Coarseness) -> list[Observed]:
    """What was observed, judged as if the cases' dtype were this format, in the dtypes in which it was proved."""
    observed, ids = list(observed), {id for id, _ in claim.elements}
    again, dtypes = [], {one.case.dtype for one in observed if one.case.id in ids}
    for one in observed:
        if one.outputs is not None and one.case.dtype in dtypes:
            case = replace(one.case, dtype=claim.format.as_dtype)
            failed = tuple(name for name in one.failed if (one.case.id, name) not in claim.elements)
            one = replace(one, case=case, right=right_answer(case, CONTRACTS[case.contract].answer), failed=failed)
        again.append(one)
    return again


def _is_coarser(format: Format, case: Case) -> bool:
    return 2.0**-format.bits > PRECISIONS[case.dtype].store


def _proofs(one: Observed, ask: Ask | None) -> dict[str, tuple[Format, bool]]:
    """{output: (format, truncate)} for the outputs of a case whose errors are proved to be rounding."""
    errors = provable(one)
    patterns_found = _with_pattern(one, errors)
    exact = {name for name, (alike, _, _) in patterns_found.items() if alike > _EXACT}
    proofs = {name: (format, truncate) for name, (_, format, truncate) in patterns_found.items()}
    formats = [format for format in FORMATS if _is_coarser(format, one.case)]
    for format in reversed(formats):  # a number that fits a coarse format fits the finer ones, too
        stored = [n for n in errors if n not in proofs and _within(one, n, format) and _is_stored(one, n, format)]
        proofs |= dict.fromkeys(stored, (format, False))
    if ask is None:
        return proofs
    for format in formats:  # a nudge that redraws fine roundings leaves coarse ones alone
        told = {name: errors[name] for name, proof in proofs.items() if proof[0] == format and name not in exact}
        left = {name: e for name, e in errors.items() if name not in proofs and _has_size_of(format, one, e)}
        alike = _likeness(one, {**told, **left}, _ROUNDINGS * 2.0**-format.bits, ask) if told or left else {}
        proofs = {n: p for n, p in proofs.items() if n not in told or alike.get(n, 0.0) < _FORMULA}
        anew = {name: e for name, e in left.items() if alike.get(name, 1.0) < _ANEW}
        if anew and not _is_of_a_coarser(format, one, anew, ask):
            proofs |= dict.fromkeys(anew, (format, False))
    return {name: proof for name, proof in proofs.items() if _doubles(one, name, errors[name], ask)} if proofs else {}


def _is_of_a_coarser(format: Format, one: Observed, errors: Mapping[str, np.ndarray], ask: Ask) -> bool:
    """Whether these errors are rounding to a format that is coarser than this one: most of each error stays where the
    inputs move by less than a rounding of this format."""
    coarser = [other for other in FORMATS if other.bits < format.bits]
    if not any(_has_size_of(other, one, error) for other in coarser for error in errors.values()):
        return False
    alike = _likeness(one, errors, _LESS * 2.0**-format.bits, ask)
    return bool(alike) and float(np.mean(list(alike.values()))) > _FINER


def _doubles(one: Observed, name: str, error: np.ndarray, ask: Ask) -> bool:
    """Whether a gradient's error is doubled with dy, as that of rounding is: powers of two leave significands alone."""
    if "dy" not in one.case or not name.startswith("d"):
        return True
    dy = one.case["dy"]
    case = one.case.with_arrays({"dy": (2.0 * dy).astype(dy.dtype)})
    outputs = ask(case)
    if outputs is None:
        return False
    again = replace(one, case=case, right=right_answer(case, CONTRACTS[case.contract].answer), outputs=outputs)
    other = errors_of(again, name)
    return other is not None and bool(np.linalg.norm(other - error) <= 0.25 * np.linalg.norm(error))


def _has_size_of(format: Format, one: Observed, error: np.ndarray) -> bool:
    """Whether the errors are as large as those of this format, and as no finer or coarser one.

    One coarse step among many fine ones leaves errors a few bits smaller than its own roundoff, and the standard
    deviation is an upper estimate. So a format covers a range of bits.
    """
    own = -np.log2(PRECISIONS[one.case.dtype].store)
    bits = own - np.log2(np.sqrt(np.mean(np.square(error))))
    return bool(format.least <= bits < format.most)


def errors_of(one: Observed, name: str) -> np.ndarray | None:
    """got - right, in standard deviations of the dtype's own rounding, for the numbers that have one."""
    right, got = one.right.get(name), (one.outputs or {}).get(name)
    if not isinstance(right, Right) or got is None or got.shape != right.shape or got.dtype.kind != "f":
        return None
    if not np.all(np.isfinite(got)):
        return None
    return _in_deviations(got.astype(np.float64) - right.value, right)


def _in_deviations(error: np.ndarray, right: Right) -> np.ndarray:
    usable = (right.deviation > 0) & (right.size > 0)
    return error[usable] / right.deviation[usable]


def _within(one: Observed, name: str, format: Format) -> bool:
    """Whether all errors of an output are as small as this format's can be, with a reserve of one bit."""
    error = errors_of(one, name)
    if error is None:
        return False
    own = PRECISIONS[one.case.dtype]
    return bool(np.all(np.abs(error) <= 2.0 * own.deviations * 2.0**-format.bits / own.store))


def _is_stored(one: Observed, name: str, format: Format) -> bool:
    """Whether all numbers of the output fit the format, as only numbers that were rounded to it do."""
    assert one.outputs is not None
    got, right = one.outputs[name].astype(np.float64), one.right[name]
    assert isinstance(right, Right)
    nonzero = right.value != 0
    if np.count_nonzero(nonzero) < _ENOUGH or not np.all(format.round(got) == got):
        return False
    off = np.abs(got - right.value)[nonzero] / np.abs(right.value[nonzero])
    return bool(np.median(off) <= 4.0 * 2.0**-format.bits)


def _with_pattern(one: Observed, errors: Mapping[str, np.ndarray]) -> dict[str, tuple[float, Format, bool]]:
    """How alike the errors of outputs are to those of a way of computing more coarsely, and which, where they are."""
    nearest: dict[str, tuple[float, Format, bool]] = {}
    small_enough = [f for f in FORMATS if _is_coarser(f, one.case) and any(_within(one, name, f) for name in errors)]
    for way in coarse.WAYS:
        if way.format not in small_enough:
            continue
        for name, alike in patterns(one, errors, coarse.answer(one.case, way)).items():
            if alike > (nearest[name][0] if name in nearest else SAME):
                nearest[name] = alike, way.format, way.truncate
    return nearest


def patterns(one: Observed, errors: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
    """{output: how alike its errors and those of these outputs are}, where they are about as large."""
    alike = {}
    for name, error in errors.items():
        right = one.right[name]
        assert isinstance(right, Right)
        expected = _in_deviations(outputs[name] - right.value, right)
        if not np.any(right.value) or not np.isfinite(expected).all():
            continue
        size = float(np.linalg.norm(expected) / np.linalg.norm(error))
        smooth = _in_deviations(right.value, right)
        if 0.25 < size < 4.0:
            beside = _correlation(_beside(error, smooth), _beside(expected, smooth))
            alike[name] = min(_correlation(error, expected), beside)
    return alike


def _likeness(one: Observed, errors: Mapping[str, np.ndarray], size: float, ask: Ask) -> dict[str, float]:
    """{output: the correlation of its errors with those that it gets for inputs that differ by this share at most}."""
    rng, alike = np.random.default_rng(_SEED), {name: list[float]() for name in errors}
    for _ in range(_QUESTIONS):
        case = _nudged(one.case, size, rng)
        outputs = ask(case)
        if outputs is None:
            return {}
        again = replace(one, case=case, right=right_answer(case, CONTRACTS[case.contract].answer), outputs=outputs)
        for name, error in errors.items():
            other = errors_of(again, name)
            if other is not None and other.shape == error.shape and _of_one_size(error, other):
                alike[name].append(_alike(error, one.right[name], other, again.right[name]))
    return {name: float(np.mean(each)) for name, each in alike.items() if len(each) == _QUESTIONS}


def _alike(a: np.ndarray, right_a: Right | Distribution, b: np.ndarray, right_b: Right | Distribution) -> float:
    """The correlation of two errors without their smooth part; 1 if there is hardly anything else."""
    assert isinstance(right_a, Right)
    assert isinstance(right_b, Right)
    rough_a, rough_b = (_beside(e, _in_deviations(r.value, r)) for e, r in ((a, right_a), (b, right_b)))
    if np.linalg.norm(rough_a) < _ROUGH * np.linalg.norm(a):
        return 1.0
    return _correlation(rough_a, rough_b)


def _of_one_size(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(0.2 < np.linalg.norm(b) / np.linalg.norm(a) < 5.0)


def _nudged(case: Case, size: float, rng: np.random.Generator) -> Case:
    """The case with every number times 1 + up to `size`. Masks, ids and zeros stay."""
    nudged = {
        name: (a.astype(np.float64) * (1.0 + rng.uniform(-size, size, a.shape))).astype(a.dtype)
        for name, a in case.arrays.items()
        if a.dtype.kind not in "biu" and not is_dropout_mask(name)
    }
    return case.with_arrays(nudged)


def _beside(error: np.ndarray, value: np.ndarray) -> np.ndarray:
    """The error without what is a smooth odd function of the value, as the bias of truncation is, and as a wrong factor
    or a capped value is, too."""
    unit = value / (np.max(np.abs(value)) or 1.0)
    smooth = np.stack([np.sign(unit), unit, unit * np.abs(unit), unit**3], axis=1)
    return error - smooth @ np.linalg.lstsq(smooth, error, rcond=None)[0]


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norms if norms else 0.0
