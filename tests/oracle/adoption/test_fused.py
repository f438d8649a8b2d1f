"""A fused projection's case is one of lora_linear: what its groups compute is the contract's answer."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from npl_lora.oracle.adoption.fused import gradient, question, stored
from npl_lora.oracle.contracts import CONTRACTS

CASES = {case.id.split("/")[1]: case for case in CONTRACTS["lora_linear"].cases("float64")}


@pytest.mark.parametrize("square", [False, True])
@pytest.mark.parametrize("groups", [(True, False, True), (True, True, True), (False, True, False)])
@pytest.mark.parametrize("name", ["tokens", "batch-bias-rslora", "wide-rank"])
def test_what_the_groups_compute_is_the_answer(name, groups, square):
    case = question(CASES[name], groups, square)
    right = CONTRACTS["lora_linear"].answer(case.arrays, case.config)
    r, alpha = case.config["r"], case.config["alpha"]
    s = alpha / (np.sqrt(r) if case.config["use_rslora"] else r)
    A, B = (stored(case[factor], factor, groups) for factor in "AB")
    x, dy = case["x"].reshape(-1, case["x"].shape[-1]), case["dy"].reshape(-1, case["dy"].shape[-1])
    size, own = len(case["W"]) // 3, iter(range(sum(groups)))
    bias = case.get("b", np.zeros(3 * size))
    y, dx, dA, dB = [], np.zeros_like(x), np.zeros_like(A), np.zeros_like(B)
    for g, has in enumerate(groups):
        part = np.s_[g * size : (g + 1) * size]
        W, d = case["W"][part], dy[:, part]
        y.append(x @ W.T + bias[part])
        dx += d @ W
        if has:
            k = next(own)
            of_A, of_B = np.s_[k * r : (k + 1) * r], np.s_[k * size : (k + 1) * size]
            y[-1] = y[-1] + s * x @ A[of_A].T @ B[of_B].T
            dx += s * d @ B[of_B] @ A[of_A]
            dA[of_A], dB[of_B] = s * (d @ B[of_B]).T @ x, s * d.T @ (x @ A[of_A].T)
    assert [bool(rows.any()) for rows in np.split(case["B"], 3)] == list(groups)
    got = {"y": np.concatenate(y, axis=1), "dx": dx, "dA": gradient(dA, "A", groups), "dB": gradient(dB, "B", groups)}
    for output, numbers in got.items():
        assert_allclose(numbers.reshape(right[output].shape), right[output], rtol=1e-12, atol=1e-12, err_msg=output)
