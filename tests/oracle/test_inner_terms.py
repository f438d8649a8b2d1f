"""Terms inside an op: each is known by its formula, and one of them can be changed, without a copy of the op."""

import numpy as np
import pytest

from npl_lora.oracle import CONTRACTS
from npl_lora.oracle.case import widen
from npl_lora.oracle.definition import RIGHT
from npl_lora.oracle.diagnosis.calls import record
from npl_lora.oracle.diagnosis.hypothesis import has_pullback, with_parts
from npl_lora.oracle.diagnosis.inner_terms import terms_of, with_term
from npl_lora.oracle.diagnosis.traced import BACKWARD, FORWARD
from npl_lora.oracle.tolerance.judge import right_answer

LINEAR = {
    "x A^T": FORWARD,
    "x W^T": FORWARD,
    "scale x A^T B^T": FORWARD,
    "scale dy B": BACKWARD,
    "scale dy B A": BACKWARD,
    "dy W": BACKWARD,
}


def linear_case(**has):
    """One of lora_linear's cases with, or without, these arrays."""
    cases = CONTRACTS["lora_linear"].cases("float64")
    return next(case for case in cases if all((name in case) == there for name, there in has.items()))


def has_terms(part, calls):
    return bool(terms_of(part, calls[0].arguments))


@pytest.mark.parametrize("contract", [name for name in CONTRACTS if name not in ("lora_init", "lora_dropout")])
def test_an_op_on_traced_arrays_computes_what_it_computes(contract):
    for case in CONTRACTS[contract].cases("float64"):
        edited = [part for part, calls in record(case).items() if has_pullback(part) and has_terms(part, calls)]
        parts = {part: with_term(frozenset(), np.negative) for part in edited}
        traced = with_parts(contract, parts)
        right = CONTRACTS[contract].answer
        for name, t in traced(widen(case), case.config).items():
            np.testing.assert_array_equal(t, right(widen(case), case.config)[name])
        allowed = right_answer(case, right)
        for name, one in right_answer(case, traced).items():
            np.testing.assert_array_equal(one.allowed, allowed[name].allowed)


@pytest.mark.parametrize("has", [dict(mask=False, b=False), dict(mask=False, b=True), dict(mask=True)])
def test_a_term_has_one_formula_whether_or_not_an_option_is_there(has):
    [call] = record(linear_case(**has))["lora_linear"]
    found = {
        formula: phase for formula, (terms, _) in terms_of("lora_linear", call.arguments).items() for phase, _ in terms
    }
    assert found == LINEAR


@pytest.mark.parametrize("mask", [False, True])
def test_one_term_is_changed_and_nothing_else(mask):
    case = linear_case(mask=mask)
    t, s = widen(case), RIGHT.scale(case.config)
    wrong = with_parts("lora_linear", {"lora_linear": with_term(frozenset({(FORWARD, "x A^T")}), lambda h: h * h)})
    got, right = wrong(t, case.config), CONTRACTS["lora_linear"].answer(t, case.config)
    h = (t["x"] * t.get("mask", 1.0)) @ t["A"].T
    np.testing.assert_allclose(got["y"] - right["y"], s * ((h * h - h) @ t["B"].T), atol=1e-12)
    rows = lambda a: a.reshape(-1, a.shape[-1])  # noqa: E731
    np.testing.assert_allclose(got["dB"], s * rows(t["dy"]).T @ rows(h * h), atol=1e-12)
    np.testing.assert_array_equal(got["dx"], right["dx"])
    np.testing.assert_array_equal(got["dA"], right["dA"])


def test_terms_of_attention_and_of_dora_are_formulas_of_their_arguments():
    [case, *_] = CONTRACTS["lora_attention"].cases("float64")
    attention = terms_of("attention", record(case)["attention"][0].arguments)
    assert {"softmax(c q k^T)", "dy v^T"} <= attention.keys()
    [case, *_] = CONTRACTS["dora_linear"].cases("float64")
    dora = terms_of("dora_linear", record(case)["dora_linear"][0].arguments)
    assert {"W + scale B A", "|W + scale B A|", "m / |W + scale B A|"} <= dora.keys()
