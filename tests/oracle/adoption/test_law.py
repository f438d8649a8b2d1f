"""The scale as a law of alpha and r: each is found by probing, and its inverse is exact where that is possible."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from npl_lora.oracle.adoption.adoption import Adoption
from npl_lora.oracle.adoption.facts import Fact
from npl_lora.oracle.adoption.law import Law, dora_scale, find_law, low_rank_scale
from npl_lora.oracle.adoption.sentences import convention, scale_fact
from npl_lora.oracle.adoption.training import stay_within_float16
from npl_lora.oracle.case import Case
from npl_lora.oracle.contracts import CONTRACTS

RANKS = (1, 2, 3, 4, 6, 7, 8, 16)

LAWS = {
    "alpha / r": ("right", lambda a, r: a / r),
    "alpha": ("convention", lambda a, r: a),
    "alpha / sqrt(r)": ("convention", lambda a, r: a / math.sqrt(r)),
    "2 alpha / r": ("convention", lambda a, r: 2 * a / r),
    "0.5 alpha": ("convention", lambda a, r: a / 2),
    "alpha // r": ("fault", lambda a, r: a // r),
    "r / alpha": ("fault", lambda a, r: r / a),
    "1, whatever alpha is": ("fault", lambda a, r: 1.0),
    "": ("fault", lambda a, r: math.nan),
}


@pytest.mark.parametrize("formula", LAWS)
def test_every_law_is_found(formula):
    kind, s = LAWS[formula]
    law = find_law(s, "alpha", RANKS)
    assert (law.formula, law.kind, law.parameter) == (formula, kind, "alpha")


def test_a_path_that_is_not_there_has_no_scale():
    law = find_law(lambda a, r: 0.0, "alpha", RANKS)
    assert (law.formula, law.kind) == ("", "fault")
    without = find_law(lambda a, r: 0.0, "", RANKS)
    assert (without.formula, without.kind) == ("", "fault")
    assert without.slope == dict.fromkeys(RANKS, 1.0)  # it is asked with s = 1


def test_a_law_is_told_with_the_name_of_its_parameter():
    law = find_law(lambda a, r: a, "scale", RANKS)
    assert law.formula == "scale"
    assert convention(law) == "s = scale, not alpha / r: scale = 16 at r = 8 is alpha = 128 in PEFT."


@given(slopes=st.lists(st.floats(0.05, 20.0), min_size=len(RANKS), max_size=len(RANKS), unique=True))
def test_what_is_proportional_is_a_convention(slopes):
    c = dict(zip(RANKS, slopes, strict=True))
    plain = ("alpha / r", "alpha", "alpha / sqrt(r)")
    law = find_law(lambda a, r: c[r] * a, "alpha", RANKS)
    assume(not law.formula.endswith(plain))
    assert law.kind == "convention"
    assert law.formula.startswith("c(r) alpha with ")
    assert all(law.slope[r] == pytest.approx(c[r], rel=1e-12) for r in RANKS)
    assert not law.exact


@given(s=st.floats(0.01, 100.0))
def test_a_scale_that_is_always_the_same_is_a_convention(s):
    law = find_law(lambda a, r: s, "", RANKS)
    assert (law.kind, law.formula) == ("convention", f"{s:.4g}")
    assert all(found == pytest.approx(s, rel=1e-12) for found in law.slope.values())


def test_a_scale_of_the_rank_alone():
    laws = {
        "1 / r": lambda r: 1 / r,
        "16 / r": lambda r: 16 / r,
        "1 / sqrt(r)": lambda r: r**-0.5,
        "3 / sqrt(r)": lambda r: 3 * r**-0.5,
        "r": lambda r: float(r),
        "0.5 r": lambda r: r / 2,
    }
    for formula, s in laws.items():
        law = find_law(lambda a, r, s=s: s(r), "", RANKS)
        assert (law.kind, law.formula) == ("convention", formula)
    odd = find_law(lambda a, r: r + 1.0, "", RANKS)
    assert odd.formula == "c(r) with 2 at r = 1, 3 at r = 2, 4 at r = 3, 5 at r = 4"


@given(power=st.floats(0.2, 3.0), shift=st.floats(0.5, 5.0))
def test_what_is_neither_proportional_nor_constant_is_a_fault(power, shift):
    assume(abs(power - 1.0) > 0.05)
    law = find_law(lambda a, r: (a**power + shift) / r, "alpha", RANKS)
    assert law.kind == "fault"
    assert law.formula.count(" at (") == 5
    assert [fact.wrong for fact in scale_fact(law)] == [f"s = {law.formula}, which is not proportional to alpha"]


@given(s=st.integers(-8, 8).map(lambda n: 2.0**n), rank=st.sampled_from(RANKS))
def test_the_strength_inverts_the_law_to_the_last_bit(s, rank):
    for formula in ("alpha / r", "alpha"):
        _, apply = LAWS[formula]
        law = find_law(apply, "alpha", RANKS)
        assert law.exact
        assert apply(law.strength(s, rank), rank) == s


@given(s=st.floats(0.01, 100.0), rank=st.sampled_from(RANKS), formula=st.sampled_from(sorted(LAWS)))
def test_the_strength_inverts_every_law_closely(s, rank, formula):
    kind, apply = LAWS[formula]
    assume(kind != "fault")
    assert apply(find_law(apply, "alpha", RANKS).strength(s, rank), rank) == pytest.approx(s, rel=1e-15)


def test_a_law_with_a_root_or_a_factor_is_not_asked_without_a_tolerance():
    exact = {formula: find_law(s, "alpha", RANKS).exact for formula, (_, s) in LAWS.items()}
    assert [formula for formula, is_exact in exact.items() if not is_exact] == [
        "alpha / sqrt(r)",
        "2 alpha / r",
        "0.5 alpha",
    ]


@given(seed=st.integers(0, 1000), s=st.floats(0.01, 50.0), r=st.integers(1, 4))
def test_the_scale_of_a_low_rank_path(seed, s, r):
    rng = np.random.default_rng(seed)
    product = rng.normal(size=(6, r)) @ rng.normal(size=(r, 5))
    found, left = low_rank_scale(s * product, product)
    assert found == pytest.approx(s)
    assert left < 1e-12
    _, left = low_rank_scale(s * product + rng.normal(size=(6, 5)), product)
    assert left > 1e-4


@given(seed=st.integers(0, 1000), s=st.floats(0.1, 10.0))
def test_the_scale_of_dora_whatever_the_magnitude(seed, s):
    rng = np.random.default_rng(seed)
    W, product = rng.normal(size=(9, 5)), rng.normal(size=(9, 2)) @ rng.normal(size=(2, 5))
    V = W + s * product
    found, left = dora_scale(V / np.linalg.norm(V, axis=0), W, product)
    assert found == pytest.approx(s)
    assert left < 1e-9
    _, left = dora_scale(W * rng.uniform(1, 2, size=(9, 1)) + s * product, W, product)
    assert left > 1e-4


def test_nothing_is_said_of_a_scale_that_is_no_multiple_of_the_product():
    assert scale_fact(find_law(lambda a, r: math.nan, "alpha", RANKS)) == []
    assert scale_fact(find_law(lambda a, r: a / r, "alpha", RANKS)) == [Fact("scale")]


def test_alpha_without_effect_has_a_sentence():
    law = find_law(lambda a, r: 2.0, "lora_alpha", RANKS)
    assert scale_fact(law)[0].wrong == "the parameter lora_alpha has no effect: s = 2, whatever lora_alpha is"


def test_a_convention_says_what_it_is_in_peft():
    assert convention(Law("alpha / r", "right", "alpha", {8: 1 / 8})) == ""
    two = find_law(lambda a, r: 2.0, "", RANKS)
    assert convention(two) == "s = 2, not alpha / r: this at r = 8 is alpha = 16 in PEFT."
    root = find_law(LAWS["alpha / sqrt(r)"][1], "alpha", RANKS)
    assert convention(root) == "s = alpha / sqrt(r), not alpha / r: alpha = 16 at r = 8 is alpha = 45.25 in PEFT."


def cases() -> list[Case]:
    return list(CONTRACTS["lora_linear"].cases("float64"))


def test_a_layer_with_alpha_is_asked_the_cases_as_they_are():
    plain = Adoption(("found",))
    assert [plain.question(case) for case in cases()] == cases()


def test_a_layer_with_a_scale_of_its_own_is_asked_with_it():
    own = Adoption((), scales=dict.fromkeys(RANKS, 0.75))
    for case in cases():
        asked = own.question(case)
        assert asked.config["alpha"] / asked.config["r"] == pytest.approx(0.75)
        assert not asked.config["use_rslora"]
        assert not asked.exact


def test_a_case_stays_exact_where_the_scale_is_a_power_of_two_and_no_larger():
    exact = [case for case in cases() if case.exact]
    assert exact
    assert all(Adoption((), scales=dict.fromkeys(RANKS, 1.0)).question(case).exact for case in exact)
    assert not any(Adoption((), scales=dict.fromkeys(RANKS, 64.0)).question(case).exact for case in exact)
    assert not any(Adoption((), exact=False).question(case).exact for case in exact)


def test_steps_that_leave_float16_with_a_large_scale_are_told():
    own = Adoption((), scales={r: 16 / r for r in RANKS})
    for dtype in ("float64", "float32", "float16"):
        for case in CONTRACTS["train_steps"].cases(dtype):
            assert stay_within_float16(case)
            with np.errstate(over="ignore", invalid="ignore"):
                after = CONTRACTS["train_steps"].answer(own.question(case).arrays, own.question(case).config)
            finite = all(np.isfinite(array).all() for array in after.values())
            assert finite or not stay_within_float16(own.question(case)), case.id
    assert not all(stay_within_float16(own.question(case)) for case in CONTRACTS["train_steps"].cases("float16"))
    assert all(stay_within_float16(own.question(case)) for case in CONTRACTS["train_steps"].cases("float32"))


@pytest.mark.parametrize("contract", ["lora_linear", "lora_merge", "lora_dropout", "train_steps"])
def test_a_layer_that_takes_square_weights_alone_is_asked_them(contract):
    for case in CONTRACTS[contract].cases("float64"):
        asked = Adoption((), square=True).question(case)
        if case.config.get("optimizer") == "adamw" or "W" not in case:
            assert asked == case
            continue
        rows, columns = asked["W"].shape
        assert rows == columns == min(case["W"].shape) == asked["B"].shape[0] == asked["A"].shape[1]
        if contract != "lora_dropout":  # whose answer waits for the mask that the subject drew
            CONTRACTS[contract].answer(asked.arrays, asked.config)


def test_outputs_that_the_layer_lacks_are_not_asked_for():
    adoption = Adoption((), without={"lora_merge": ("W_unmerged",)})
    for case in CONTRACTS["lora_merge"].cases("float64"):
        assert adoption.question(case).without == ("W_unmerged",)
    assert all(adoption.question(case).without == () for case in cases())


@given(
    scales=st.none() | st.dictionaries(st.integers(1, 64), st.floats(0.01, 100.0), min_size=1),
    wrong=st.text(max_size=20),
    exact=st.booleans(),
    square=st.booleans(),
)
def test_an_adoption_crosses_a_pipe(scales, wrong, exact, square):
    facts = (Fact("start", wrong), Fact("step"))
    adoption = Adoption(("a", "b"), "c", scales, facts, {"lora_merge": ("W_unmerged",)}, exact, square)
    assert Adoption.from_json(adoption.as_json()) == adoption
