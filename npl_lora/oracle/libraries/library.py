"""What a library is to the oracle: how it is reached, what it needs, and what is known of it."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib.util import find_spec


@dataclass(frozen=True)
class Reason:
    """Why a case does not simply pass.

    kind: a "convention" is another definition that the library keeps to: its gradients are those of its own forward.
    A "fault" is wrong by the library's own account too, or loses digits that the dtype has. "absent": the library does
    not have what the case asks for. The complex step decided between convention and fault; it agrees with the
    definition in every case (`npl-lora check self`).

    sentence: what the library does. example: the shortest script that shows it. prints: what that script prints.
    """

    kind: str
    sentence: str
    example: str = ""
    prints: str = ""

    def __post_init__(self) -> None:
        if self.kind not in ("convention", "fault", "absent"):
            raise ValueError(f"a reason's kind is {self.kind!r}, expected convention, fault or absent")


# {pattern of case ids: (verdict, reason)}. The verdict is "pass", "fail" or "absent"; its kind stands in the reason.
# The first pattern that matches a case counts; without one the case passes.
Verdicts = Mapping[str, tuple[str, Reason | None]]


@dataclass(frozen=True)
class Library:
    """A library that ships as a subject.

    name: its target in `npl-lora check NAME`, and the extra that installs it with its versions pinned.
    packages: what it needs besides NumPy, as Python imports them. The first is the library itself.
    verdicts: what is known of its cases. beyond: faults of the library that no case asks for.
    slow: takes minutes, so it is checked only when it is named. needs_compiler: it compiles C++.
    """

    name: str
    packages: tuple[str, ...]
    verdicts: Verdicts = field(default_factory=dict)
    beyond: tuple[Reason, ...] = ()
    slow: bool = False
    needs_compiler: bool = False

    def __post_init__(self) -> None:
        for pattern, (verdict, _) in self.verdicts.items():
            if verdict not in ("pass", "fail", "absent"):
                raise ValueError(f"{self.name}: the verdict on {pattern} is {verdict!r}, expected pass, fail or absent")

    @property
    def module(self) -> str:
        """The module that asks the library: one function for each contract."""
        return f"{__package__}.{self.name.replace('-', '_')}"

    @property
    def distributions(self) -> tuple[str, ...]:
        """The packages by their names on PyPI."""
        return tuple(package.replace("_", "-") for package in self.packages)

    def verdict(self, case: str) -> tuple[str, Reason | None]:
        """The verdict recorded for a case's id, with its reason: ("pass", None) where nothing is recorded."""
        return next((entry for pattern, entry in self.verdicts.items() if fnmatchcase(case, pattern)), ("pass", None))

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Every reason that is known, once."""
        of_cases = [reason for _, reason in self.verdicts.values() if reason is not None]
        return tuple(dict.fromkeys([*of_cases, *self.beyond]))

    def obstacle(self) -> str:
        """One sentence: why the library cannot be checked here, and how to change that. Empty when it can."""
        if missing := [package for package in self.packages if find_spec(package) is None]:
            return f"{self.name} needs {' and '.join(missing)}: pip install 'npl-lora[{self.name}]'"
        if self.needs_compiler and shutil.which(os.environ.get("CXX", "g++")) is None:
            return f"{self.name} needs a C++ compiler: g++, or what CXX names"
        return ""
