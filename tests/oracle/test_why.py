"""Why a case allows what it allows: the explanation is that of the verdict."""

import re

import numpy as np
import pytest

from npl_lora.oracle import CONTRACTS, why_allowed
from npl_lora.oracle.tolerance.judge import right_answer
from npl_lora.oracle.tolerance.measured import tighten


def numbers_of(text):
    """The limits that are printed, and what is said to be allowed."""
    *limits, last = re.findall(r"([0-9.e+-]+) \((?:[0-9.e+-]+ of|beyond) its size", text)
    return [float(limit) for limit in limits], float(last)


@pytest.mark.parametrize("case", ["lora_linear/many-tokens/float32", "lora_attention/bidirectional/float16"])
def test_the_smallest_of_three_limits_is_what_the_judge_allows(case):
    contract = CONTRACTS[case.split("/")[0]]
    (asked,) = (one for one in contract.cases(case.split("/")[2]) if one.id == case)
    for name, right in tighten(asked, right_answer(asked, contract.answer), contract.answer).items():
        index = tuple(size - 1 for size in right.shape)
        limits, allowed = numbers_of(why_allowed(case, name, index))
        assert len(limits) == 3
        np.testing.assert_allclose(allowed, right.allowed[index], rtol=1e-3)
        np.testing.assert_allclose(allowed, min(limits), rtol=1e-3)


def test_an_exact_case_allows_nothing():
    assert "no error is allowed" in why_allowed("lora_linear/exact-tokens/float64", "dA", (0, 0))


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (("lora_linear/many/float64", "dA", (0, 0)), "lora_linear has no case 'many' in float64, but: lora_linear/"),
        (("lora_liner/tokens/float64", "dA", (0, 0)), "is no CONTRACT/NAME/DTYPE; contracts: lora_linear, "),
        (("lora_linear/tokens/float64", "dQ", (0, 0)), "bounds no number of 'dQ', but of: y, dx, dA, dB"),
        (("lora_linear/tokens/float64", "dA", (0, 99)), r"dA has shape \(4, 12\), so no single number at \[0, 99\]"),
        (("lora_linear/tokens/float64", "dA", (0,)), r"no single number at \[0\]"),
        (("lora_dropout/linear/float64", "dA", (0, 0)), "depends on what the subject drew"),
        (("lora_init/kaiming/float64", "A", (0, 0)), "lora_init"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(what, words):
    with pytest.raises(ValueError, match=words):
        why_allowed(*what)
