"""Faults of the catalogue in a part of the outputs or of the cases: everything else is right."""

from functools import partial

from npl_lora.oracle import CONTRACTS
from npl_lora.oracle.faults import wrong_answer
from npl_lora.oracle.faults.relevant import relevant_to

from .subject import Function, attempt, changed, equal, false_ids, float64_cases, named, reproduced, variants

COLUMNS = {
    "first": "the fault's id comes first",
    "equal": "the first id is another's, which gives the same numbers in float64 in every failing output",
    "alike": "the first id is another's, and every id explains some failing output within what is allowed",
    "named": "the fault's id is among the ids",
    "other id": "some id explains no failing output",
    "no id": "there is only a sentence",
    "silent": "there is not even a sentence",
    "passed": "nothing was judged wrong (not counted in the shares)",
}
BAD = ("other id", "no id", "silent", "+ false id")


def trials(contracts, dtypes):
    """Every fault's halves in every contract and dtype, as functions that make (subject, what to score with)."""
    for contract in contracts:
        for fault in relevant_to(contract):
            for label, outputs, masks in halves(contract, fault):
                answer = partial(_answer, contract, fault, outputs, masks)
                for dtype in dtypes:
                    name = f"{fault.name}, {label}, in {contract}, {dtype}"
                    yield contract, dtype, partial(_made, name, contract, answer, fault)


def _made(name, contract, answer, fault):
    return Function(name, contract, answer), fault


def _answer(contract, fault, outputs, masks, arrays, config):
    right = CONTRACTS[contract].answer(arrays, config)
    if ("mask" in arrays) not in masks:
        return right
    return {**right, **{n: t for n, t in wrong_answer(contract, fault)(arrays, config).items() if n in outputs}}


def halves(contract, fault):
    """(label, the outputs that are wrong, in cases with or without a mask), each set of changed numbers once."""
    changes = _changes(contract, fault)
    names = list(dict.fromkeys(name for wrong in changes.values() for name, _ in wrong))
    gradients = {name for name in names if name.startswith("d") and name != "delta"}
    branches = {mask for wrong in changes.values() for _, mask in wrong}
    kinds = [("whole", set(names), (True, False)), ("value", set(names) - gradients, (True, False))]
    kinds += [("gradients", gradients, (True, False)), *((f"{n} alone", {n}, (True, False)) for n in names)]
    if len(branches) == 2:
        kinds += [("with dropout", set(names), (True,)), ("without dropout", set(names), (False,))]
    seen = set()
    for label, outputs, masks in kinds:
        numbers = frozenset((i, n) for i, wrong in changes.items() for n, m in wrong if n in outputs and m in masks)
        if numbers and numbers not in seen:
            seen.add(numbers)
            yield label, outputs, masks


def _changes(contract, fault):
    """{number of the case: the outputs that the fault changes, each with whether the case has a mask}."""
    changes, given = {}, {"mask" in case for case in CONTRACTS[contract].cases("float64")}
    for i, case in enumerate(float64_cases(contract)):
        wrong = attempt(wrong_answer(contract, fault), case.arrays, case.config)
        if wrong is not None:
            right = CONTRACTS[contract].answer(case.arrays, case.config)
            mask = "mask" in case if len(given) == 2 else False
            changes[i] = [(name, mask) for name in right if name in changed(wrong, right)]
    return changes


def score(subject, fault, report):
    """The column, and whether some id is false although the first is not."""
    [contract] = report.contracts
    if contract.verdict == "pass":
        return "passed", False
    diagnosis, observed = contract.diagnosis, contract.observed
    false = set(diagnosis.ids) != {fault.id} and bool({*false_ids(contract.contract, diagnosis, observed)} - {fault.id})
    if not diagnosis.ids:
        return "no id" if diagnosis.says else "silent", False
    return _column(subject, fault, contract, false), false


def _column(subject, fault, contract, false):
    diagnosis, observed = contract.diagnosis, contract.observed
    if diagnosis.ids[0] == fault.id:
        return "first"
    answers = [a for faults in named(diagnosis.ids[:1]) for a in variants(contract.contract, faults[0])]
    if any(equal(subject.answer, answer, observed) for answer in answers):
        return "equal"
    failing = {(one.case.id, name) for one in observed for name in one.failed}
    if any(failing <= reproduced(answer, observed) for answer in answers):
        return "alike"
    if fault.id in diagnosis.ids:
        return "named"
    return "other id" if false else "alike"
