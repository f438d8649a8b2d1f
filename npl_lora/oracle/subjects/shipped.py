"""Opening a target by its name, and the subjects that ship with the package."""

import importlib.util
import os
import shutil

from . import Subject, TargetError
from .process import ProcessSubject
from .self_ops import SelfSubject

# What each shipped subject needs besides NumPy, and what it is a check of: its first package. Each has an extra of its
# name, where the versions are pinned.
SHIPPED: dict[str, tuple[str, ...]] = {
    "self": (),
    "peft": ("peft", "torch", "transformers"),
    "loralib": ("loralib", "torch"),
    "torchtune": ("torchtune", "torch", "torchao"),
    "keras": ("keras", "torch"),
    "mlx": ("mlx_lm", "mlx"),
    "torch-compiled": ("torch",),
}

SLOW = ("torch-compiled",)  # minutes, for each case is compiled: checked when it is named


def missing(target: str) -> list[str]:
    """The packages that a shipped subject lacks here."""
    return [package for package in SHIPPED.get(target, ()) if importlib.util.find_spec(package) is None]


def missing_sentence(target: str) -> str:
    """Why a shipped subject cannot be checked here, and what mends it; nothing when it can."""
    if lacking := missing(target):
        return f"{target} needs {' and '.join(lacking)}: pip install 'npl-lora[{target}]'"
    if target == "torch-compiled" and shutil.which(os.environ.get("CXX", "g++")) is None:
        return "torch-compiled needs a C++ compiler: g++, or what CXX names"
    return ""


def open_subject(target: str, contract: str | None = None, timeout: float = 60.0) -> Subject:
    """A shipped subject, a file, or importable code. Raises TargetError, one sentence, when it cannot be checked."""
    if target == "self":
        return SelfSubject()
    if sentence := missing_sentence(target):
        raise TargetError(sentence)
    return ProcessSubject(target, contract=contract, timeout=timeout)
