"""npl_lora.check in Python and notebooks."""

import subprocess
import sys

import pytest

import npl_lora
from npl_lora.oracle import TargetError


class Right:
    """Answers cases by itself, so nothing is adopted."""

    def rms_norm(self, case):
        x, weight = case["x"].astype("float64"), case["weight"].astype("float64")
        raise NotImplementedError(f"asked for {x.shape} and {weight.shape}")


def wrong(case):
    return {"y": case["x"]}


def test_an_object_is_checked_and_prints_as_the_command_does():
    reports = npl_lora.check(wrong, contract="lora_linear", dtypes=["float64"])
    assert reports.verdict == "fail"
    assert str(reports).startswith("wrong  fail\nlora_linear: ")
    assert repr(reports) == str(reports)


def test_a_dtype_that_cannot_be_asked_here_is_said():
    code = (
        "import sys\nsys.modules['ml_dtypes'] = None\nimport npl_lora\nf = lambda case: {}\n"
        "all_of_them, one = (npl_lora.check(f, contract='rope', dtypes=d) for d in (None, 'float64'))\n"
        "print(all_of_them, 'bfloat16' in all_of_them._repr_html_(), 'bfloat16' in str(one) + one._repr_html_())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    said = "not checked: bfloat16 needs ml_dtypes: pip install 'npl-lora[files]'"
    assert done.stdout.endswith(f"\n{said} True False\n"), done.stdout + done.stderr


def test_a_string_is_one_name():
    by_string, by_list = (
        npl_lora.check(wrong, contract=contract, dtypes=dtypes).reports[0].as_json()
        for contract, dtypes in (("rope", "float32"), (["rope"], ["float32", "float32"]))
    )
    assert by_string == by_list
    assert {case["dtype"] for case in by_string["contracts"]["rope"]["cases"]} == {"float32"}
    with pytest.raises(ValueError, match=r"^dtypes has 'float8', expected some of float64, "):
        npl_lora.check(wrong, contract="rope", dtypes="float8")


def test_several_contracts_may_be_asked():
    class Mine:
        lora_merge = lora_linear = rope = staticmethod(wrong)

    (report,) = npl_lora.check(Mine(), contract=["rope", "lora_merge"], dtypes="float32").reports
    assert [contract.contract for contract in report.contracts] == ["lora_merge", "rope"]


def test_it_shows_itself_as_a_page_in_a_notebook():
    page = npl_lora.check(wrong, contract="lora_linear", dtypes=["float64"])._repr_html_()
    assert page.lstrip().startswith("<")
    assert "lora_linear" in page


def test_a_path_is_checked(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def lora_linear(case):\n    raise NotImplementedError('not yet')\n")
    reports = npl_lora.check(file, dtypes=["float64"])
    assert reports.verdict == "error"
    assert "not yet" in str(reports)


def test_what_cannot_be_checked_gets_a_sentence(tmp_path):
    for thing, words in ((3, "no function named"), (wrong, "add --contract NAME"), (tmp_path, "a folder")):
        with pytest.raises(TargetError, match=words):
            npl_lora.check(thing)


def test_a_class_that_answers_cases_is_no_layer():
    reports = npl_lora.check(Right, dtypes=["float64"])
    assert [one.contract for one in reports.reports[0].contracts] == ["rms_norm"]
