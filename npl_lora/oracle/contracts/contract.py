"""What a contract is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...ops import Pullback
from ...support.array import Array
from ..case import Case
from ..definition import RIGHT, AnswerFunction, Config, Definition
from ..tolerance.judge import OutputVerdict
from ._exact import largest_sum
from .draw import Draw, WholeNumbers

_TRIES = 1000
_WASTED = 2.0**-6  # an exact case whose sums are smaller than so much of what is exact asks little


def without_base(arrays: dict[str, np.ndarray], config: Config) -> tuple[dict[str, np.ndarray], Config]:
    """The same with W, or the embedding's E, zero: the rounding of the base term hides nothing of LoRA's."""
    return {name: np.zeros_like(array) if name in "WE" else array for name, array in arrays.items()}, config


@dataclass(frozen=True)
class Polynomial:
    """An op that is a polynomial of its inputs, so that its pullback can be proved over the integers.

    op: its name. case: the contract's case that gives the shapes, the ids and the op's other arguments.
    """

    op: str
    case: str


@dataclass(frozen=True)
class Contract:
    """name; the right answer, as a function of arrays and configuration; and how to draw each case, by the case's name.

    answer(arrays, config, definition) -> {output: array}. draws: {id: draw(Draw) -> (arrays, config)}.
    forward(arrays, config, definition) -> value, pullback: the op whose value and gradients the answer is, where it is
    one. For a contract whose right answer depends on what the subject drew: settle(case, outputs) -> the case with that
    in it, which answer then takes; and judge(case, outputs) -> {output: OutputVerdict}, which judges the draws as well.
    exact: draws like the others, whose numbers are all whole ones (see _exact). proof(arrays, config) -> what must stay
    below 2^p for the exact cases to be exact, where it is not the answer itself.
    polynomial: the op to prove over the integers, where it is a polynomial. terms: {output: (formula of the base term,
    formula of the low-rank term)} for the outputs that are the sum of the two; an implementation may lose either.
    leading: the arrays with x's leading axes, if x may have any number of them.
    value_name: the output that is the value of forward. no_forward: for an answer that nobody can give without a
    backward, the reason.
    """

    name: str
    answer: AnswerFunction
    draws: Mapping[str, Callable[[Draw], tuple[dict[str, np.ndarray], Config]]]
    forward: Callable[..., tuple[Array, Pullback]] | None = None
    judge: Callable[[Case, Mapping[str, np.ndarray]], dict[str, OutputVerdict]] | None = None
    settle: Callable[[Case, Mapping[str, np.ndarray]], Case] | None = None
    exact: Mapping[str, Callable[[Draw], tuple[dict[str, np.ndarray], Config]]] = field(default_factory=dict)
    proof: AnswerFunction | None = None
    polynomial: Polynomial | None = None
    terms: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    leading: tuple[str, ...] = ()
    value_name: str = "y"
    no_forward: str = ""
    _drawn: dict[str, list[Case]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def cases(self, dtype: str) -> list[Case]:
        """The contract's cases in one dtype, the exact ones last. Drawn once: they are always the same."""
        if dtype not in self._drawn:
            self._drawn[dtype] = self._draw(dtype)
        return list(self._drawn[dtype])

    def value(self, arrays: Mapping[str, Array], config: Config, definition: Definition) -> dict[str, Array]:
        """The op's value alone, without its gradients, which are most of the work; {} where the answer is no op's."""
        return {} if self.forward is None else {self.value_name: self.forward(arrays, config, definition)[0]}

    def _draw(self, dtype: str) -> list[Case]:
        cases = []
        for name, draw in self.draws.items():
            arrays, config = draw(Draw(f"{self.name}/{name}", dtype))
            cases.append(Case(self.name, f"{self.name}/{name}/{dtype}", dtype, config, arrays))
        return cases + [self.exact_case(name, dtype) for name in self.exact]

    def exact_case(self, name: str, dtype: str) -> Case:
        """Smaller and smaller numbers, until it is proved that nothing is rounded. AssertionError if that never is."""
        numbers = WholeNumbers(f"{self.name}/{name}", dtype)
        for _ in range(_TRIES):
            arrays, config = self.exact[name](numbers)
            case = Case(self.name, f"{self.name}/{name}/{dtype}", dtype, config, arrays, exact=True)
            excess = largest_sum(case, self.proof or self.answer)
            if _WASTED < excess < 1.0:
                return case
            if not excess < 1.0:
                numbers.shrink(excess)
        raise AssertionError(f"{case.id} is not exact: its largest sum is {excess:.3g} times 2^p")


def lora(r: int, alpha: float, use_rslora: bool = False, **more: Any) -> Config:
    """The configuration that every LoRA contract has, and more."""
    return {"r": r, "alpha": alpha, "use_rslora": use_rslora, **more}


def scales(config: Config, d: Definition = RIGHT) -> list[float]:
    """The scale of each adapter, for the contracts of several: r, alpha and use_rslora are lists there."""
    names = ("r", "alpha", "use_rslora")
    adapters = zip(*(config[name] for name in names), strict=True)
    return [d.scale(dict(zip(names, adapter, strict=True))) for adapter in adapters]


def inputs(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """What the op takes of a case's arrays: all but the gradient that comes back."""
    return {name: array for name, array in arrays.items() if name != "dy"}


def gradients(grads: Mapping[str, Array]) -> dict[str, Array]:
    """{"x": dx} -> {"dx": dx}."""
    return {f"d{name}": grad for name, grad in grads.items()}
