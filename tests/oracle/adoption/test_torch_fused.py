"""Fused projections of q, k and v: adopted as they are, right ones pass, and what goes to the wrong group is told."""

import pytest
from oracle.adoption.asked import checked

import npl_lora
from npl_lora.oracle import TargetError

pytestmark = pytest.mark.torch

RIGHT = [
    ("FactorsOfSomeGroups", "pass", "A lora_A (2 r, in); B lora_B (2 out / 3, r); s = lora_alpha / r."),
    ("FactorsOfSomeGroups", "pass", "Trained: 8,192 of 796,160 parameters at in = 512, out = 1536, r = 4."),
    ("FactorsOfSomeGroups", "pass", "lora_linear   pass      11/11"),
    ("AlphaAlone", "convention", "s = lora_alpha, not alpha / r"),
    ("MergesItsGroups", "pass", "lora_merge    pass        4/4"),
    ("OnABase", "convention", "A linear_a_q.whole (2 r, in); B linear_b_q.whole (2 out / 3, r); s = 1."),
    ("OfImagesAlone", "convention", "It takes x of four axes alone, and is asked so."),
    ("AllThree", "pass", "A A.0.whole (3 r, in); B B.0.whole (3 out / 3, r); s = alpha / r."),
]

WRONG = [
    (
        "AnotherGroup",
        "Of 3 equal parts of y, the second adds the product of the A of the third and the B of the third.",
    ),
    ("AnothersA", "Of 3 equal parts of y, the first adds the product of the A of the third and the B of the first."),
    ("Shifted", "Of 3 equal parts of y, the first adds what is no product of one A and one B."),
    ("OneGroupAlone", "Of 3 equal parts of y, the third has no low-rank path of its own."),
    ("WithoutScale", "(S13)"),
    ("LosesTheGradientOfV", "dB: got 0"),
    ("MergesShifted", "as if B were rolled forward by one output"),
]


@pytest.mark.parametrize(("name", "verdict", "words"), RIGHT)
def test_a_right_one(name, verdict, words):
    reports = checked("torch_fused_forms", name)
    assert reports.verdict == verdict, str(reports)
    assert words in str(reports)


@pytest.mark.parametrize(("name", "words"), WRONG)
def test_a_wrong_one(name, words):
    reports = checked("torch_fused_forms", name)
    assert reports.verdict == "fail"
    assert words in str(reports)


def test_factors_in_tensors_of_their_own_are_refused():
    with pytest.raises(TargetError, match=r"it has 0 matrices \(2 r, in\) and 0 matrices \(2 out / 3, r\)"):
        checked("torch_fused_forms", "NoFactorsInOneTensor")


def test_loralib_as_it_is():
    loralib = pytest.importorskip("loralib")
    (report,) = npl_lora.check(loralib.MergedLinear, dtypes=["float64"]).reports
    passed = {one.contract: len(one.cases) for one in report.contracts if one.verdict == "pass"}
    assert passed == {"layer": 19, "lora_linear": 11, "lora_merge": 7}


def test_loralibs_convolution_as_it_is():
    """It takes lora_dropout, and drops nothing."""
    loralib = pytest.importorskip("loralib")
    (report,) = npl_lora.check(loralib.Conv2d, dtypes=["float64"]).reports
    verdicts = {one.contract: one.verdict for one in report.contracts}
    assert verdicts == {"layer": "fail", "lora_conv2d": "pass"}
    assert "The parameter lora_dropout has no effect in training." in str(report.contracts[0].diagnosis.says)
