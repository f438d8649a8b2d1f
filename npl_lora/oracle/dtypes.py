"""The dtypes of the cases, by name. bfloat16 is ml_dtypes' and an extra: imported only where it is asked for."""

from collections.abc import Mapping
from importlib.util import find_spec

import numpy as np

from ..support.extras import MissingExtraError, require
from ..support.names import Names, as_names

DTYPES = ("float64", "float32", "float16", "bfloat16")


def askable() -> tuple[str, ...]:
    """Those that cases can be drawn in here."""
    return DTYPES if find_spec("ml_dtypes") else DTYPES[:-1]


def missing() -> list[str]:
    """For each dtype that needs a package that is not installed, the sentence that says so."""
    sentences = []
    for name in DTYPES:
        try:
            dtype_by_name(name)
        except MissingExtraError as error:
            sentences.append(str(error))
    return sentences


def known(dtypes: Names | None) -> tuple[str, ...]:
    """The dtypes that a caller names, one or several; None: all that cases can be drawn in here. Raises ValueError."""
    names = askable() if dtypes is None else as_names(dtypes)
    if unknown := [name for name in names if name not in DTYPES]:
        raise ValueError(f"dtypes has {', '.join(map(repr, unknown))}, expected some of {', '.join(DTYPES)}")
    return names


def dtype_by_name(name: str) -> np.dtype:
    """NumPy's own, or ml_dtypes'. Raises MissingExtraError without ml_dtypes, AttributeError for no such name."""
    if not str.isidentifier(name):  # NumPy would parse "i4,(2,3)f8" as Python
        raise AttributeError(f"no dtype has the name {name[:40]!r}")
    try:
        return np.dtype(name)
    except TypeError:
        return np.dtype(getattr(require("ml_dtypes", "files", name), name))


def is_narrow(dtype: np.dtype) -> bool:
    """Whether this is one of ml_dtypes' floating dtypes: NumPy says no more of them than their name."""
    return dtype.isbuiltin == 2 and "float" in dtype.name


def computable(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays in a dtype that NumPy computes in: float32 for ml_dtypes' own, else as they are."""
    return {name: a.astype(np.float32) if is_narrow(a.dtype) else a for name, a in arrays.items()}
