"""The sentences of a diagnosis."""

from collections.abc import Collection, Iterable, Sequence

from ..case import Case
from ..faults import Fault
from ..report import Claim, Observed
from .cover import wrong_elements
from .evidence import Explanation
from .place import place_of
from .precision import Coarseness
from .where import where
from .words import listed

_HALVES = {"": "", "value": ", in the value alone", "backward": ", in the backward alone"}


def of_faults(matches: Sequence[tuple[Fault, ...]]) -> str:
    """What the first set of faults does, and which others these cases cannot tell it from."""
    best = matches[0]
    says = " ".join(f"{fault.says} ({fault.id}): {_formulas(fault)}." for fault in best)
    return says + _not_told_from(fault.says for faults in matches[1:] for fault in faults if fault not in best)


def _not_told_from(others: Iterable[str]) -> str:
    others = dict.fromkeys(others)
    return f" These cases cannot tell it from: {'; '.join(others)}." if others else ""


def _formulas(fault: Fault) -> str:
    return f"it computes {fault.wrong}; right is {fault.right}"


def of_explanation(explanation: Explanation, rivals: Iterable[Explanation], answered: Sequence[Observed]) -> Claim:
    """In which outputs and cases, and what is wrong there."""
    hypothesis, outputs = explanation.hypothesis, in_order(explanation.outputs, answered)
    subject = (
        "every output" if explanation.outputs >= set().union(*(one.right for one in answered)) else listed(outputs)
    )
    place = " ".join(filter(None, (subject, _where(explanation, answered))))
    if hypothesis.fault is None:
        return Claim((), outputs, f"{place}: as if {hypothesis.says}.")
    fault = hypothesis.fault
    others = [(f, e.hypothesis.half) for e in rivals if (f := e.hypothesis.fault) is not None and f is not fault]
    ids = dict.fromkeys([fault.id, *(other.id for other, _ in others)])
    cases = {id for id, _ in explanation.elements}
    if any(id in cases for id, _ in explanation.contradicted):  # there, the formulas are not true of other outputs
        return Claim(tuple(ids), outputs, f"{place} alone: {fault.says} ({fault.id}){_HALVES[hypothesis.half]}.")
    says = f"{place}: {fault.says} ({fault.id}){_HALVES[hypothesis.half]}: {_formulas(fault)}."
    return Claim(tuple(ids), outputs, says + _not_told_from(f"{other.says}{_HALVES[half]}" for other, half in others))


def of_unsteady(names: Sequence[str], case: Case) -> list[Claim]:
    """That these outputs are not the same twice: a race, uninitialised memory, or numbers drawn at random."""
    if not names:
        return []
    differ = "differs" if len(names) == 1 else "differ"
    return [Claim((), tuple(names), f"{listed(tuple(names))} {differ} between two answers to {case.id}.")]


def in_order(names: Collection[str], observed: Iterable[Observed]) -> tuple[str, ...]:
    """Names of outputs in the order of the answers."""
    return tuple(dict.fromkeys(name for one in observed for name in one.right if name in names))


def _where(explanation: Explanation, answered: Sequence[Observed]) -> str:
    """What tells the cases that it explains from those that it does not, among those in which it would show."""
    others = set(explanation.contradicted) | (set(wrong_elements(answered)) - explanation.elements)
    explained = {id for id, _ in explanation.elements}
    elsewhere = {id for id, name in others if name in explanation.outputs} - explained
    cases = {one.case.id: one.case for one in answered}
    return where([cases[id] for id in sorted(explained)], [cases[id] for id in sorted(elsewhere)])


def right_outputs(observed: Iterable[Observed], wrong: Collection[str]) -> str:
    """ "dx and dA are right." for the outputs that are wrong in no case; "" if there are none."""
    names = dict.fromkeys(name for one in observed for name in one.right if name not in wrong)
    return f"{listed(tuple(names))} {'is' if len(names) == 1 else 'are'} right." if names else ""


def of_precision(coarse: Coarseness, failing: Sequence[Observed]) -> list[Claim]:
    """A claim for each dtype in which the format shows."""
    claims = []
    rounding = "truncation" if coarse.truncate else "rounding"
    article = "an" if coarse.format.bits in (8, 11) else "a"
    inside = f"inside {place}" if (place := place_of(coarse, failing)) else "somewhere inside"
    format = f"{article} {coarse.format.bits}-bit significand: {coarse.format.name} {inside}"
    for dtype in dict.fromkeys(one.case.dtype for one in failing):
        of_dtype = [one for one in failing if one.case.dtype == dtype]
        ids = {one.case.id for one in of_dtype}
        outputs = in_order({name for id, name in coarse.elements if id in ids}, of_dtype)
        if outputs:
            head = f"{_in_and_out(dtype, outputs, of_dtype)}{_where_coarse(coarse, outputs, of_dtype)}"
            joint = "but" if head.startswith(f"{dtype} in and out") else "and"
            says = f"{head}, {joint} the errors of {', '.join(outputs)} are those of {rounding} to {format}."
            claims.append(Claim((), outputs, says))
    return claims


def _in_and_out(dtype: str, outputs: Collection[str], failing: Sequence[Observed]) -> str:
    """The dtype of the inputs, and that of these outputs."""
    answers = [one.outputs for one in failing if one.outputs is not None]
    came = dict.fromkeys(answer[name].dtype.name for answer in answers for name in outputs if name in answer)
    return f"{dtype} in and out" if list(came) == [dtype] else f"{dtype} in, {' and '.join(came)} out"


def _where_coarse(coarse: Coarseness, outputs: Collection[str], failing: Sequence[Observed]) -> str:
    """In which cases the errors of these outputs are rounding, if they are more than that in others."""
    beyond = {id for id, name in set(wrong_elements(failing)) - coarse.elements if name in outputs}
    shows = [one.case for one in failing if one.case.id not in beyond]
    others = [one.case for one in failing if one.case.id in beyond]
    return f" {where(shows, others)}" if shows and others else ""
