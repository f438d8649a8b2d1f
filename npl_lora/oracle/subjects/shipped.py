"""Opens a target by its name. Subjects that ship with the package: self and the libraries."""

from ...support.names import Names
from ..libraries.table import LIBRARIES
from . import Subject, TargetError
from .process import ProcessSubject
from .self_ops import SelfSubject

SHIPPED = ("self", *LIBRARIES)
SLOW = tuple(library.name for library in LIBRARIES.values() if library.slow)


def default_targets() -> list[str]:
    """The targets checked by default: self and every installed library that is not slow."""
    return ["self", *(name for name in LIBRARIES if name not in SLOW and not LIBRARIES[name].obstacle())]


def obstacles() -> list[str]:
    """For each library that cannot be checked here, a sentence with the reason."""
    return [sentence for library in LIBRARIES.values() if (sentence := library.obstacle())]


def layers_of(subject: Subject) -> list[str]:
    """The targets that stand for a module of layers, one each; [] for any other subject."""
    return [f"{subject.name}:{name}" for name in getattr(subject, "layers", ())]


def open_subject(target: str, contract: Names | None = None, timeout: float = 60.0) -> Subject:
    """Open a shipped subject, a file or importable code, for all its contracts or those that are named.

    Raises TargetError, one sentence, if it cannot be checked.
    """
    if target == "self":
        return SelfSubject()
    if target in LIBRARIES and (sentence := LIBRARIES[target].obstacle()):
        raise TargetError(sentence)
    return ProcessSubject(target, contract=contract, timeout=timeout)
