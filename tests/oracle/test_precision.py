"""Reduced inner precision passes where it is allowed, and only there; and the diagnosis tells it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle.test_verdicts import draw_case
from oracle.variants import plain, right_of

from npl_lora.oracle import CONTRACTS
from npl_lora.oracle.contracts.judging import judge_case
from npl_lora.oracle.diagnosis import diagnose
from npl_lora.oracle.report import Observed
from npl_lora.oracle.tolerance.judge import judge, right_answer
from npl_lora.oracle.tolerance.rounding import INNER, PRECISIONS, Precision, precision_of, round_to

FORMATS = {name: Precision(store, tiny, 2.0**-24) for name, (store, tiny) in INNER.items()}

# The contracts of a layer: y is a sum of matrix products with x.
LAYERS = [name for name, c in CONTRACTS.items() if c.forward and "x" in c.cases("float32")[0].arrays]


def coarse(inner):
    """The contract's answer in float32, each side of each matrix product rounded to the inner format first."""

    class Coarse(np.ndarray):
        def __array_ufunc__(self, ufunc, method, *inputs, **how):
            plain = [np.asarray(a) if isinstance(a, np.ndarray) else a for a in inputs]
            if ufunc is np.matmul:
                plain = [round_to(a.astype(np.float64), FORMATS[inner]).astype(np.float32) for a in plain]
            result = getattr(ufunc, method)(*plain, **how)
            return result.view(Coarse) if isinstance(result, np.ndarray) else result

    def answer(case):
        arrays = {name: a.view(Coarse) for name, a in case.arrays.items()}
        outputs = CONTRACTS[case.contract].answer(arrays, case.config)
        return {name: np.asarray(output) for name, output in outputs.items()}

    return answer


def failed(case, outputs):
    return {name for name, verdict in judge_case(case, outputs).items() if verdict.verdict == "fail"}


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("contract", LAYERS)
@settings(max_examples=8)
@given(seed=st.integers(0, 2**32 - 1), data=st.data())
@pytest.mark.slow
def test_reduced_products_pass_where_they_are_allowed_alone(contract, inner, seed, data):
    name = data.draw(st.sampled_from(list(CONTRACTS[contract].draws)))
    case = draw_case(contract, name, seed, "float32")
    allowed = type(case)(case.contract, case.id, case.dtype, case.config, case.arrays, inner=inner)
    outputs = coarse(inner)(case)
    assert failed(case, outputs) >= {"y"}
    assert failed(allowed, outputs) == set()


def test_a_coarser_format_than_allowed_fails():
    case = draw_case("lora_linear", "tokens", 0, "float32")
    allowed = type(case)(case.contract, case.id, case.dtype, case.config, case.arrays, inner="tf32")
    assert failed(allowed, coarse("bf16")(case)) >= {"y", "dx"}


def test_what_is_no_coarser_than_the_dtype_changes_nothing():
    assert precision_of("float16", "tf32") == PRECISIONS["float16"]
    assert precision_of("float64", "tf32").factors == 2.0**-11


def observed(outputs_of, dtype):
    found = []
    for case in CONTRACTS["lora_linear"].cases(dtype):
        outputs = outputs_of(case)
        verdicts = judge(right_of(case), outputs)
        wrong = tuple(name for name, verdict in verdicts.items() if verdict.verdict == "fail")
        found.append(Observed(case, right_answer(case, CONTRACTS["lora_linear"].answer), outputs, wrong))
    return found


@pytest.mark.parametrize(("inner", "words"), [("tf32", "11-bit significand"), ("bf16", "8-bit significand")])
def test_the_diagnosis_says_in_what_it_was_computed(inner, words):
    diagnosis = diagnose(observed(coarse(inner), "float32"))
    assert diagnosis.ids == ()
    assert words in diagnosis.says


def test_float32_inside_float64_is_told():
    def through_float32(case):
        return {name: a.astype(np.float32).astype(np.float64) for name, a in plain(case).items()}

    diagnosis = diagnose(observed(through_float32, "float64"))
    assert diagnosis.ids == ()
    assert "the errors of y, dx, dA, dB are those of a 24-bit significand" in diagnosis.says
