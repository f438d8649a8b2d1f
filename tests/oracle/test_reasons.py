"""The diagnosis' reasons are true: samples of three populations of subjects. All: `python tests/oracle/reasons`.

The ops in plain NumPy, which the edits change, are held against npl_lora's own.
"""

from functools import cache, partial

import numpy as np
import pytest
from oracle.reasons import rounded, run
from oracle.reasons.edits import Edit, bound, claims_precision, parts_used, tells_where
from oracle.reasons.plain import PLAIN
from oracle.reasons.subject import NUMBERS, Function, false_ids, float64_cases, same

from npl_lora.oracle import CONTRACTS, check
from npl_lora.oracle.definition import RIGHT
from npl_lora.oracle.faults import FAULTS, wrong_answer
from npl_lora.oracle.report import Diagnosis

N = 10  # a check with its diagnosis takes seconds in the larger contracts


def unchanged(name, op):
    return lambda *args, **kwargs: PLAIN[name](lambda term, t: t, **bound(op, args, kwargs))


@pytest.mark.parametrize("contract", NUMBERS)
def test_the_plain_ops_compute_what_the_ops_compute(contract):
    d = RIGHT.wrapped(**{name: partial(unchanged, name) for name in PLAIN.keys() & parts_used(contract)})
    for case in float64_cases(contract):
        plain, right = (CONTRACTS[contract].answer(case.arrays, case.config, which) for which in (d, RIGHT))
        assert all(same(plain[name], right[name]) for name in right)


@pytest.mark.parametrize(("form", "dtype"), [("float32", np.float32), ("float16", np.float16)])
def test_rounding_to_nearest_is_numpys(form, dtype):
    t = np.random.default_rng(0).standard_normal(1000) * 2.0 ** np.arange(-30, 10).repeat(25)
    np.testing.assert_array_equal(rounded.round_to(t, form, toward_zero=False), t.astype(dtype).astype(np.float64))


def test_rounding_toward_zero_clears_the_last_bits():
    t = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    cleared = (t.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    np.testing.assert_array_equal(rounded.round_to(t, "bfloat16", toward_zero=True), cleared)


@pytest.mark.slow
def test_an_id_is_false_unless_its_fault_gives_some_of_the_numbers():
    lacks_scale = next(fault for fault in FAULTS if fault.name == "S5/dB")
    subject = Function("S5/dB", "lora_linear", wrong_answer("lora_linear", lacks_scale))
    [contract] = check(subject, dtypes=["float32"], contract="lora_linear").contracts
    ids = ("S5", "B13", "A1", "D1")  # dB lacks s; its sign; no attention here; dropout, which is right
    assert false_ids("lora_linear", Diagnosis(ids), contract.observed) == ["B13", "A1", "D1"]


@pytest.mark.parametrize(
    ("says", "precision", "where"),
    [
        ("y is wrong in lora_linear/tokens/float16.", False, False),
        ("float64 in and out, but the errors are those of an 8-bit significand.", True, False),
        ("dA is what comes of x without its mask.", False, True),
        ("y is right but for token 3.", False, True),
        ("dB is s times the right one.", False, True),
    ],
)
def test_sentences_are_read(says, precision, where):
    edit = Edit("lora_linear", "x", "dropped", "pullback", None, lambda t: 0.0 * t)
    assert claims_precision(says) == precision
    assert tells_where("lora_linear", edit, says) == where


# A block of layers with biases, dropout or DoRA, where the bounds of two formats lie closer than their errors.
BLOCKS = ("lora_attention_projections", "lora_mlp_projections")


@cache
def shares(population, contracts=tuple(CONTRACTS), n=N):
    """{column: its share of what was judged wrong}."""
    found = run.results(population, run.chosen(population, n, contracts=contracts))
    judged = [one.column for one in found if one.column != "passed"]
    assert len(judged) >= n // 2
    return {column: judged.count(column) / len(judged) for column in (*run.POPULATIONS[population].COLUMNS, "crash")}


@pytest.mark.slow
def test_a_fault_in_some_outputs_or_cases_is_never_called_another():
    share = shares("halves")
    assert share["other id"] + share["crash"] == 0


@pytest.mark.slow
def test_a_fault_in_some_outputs_or_cases_is_named_first():
    share = shares("halves")
    assert share["first"] + share["equal"] >= 0.95


@pytest.mark.slow
def test_an_edit_outside_the_catalogue_is_never_called_a_fault_or_rounding():
    share = shares("edits")
    assert share["false id"] + share["false precision"] + share["crash"] == 0


@pytest.mark.slow
def test_an_edit_outside_the_catalogue_is_located():
    share = shares("edits")
    assert share["where"] + share["true id"] >= 0.8


@pytest.mark.slow
@pytest.mark.parametrize("contracts", [tuple(CONTRACTS), BLOCKS], ids=["all", "blocks"])
def test_rounding_is_told(contracts):
    share = shares("rounded", contracts, 2 * N)
    assert share["told"] + share["format"] >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "way", "site", "contract", "dtype"),
    [
        ("bfloat16", "to nearest", "operands", "lora_attention_projections", "float32"),
        ("bfloat16", "to nearest", "sums", "rms_norm", "float32"),
        ("float32", "toward zero", "sums", "lora_mlp_projections", "float64"),
        ("bfloat16", "toward zero", "sums", "lora_mlp_projections", "float32"),
        ("tf32", "to nearest", "sums", "lora_attention_projections", "float32"),
    ],
)
def test_a_format_is_told_from_the_next(form, way, site, contract, dtype):
    name = f"{form}, {way}, {site}, in {contract}, {dtype}"
    trials = run.chosen("rounded", contracts=(contract,), dtypes=(dtype,))
    [trial] = [trial for trial in trials if trial[-1]()[0].name == name]
    assert run.result("rounded", trial).column == "told"
