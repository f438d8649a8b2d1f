"""What is said of an adopted layer, and how the check's questions are put to it. Data alone: it crosses a pipe."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..case import Case
from ..definition import RIGHT
from .facts import Fact
from .fused import Groups, question

_MADE_SQUARE = ("lora_linear", "lora_merge", "lora_dropout", "train_steps")


@dataclass(frozen=True)
class Adoption:
    """found: sentences, the first with the tensors' roles. convention: a sentence if the scale follows another law than
    alpha / r; else "". scales: {r: s} of a layer that takes neither alpha nor a scale. facts: what was asked besides
    the contracts. without: {contract: the outputs that the layer does not have}. exact: whether the scale is the one
    that was asked for to the last bit; else nothing is asked without a tolerance. square: whether W must be square, or
    each group of a fused projection. groups: of such a one, whether each has factors."""

    found: tuple[str, ...]
    convention: str = ""
    scales: Mapping[int, float] | None = None
    facts: tuple[Fact, ...] = ()
    without: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    exact: bool = True
    square: bool = False
    groups: Groups = ()

    @property
    def values_alone(self) -> bool:
        """Whether it has no backward, so that its values alone are asked."""
        return "dA" in self.without.get("lora_linear", ())

    def question(self, case: Case) -> Case:
        """The case as the layer can be asked it: without outputs that it does not have, with a square weight if it
        takes no other, and with the layer's own scale if nobody can hand it another."""
        if self.groups:
            case = question(case, self.groups, self.square)
        elif self.square:
            case = _with_square_weight(case)
        case = replace(case, without=self.without.get(case.contract, ()), exact=case.exact and self.exact)
        if not self.scales or "use_rslora" not in case.config or "alpha" not in case.config:
            return case
        rank = case.config["r"]
        s = self.scales.get(rank)
        if s is None:
            return case
        config = {**case.config, "alpha": s * rank, "use_rslora": False}
        exact = case.exact and math.frexp(s)[0] == 0.5 and abs(s) <= abs(RIGHT.scale(case.config))
        return replace(case, config=config, exact=exact)

    def as_json(self) -> dict[str, Any]:
        return {
            "found": list(self.found),
            "convention": self.convention,
            "scales": {str(r): s for r, s in (self.scales or {}).items()},
            "without": {contract: list(names) for contract, names in self.without.items()},
            "exact": self.exact,
            "square": self.square,
            "groups": list(self.groups),
            "facts": [[fact.name, fact.wrong] for fact in self.facts],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Adoption":
        """The inverse of as_json."""
        scales = {int(r): s for r, s in data["scales"].items()}
        facts = tuple(Fact(name, wrong) for name, wrong in data["facts"])
        without = {contract: tuple(names) for contract, names in data["without"].items()}
        flags = data["exact"], data["square"], tuple(data["groups"])
        return cls(tuple(data["found"]), data["convention"], scales or None, facts, without, *flags)


def _with_square_weight(case: Case) -> Case:
    """The case with as many inputs as outputs: those that are too many are left out.

    AdamW's case is left as it is: its arrays were drawn so that no gradient is tiny. A step's exact case is exact at
    its own size alone.
    """
    if case.contract not in _MADE_SQUARE or "W" not in case or case.config.get("optimizer") == "adamw":
        return case
    n = min(case["W"].shape)
    cut: dict[str, Any] = {"W": np.s_[:n, :n], "B": np.s_[:n]}  # of all others the last axis is in or out
    arrays = {name: array[cut.get(name, np.s_[..., :n])] for name, array in case.arrays.items()}
    return replace(case, arrays=arrays, exact=case.exact and case.contract != "train_steps")
