"""Opening a target by its name, and the subjects that ship with the package."""

import importlib.util

from . import Subject, TargetError
from .process import ProcessSubject
from .self_ops import SelfSubject

# What each shipped subject needs besides NumPy. All of it comes with the extra "torch".
SHIPPED: dict[str, tuple[str, ...]] = {
    "self": (),
    "peft": ("torch", "peft", "transformers"),
    "loralib": ("torch", "loralib"),
}


def missing(target: str) -> list[str]:
    """The packages that a shipped subject lacks here."""
    return [package for package in SHIPPED.get(target, ()) if importlib.util.find_spec(package) is None]


def missing_sentence(target: str) -> str:
    """Why a shipped subject cannot be checked here, and what mends it."""
    return f"{target} needs {' and '.join(missing(target))}: pip install 'npl-lora[torch]'"


def open_subject(target: str, contract: str | None = None, timeout: float = 60.0) -> Subject:
    """A shipped subject, a file, or importable code. Raises TargetError, one sentence, when it cannot be checked."""
    if target == "self":
        return SelfSubject()
    if missing(target):
        raise TargetError(missing_sentence(target))
    return ProcessSubject(target, contract=contract, timeout=timeout)
