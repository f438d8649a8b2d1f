"""The pytest plugin: a function marked by npl_lora.testing.conforms becomes one test for each case.

pytest loads this plugin in every run where npl_lora is installed. So it imports nothing but pytest until a test file
imports npl_lora.testing itself.
"""

import inspect
import sys
import traceback
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
        self.raised: Exception | None = None
        self.own_markers.extend(getattr(function, "pytestmark", []))

    def runtest(self) -> None:
        from .testing import check_function

        checked = check_function(self.function, self.case)
        self.raised = checked.raised
        if checked.report.verdict == "absent":
            pytest.skip(checked.report.message)
        if checked.report.verdict == "fail":
            message = "\n".join(filter(None, (checked.diagnosis.says, checked.report.message)))
            failure = pytest.fail.Exception(message, pytrace=False)
            raise failure.with_traceback(getattr(self.raised, "__traceback__", None))  # --pdb stops where it was raised

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *options: Any) -> Any:
        """The message, and below it the traceback of what the function raised, from the function on."""
        said: Any = super().repr_failure(excinfo, *options)
        if self.raised is not None:
            place = self.raised.__traceback__
            while place is not None and f"{place.tb_frame.f_globals.get('__name__')}".startswith("npl_lora."):
                place = place.tb_next
            said.addsection("raised", "".join(traceback.format_exception(type(self.raised), self.raised, place)))
        return said

    def reportinfo(self) -> tuple[Any, int, str]:
        """The file, the line of the function in it, counted from 0, and the name. A skip is reported there."""
        code = getattr(inspect.unwrap(self.function), "__code__", None)
        line = 0 if code is None or code.co_filename != str(self.path) else code.co_firstlineno - 1
        return self.path, line, self.name
