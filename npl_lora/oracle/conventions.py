"""Conventions of layers: another definition that a layer keeps to, so that its gradients are those of its own forward.

They are stated and excused, not accused. The scale's conventions are found by adoption; these are faults of the
catalogue that, when they explain everything that differs in an adopted layer, are a choice of its author.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from .deviations import excuse
from .report import Report

CONVENTIONS: Mapping[str, str] = MappingProxyType(
    {"R4": "DoRA's norm is differentiated here; the paper (section 4.3) and PEFT hold it constant in the backward."}
)


def state_conventions(report: Report) -> Report:
    """The report, in which failures that a convention explains alone are expected, and the convention is stated."""
    explaining = (match for contract in report.contracts for match in contract.diagnosis.matches)
    stated = {id_: CONVENTIONS[id_] for match in explaining if set(match) <= CONVENTIONS.keys() for id_ in match}
    if not stated:
        return report
    sentences = filter(None, (report.convention, *stated.values()))
    return replace(excuse(report, stated), convention=" ".join(sentences))
