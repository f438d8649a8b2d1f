"""Subjects with faults from the catalogue."""

from typing import Any

import numpy as np

from ...lora import dropout_mask
from ..case import Case
from ..contracts import CONTRACTS
from ..dtypes import computable, dtype_by_name
from ..faults import Fault, wrong_answer
from ..tolerance.statistics import Distribution
from . import Answer


class Injected:
    """The definition with these faults, computed in the case's own dtype. Without faults it is a right subject."""

    def __init__(self, *faults: Fault, seed: int = 0) -> None:
        self.name = " and ".join(fault.name for fault in faults) or "no fault"
        self.contracts = tuple(CONTRACTS)
        self._faults = faults
        self._rng = np.random.default_rng(seed)

    def ask(self, case: Case) -> Answer:
        try:
            with np.errstate(all="ignore"):
                arrays = computable(self.question(case).arrays)
                outputs = wrong_answer(case.contract, *self._faults)(arrays, case.config)
                numbers = {name: self._numbers(output) for name, output in outputs.items()}
                return Answer(outputs=({name: t.astype(dtype_by_name(case.dtype)) for name, t in numbers.items()},))
        except (ValueError, IndexError) as error:
            return Answer(error=str(error))

    def question(self, case: Case) -> Case:
        """The case, with the dropout masks that a subject would draw added."""
        settle = CONTRACTS[case.contract].settle
        if settle is None:
            return case
        settled = settle(case, {})
        masks = {
            name: dropout_mask(settled[name].shape, case.config["p"], self._rng, np.float32).astype(settled[name].dtype)
            for name in settled.arrays  # in their order, since each draw goes on from the one before
            if name not in case.arrays
        }
        return case.with_arrays(masks)

    def _numbers(self, output: Any) -> np.ndarray:
        return output.draw(self._rng) if isinstance(output, Distribution) else np.asarray(output)

    def close(self) -> None:
        """Nothing runs."""
