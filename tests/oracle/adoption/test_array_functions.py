"""Functions of named arrays in NumPy, which have no backward and are asked for y; and what is no such function."""

import numpy as np
import pytest

import npl_lora
from npl_lora.oracle import TargetError, check
from npl_lora.oracle.adoption import takes_arrays
from npl_lora.oracle.subjects.objects import ObjectSubject


def right(x, W, A, B, alpha, r):
    return np.asarray(x @ W.T + alpha / r * (x @ A.T) @ B.T)


def stored_the_other_way(x, w, a, b, scale):
    return x @ w + scale * (x @ a @ b)


def path_alone(x, lora_A, lora_B, alpha, rank):
    return (x @ lora_A.T) @ lora_B.T * (alpha // rank)


def bias_and_mask_needed(x, W, b, A, B, scale, mask):
    return x @ W.T + b + scale * ((x * mask) @ A.T @ B.T)


def merge_alone(W, A, B, alpha, r):
    return W + alpha / r * B @ A


def raises(x, W, A, B):
    return x @ W.T + x @ (B @ A)


def report_on(function):
    return check(ObjectSubject(function), dtypes=["float64"], contract="lora_linear")


@pytest.mark.parametrize(
    ("function", "verdict", "words"),
    [
        (right, "pass", "W (out, in); A (r, in); B (out, r); s = alpha / r"),
        (stored_the_other_way, "convention", "w (in, out); a (in, r); b (r, out); s = scale"),
        (bias_and_mask_needed, "convention", "W (out, in); A (r, in); B (out, r); s = scale"),
        (path_alone, "fail", "lora_A (r, in); lora_B (out, r)"),
    ],
)
def test_a_function_is_adopted(function, verdict, words):
    report = report_on(function)
    assert report.verdict == verdict
    assert words in report.found[0]


def test_what_a_function_cannot_do_without_is_neutral_where_a_case_has_none():
    (contract,) = report_on(bias_and_mask_needed).contracts
    assert {case.verdict for case in contract.cases} == {"pass"}


def test_a_merge_is_no_builder_of_layers():
    with pytest.raises(TargetError, match="not the name of a contract"):
        ObjectSubject(merge_alone)


def test_only_y_is_asked():
    asked = [case for case in report_on(right).contracts[0].cases if case.verdict != "absent"]
    assert asked
    assert all(list(case.outputs) == ["y"] for case in asked)
    assert report_on(right).verdict_in_words == "pass, forward only"


def test_an_integer_division_is_named():
    assert report_on(path_alone).diagnosis == ("S15",)


def test_a_function_that_cannot_be_called_is_no_fault():
    with pytest.raises(TargetError, match="raises was not adopted: it raises with W, A and B whichever way round"):
        ObjectSubject(raises)


@pytest.mark.parametrize("call", [lambda case: case, lambda x, W, A, B, eps: x, lambda x, W: x, dict, 3])
def test_what_is_no_function_of_arrays(call):
    assert not takes_arrays(call)


def test_a_file_whose_function_is_named_after_the_contract_and_takes_arrays(tmp_path):
    (tmp_path / "mine.py").write_text(
        "def lora_linear(x, W, A, B, scale, bias=None):\n"
        "    y = x @ W.T + scale * (x @ A.T) @ B.T\n"
        "    return y if bias is None else y + bias\n"
    )
    (report,) = npl_lora.check(tmp_path / "mine.py", dtypes="float64").reports
    assert (report.verdict_in_words, report.contracts[-1].verdict) == ("convention, forward only", "pass")
