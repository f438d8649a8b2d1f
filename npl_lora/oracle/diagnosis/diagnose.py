"""The diagnosis of one contract, in these steps. The first that explains everything ends it.

1. catalogue: a known fault that reproduces every answer.
2. precision: rounding in a coarser format, where that is proved. What it explains is set aside.
3. cover: each wrong output for itself, by a fault in the value alone, in the backward alone, in one output or in one
   branch, or by a generated edit.
4. catalogue: several known faults that together reproduce every answer.
   Also read off the answer: DoRA's norms, rope's angles, how adapters were combined, the spread of what was drawn.
5. fit: a description of the numbers, for each output that nothing explains.
6. interrogate: what these outputs depend on, found by asking the subject again, where it can be asked.

Only the catalogue's faults have ids. An output that no step explains is left to the cases' own messages.
"""

from collections.abc import Sequence, Set
from dataclasses import replace

import numpy as np

from ..case import Case
from ..faults import Fault
from ..report import NOTHING, Claim, Diagnosis, Observed
from ..tolerance.judge import Right
from ..tolerance.rounding import PRECISIONS
from . import catalogue, cover, fit, precision, sentences
from .combined import another_combination
from .dora_norm import other_norms
from .drawn import has_masks, is_drawn, of_another_mask, read_again
from .drawn_spread import dead_ranks, other_spreads
from .edits import PLACED
from .evidence import EVIDENCE, READ_FROM
from .hypotheses import edits_for, known_faults
from .interrogate import interrogate
from .one_shape import takes_one_shape
from .precision import Ask
from .progress import OnProgress, silent
from .rope_angles import other_angles
from .where import where
from .words import listed
from .wrong import Wrong


def diagnose(
    observed: Sequence[Observed], ask: Ask | None = None, on_progress: OnProgress = silent, places: bool = True
) -> Diagnosis:
    """What is wrong with the answers to the cases of one contract, some of which failed.

    ask: puts another question to the subject, where it can be asked. on_progress(what, done, total) is called before
    each piece of the work. places: whether an index is what it says. In samples of something larger it is not, and then
    none is told, and what holds in one sample must hold in all.
    """
    if observed and ask is not None and (claim := takes_one_shape(observed, ask)):
        return _with([claim], diagnose([one for one in observed if one.outputs is not None], ask, on_progress))
    failing = [one for one in observed if one.failed and one.outputs is not None]
    if not failing:
        return NOTHING
    on_progress(f"known faults of {failing[0].case.contract}", 0, 1)
    if matches := catalogue.single_matches(observed):
        return _known(matches, failing)
    if ask is None or is_drawn(observed):  # what is drawn at random cannot be compared with another answer
        return _with_right_outputs(_in_parts(observed, failing, None, on_progress, places), observed)
    unsteady = _unsteady(failing[0].case, ask)
    found = _in_parts(observed, failing, ask if unsteady == [] else None, on_progress, places)
    return _with_right_outputs(_with(sentences.of_unsteady(unsteady or (), failing[0].case), found), observed)


def _unsteady(case: Case, ask: Ask) -> list[str] | None:
    """The outputs that differ between two answers to the same question; None where there are not two to compare."""
    first, second = ask(case), ask(case)
    if first is None or second is None or first.keys() != second.keys():
        return None
    return [name for name in first if first[name].tobytes() != second[name].tobytes()]


def _in_parts(
    observed: Sequence[Observed], failing: Sequence[Observed], ask: Ask | None, on_progress: OnProgress, places: bool
) -> Diagnosis:
    """A proven precision, and then what is left once that is allowed."""
    coarse = precision.proven(failing, ask)
    if coarse is None or _is_met_by_faults(observed, coarse):
        return _explained(observed, ask, on_progress, places)
    rounded = sentences.of_precision(coarse, failing)
    rest = precision.admitted(observed, coarse)
    if not any(one.failed for one in rest):
        return _joined(rounded)
    if matches := catalogue.single_matches(rest):
        return _with(rounded, _known(matches, [one for one in rest if one.failed]))
    # These cases are judged as what they are not, so the subject can't be asked them.
    return _with(rounded, _explained(rest, None, on_progress, places))


def _is_met_by_faults(observed: Sequence[Observed], coarse: precision.Coarseness) -> bool:
    """Whether known faults give all the numbers whose errors look like rounding. What gives the numbers themselves is
    nearer to them than a format, which gives errors like theirs."""
    looked_at = [
        replace(one, failed=tuple(name for name in one.failed if (one.case.id, name) in coarse.elements))
        for one in observed
        if one.outputs is not None
    ]
    return not cover.explain(known_faults(looked_at[0].case.contract), (), looked_at).left


def _with_right_outputs(diagnosis: Diagnosis, observed: Sequence[Observed]) -> Diagnosis:
    """The diagnosis and which outputs are right, where it explains some outputs and not a whole answer."""
    if not diagnosis.claims or diagnosis.matches or is_drawn(observed):
        return diagnosis
    answered = [one for one in observed if one.outputs is not None]
    right = sentences.right_outputs(answered, {name for one in answered for name in one.failed})
    return replace(diagnosis, says=" ".join(filter(None, (diagnosis.says, right))))


def _known(matches: list[tuple[Fault, ...]], failing: Sequence[Observed]) -> Diagnosis:
    """Faults that reproduce everything."""
    ids = tuple(dict.fromkeys(fault.id for faults in matches for fault in faults))
    outputs = tuple(dict.fromkeys(name for one in failing for name in one.failed))
    says = sentences.of_faults(matches)
    return Diagnosis(ids, says, tuple(tuple(f.id for f in faults) for faults in matches), (Claim(ids, outputs, says),))


def _explained(observed: Sequence[Observed], ask: Ask | None, on_progress: OnProgress, places: bool) -> Diagnosis:
    """Each wrong output for itself, and several faults where that needs more than one hypothesis."""
    if is_drawn(observed):
        on_progress("pairs of known faults", 0, 1)
        if matches := catalogue.several_matches(observed):
            return _known(matches, [one for one in observed if one.failed and one.outputs is not None])
    answered, covered = _covered([one for one in observed if one.outputs is not None], on_progress, places)
    failing = [one for one in answered if one.failed]
    if not failing:
        return NOTHING
    on_progress("pairs of known faults", 0, 1)
    several = covered.left or len(covered.chosen) > 1
    if several and not is_drawn(observed) and (matches := catalogue.several_matches(observed)):
        return _known(matches, failing)
    if several and (claim := other_norms(failing) or another_combination(answered)):
        return _joined([claim])
    covered = _without_parts(failing, covered)
    claims = [sentences.of_explanation(best, rivals, answered) for best, rivals in covered.chosen]
    if angles := other_angles(failing, sentences.in_order(_unexplained(failing, covered), failing)):
        told = {name for claim in angles for name in claim.outputs}
        claims += angles
        covered = replace(covered, left=frozenset(e for e in covered.left if e[1] not in told))
    described = _described(failing, covered, places)
    claims += described + other_spreads(failing) + dead_ranks(failing)
    untold = {name for _, name in covered.left} - {name for claim in described for name in claim.outputs}
    wrong = {name for one in failing for name in one.failed}
    small = {name for name in wrong if _could_all_be_rounding(name, failing)}
    if is_drawn(observed):
        claims += of_another_mask(failing, untold)
    elif ask is not None and untold - small:
        claims += _answered(failing, untold - small, ask)
    claims += _too_little(failing, untold - {name for claim in claims for name in claim.outputs})
    return _joined(claims)


def _without_parts(failing: Sequence[Observed], covered: cover.Cover) -> cover.Cover:
    """Without edits that explain an output in some cases, where one description of its numbers holds in all."""
    names = {name for e, _ in covered.chosen if e.hypothesis.fault is None for _, name in e.elements}
    partly = names & {name for _, name in covered.left}
    every = frozenset((one.case.id, name) for one in failing for name in one.failed if name in partly)
    whole = {
        name
        for name, wrongs in _wrongs(failing, every).items()
        if fit.explain(_finest(wrongs), small=True, places=False)
    }
    kept = [(e, rivals) for e, rivals in covered.chosen if e.hypothesis.fault is not None or not e.outputs <= whole]
    dropped = {element for e, _ in covered.chosen if e not in [k for k, _ in kept] for element in e.elements}
    return cover.Cover(kept, covered.left | dropped)


def _unexplained(failing: Sequence[Observed], covered: cover.Cover) -> set[str]:
    """The outputs that nothing explains in any case."""
    told = frozenset().union(*(e.elements for e, _ in covered.chosen))
    return {name for _, name in covered.left} - {name for _, name in told}


def _covered(
    answered: Sequence[Observed], on_progress: OnProgress, places: bool
) -> tuple[Sequence[Observed], cover.Cover]:
    """What was observed, and what explains it."""
    covered = _cover(answered, on_progress, places)
    if not has_masks(answered):
        return answered, covered
    if any(name in READ_FROM for _, name in covered.left):
        answered = read_again(answered, covered.left, known_faults(answered[0].case.contract))
        covered = _cover(answered, on_progress, places)
    return answered, replace(covered, left=frozenset(e for e in covered.left if e[1] not in READ_FROM))


def _cover(answered: Sequence[Observed], on_progress: OnProgress, places: bool) -> cover.Cover:
    if not (probes := cover.probes(answered)):
        return cover.Cover([], frozenset())
    faults, edits = known_faults(probes[0].case.contract), edits_for(one.case for one in probes)
    if places:
        return cover.explain(faults, edits, answered, on_progress)
    return cover.explain(faults, (e for e in edits if e.rank < PLACED), answered, on_progress).in_every_case()


def _answered(failing: Sequence[Observed], outputs: Set[str], ask: Ask) -> list[Claim]:
    """What the subject's answers to new questions say about outputs that nothing explains."""
    with_some = [one for one in failing if outputs & set(one.failed)]
    most = max(
        with_some,
        key=lambda one: (-PRECISIONS[one.case.dtype].store, len(outputs & set(one.failed)), len(one.case.arrays)),
    )
    return interrogate(most, sentences.in_order(outputs, failing), ask)


def _described(failing: Sequence[Observed], covered: cover.Cover, places: bool) -> list[Claim]:
    """What the numbers of the outputs are like that nothing explains, and which are not finite."""
    claims = []
    told = frozenset().union(*(e.elements for e, _ in covered.chosen))
    for name, wrongs in _wrongs(failing, covered.left).items():
        if says := fit.explain(_finest(wrongs), _could_all_be_rounding(name, failing), places):
            clause = where(
                [wrong.case for wrong in wrongs], [one.case for one in failing if (one.case.id, name) in told]
            )
            claims.append(Claim((), (name,), f"{' '.join(filter(None, (name, clause, says)))}."))
    return claims + _not_finite(failing)


def _too_little(failing: Sequence[Observed], outputs: Set[str]) -> list[Claim]:
    """Outputs of which so little is off that nothing could explain it with enough evidence."""
    little = {name for name in outputs if _bits_beyond_rounding(failing, name) < EVIDENCE}
    if not (names := sentences.in_order(little, failing)):
        return []
    finest = min((one.case.dtype for one in failing), key=lambda dtype: PRECISIONS[dtype].store)
    shows = "" if finest == "float64" else "; in a finer dtype more of it shows"
    return [Claim((), names, f"{listed(names)}: too little is off to tell why{shows}.")]


def _bits_beyond_rounding(failing: Sequence[Observed], name: str) -> float:
    """How unlikely it is to meet all errors of an output by chance, each within a standard deviation, in bits.

    Where nothing rounds, any error is more than chance.
    """
    bits = 0.0
    for one in (one for one in failing if name in one.failed):
        right, got, errors = one.right[name], (one.outputs or {}).get(name), precision.errors_of(one, name)
        if errors is None or not isinstance(right, Right) or got is None:
            return np.inf
        if np.any((right.deviation == 0) & (got.astype(np.float64) != right.value)):
            return np.inf
        bits += float(np.sum(np.log2(np.maximum(np.abs(errors), 1.0))))
    return bits


def _could_all_be_rounding(name: str, failing: Sequence[Observed]) -> bool:
    return all(precision.could_be_rounding(one, name) for one in failing if name in one.failed)


def _joined(claims: Sequence[Claim]) -> Diagnosis:
    ids = tuple(dict.fromkeys(id for claim in claims for id in claim.ids))
    return Diagnosis(ids, " ".join(claim.says for claim in claims), (), tuple(claims))


def _with(claims: Sequence[Claim], more: Diagnosis) -> Diagnosis:
    """These claims, and then another diagnosis."""
    says = " ".join(filter(None, [*(claim.says for claim in claims), more.says]))
    return Diagnosis(more.ids, says, more.matches, (*claims, *more.claims))


def _wrongs(failing: Sequence[Observed], left: frozenset[cover.Element]) -> dict[str, list[Wrong]]:
    """{output: where it is wrong}, in the order of the answer."""
    wrongs: dict[str, list[Wrong]] = {}
    for one in failing:
        assert one.outputs is not None
        rights = {n: r for n, r in one.right.items() if isinstance(r, Right)}
        for name in one.failed:
            got, right = one.outputs.get(name), rights.get(name)
            if (one.case.id, name) in left and got is not None and right is not None and _comparable(got, right):
                wrong = Wrong(name, one.case, right, rights, got.astype(np.float64))
                if np.any(wrong.wrong):  # otherwise the numbers are right, and the draws are wrong
                    wrongs.setdefault(name, []).append(wrong)
    return wrongs


def _not_finite(failing: Sequence[Observed]) -> list[Claim]:
    """Which outputs are NaN or infinite, and in which case first."""
    claims: dict[str, Claim] = {}
    for one in failing:
        assert one.outputs is not None
        for name in one.failed:
            got = one.outputs.get(name)
            if got is not None and got.dtype.kind == "f" and not np.all(np.isfinite(got)):
                claims.setdefault(name, Claim((), (name,), f"{name} is not finite in {one.case.id}."))
    return list(claims.values())


def _comparable(got: np.ndarray, right: Right) -> bool:
    return got.shape == right.value.shape and got.dtype.kind == "f" and bool(np.all(np.isfinite(got)))


def _finest(wrongs: list[Wrong]) -> list[Wrong]:
    """Those in the dtype with the most digits. The others show the same, more coarsely."""
    finest = min(wrongs, key=lambda wrong: PRECISIONS[wrong.case.dtype].store).case.dtype
    return [wrong for wrong in wrongs if wrong.case.dtype == finest]
