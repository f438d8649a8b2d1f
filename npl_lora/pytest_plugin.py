"""The pytest plugin: a function marked by npl_lora.testing.conforms becomes one test for each case.

pytest loads this plugin in every run where npl_lora is installed. So it imports nothing but pytest until a test file
imports npl_lora.testing itself.
"""

import sys
from typing import Any

import pytest


def pytest_pycollect_makeitem(collector: pytest.Collector, name: str, obj: object) -> list[pytest.Item] | None:
    """The tests of a marked function. None for any other object: pytest then collects it as usual."""
    testing = sys.modules.get("npl_lora.testing")
    asked = testing.asked(obj) if testing is not None else None
    if asked is None:
        return None
    return [CaseItem.from_parent(collector, name=f"{name}[{c.id}]", function=obj, case=c) for c in asked.cases()]


class CaseItem(pytest.Item):
    """One case, asked of one function."""

    def __init__(self, *, function: Any, case: Any, **more: Any) -> None:
        super().__init__(**more)
        self.function = function
        self.case = case
        self.own_markers.extend(getattr(function, "pytestmark", []))

    def runtest(self) -> None:
        from .testing import check_function

        report, diagnosis = check_function(self.function, self.case)
        if report.verdict == "absent":
            pytest.skip(report.message)
        if report.verdict == "fail":
            pytest.fail("\n".join(filter(None, (diagnosis.says, report.message))), pytrace=False)

    def reportinfo(self) -> tuple[Any, None, str]:
        return self.path, None, self.name
