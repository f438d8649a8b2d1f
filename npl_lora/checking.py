"""For Python and notebooks: check a layer, a function, a module or a path, and look at the report.

import npl_lora
npl_lora.check(LoRALinear)         # prints as `npl-lora check` does, and shows itself as HTML in a notebook
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .oracle import Report, TargetError, check, open_subject, overall
from .oracle.dtypes import missing
from .oracle.page import page
from .oracle.subjects.objects import ObjectSubject
from .oracle.subjects.shipped import layers_of
from .support.names import Names


@dataclass(frozen=True)
class Reports:
    """The reports on what was checked: one, or one for each layer of a file. verdict: of all of them. not_checked:
    sentences on the dtypes that cannot be asked here, where all were to be."""

    reports: tuple[Report, ...]
    not_checked: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        return overall(self.reports)

    def __str__(self) -> str:
        from .cli.show import as_text

        return as_text(self.reports, self.not_checked)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return page(self.reports, self.not_checked)


def check_anything(thing: Any, *, contract: Names | None = None, dtypes: Names | None = None) -> Reports:
    """Check a layer (a class, an instance, or a function that builds one), a function that takes a case, a module or
    object with such functions, or the path of a file, as `npl-lora check` names it.

    An object is asked in this process; a path in a process of its own. contract, dtypes: a name or several; all by
    default. Raises TargetError, one sentence, for what cannot be checked.
    """
    not_checked = tuple(missing()) if dtypes is None else ()
    if isinstance(thing, (str, os.PathLike)):
        return Reports(tuple(_of_path(os.fspath(thing), contract, dtypes)), not_checked)
    return Reports((check(ObjectSubject(thing, contract), dtypes=dtypes, contract=contract),), not_checked)


def _of_path(target: str, contract: Names | None, dtypes: Names | None) -> Iterable[Report]:
    subject = open_subject(target, contract)
    try:
        layers = layers_of(subject)
        if not layers:
            yield check(subject, dtypes=dtypes, contract=contract)
    finally:
        subject.close()
    for layer in layers:
        try:
            yield from _of_path(layer, contract, dtypes)
        except TargetError as error:
            yield Report(layer, problem=str(error))
