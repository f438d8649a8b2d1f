"""All hypotheses about a contract: the faults of the catalogue, their halves, and the generated edits."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from ..case import Case
from ..definition import Config
from ..faults import FAULTS
from ..faults.relevant import parts_used, relevant_to
from .edits import edits, output_edits, question_edits
from .hypothesis import Hypothesis, halves_of_fault, of_fault, with_parts
from .rope_angles import rope_edits

_RANK_OF_SCALES = 11


def edits_for(cases: Iterable[Case]) -> Iterator[Hypothesis]:
    """Every generated edit that can show in these cases of one contract."""
    cases = list(cases)
    contract = cases[0].contract
    told = set[str]()
    for case in cases:
        for edit in edits(case):
            if edit.says not in told:
                told.add(edit.says)
                yield edit
    yield from _scale_edits(contract)
    yield from rope_edits(cases[0])
    yield from question_edits(cases[0])
    yield from output_edits(cases[0])


_OTHER_SCALES: Mapping[str, Callable[[Config], Config]] = {
    "r were larger by 1 in the scale": lambda config: {**config, "r": config["r"] + 1},
    "r were smaller by 1 in the scale": lambda config: {**config, "r": config["r"] - 1},
    "alpha were larger by 1 in the scale": lambda config: {**config, "alpha": config["alpha"] + 1},
    "alpha were smaller by 1 in the scale": lambda config: {**config, "alpha": config["alpha"] - 1},
    "alpha / r were rounded up": lambda config: {**config, "alpha": math.ceil(config["alpha"] / config["r"]), "r": 1},
}


def _scale_edits(contract: str) -> Iterator[Hypothesis]:
    """The scale of another rank or alpha. A factor of the scale is an edit of the ops' argument."""
    for says, change in _OTHER_SCALES.items():
        parts = {"scale": partial(_scale_of, change)}
        if parts.keys() & parts_used(contract):
            yield Hypothesis(says, with_parts(contract, parts), _RANK_OF_SCALES)


def _scale_of(change: Callable[[Config], Config], scale: Any) -> Any:
    return lambda config: scale(change(config))


def known_faults(contract: str) -> Iterator[Hypothesis]:
    """The faults of the catalogue, and their halves."""
    relevant = relevant_to(contract, FAULTS)
    yield from (of_fault(contract, fault) for fault in relevant)
    for fault in relevant:
        yield from halves_of_fault(contract, fault)
