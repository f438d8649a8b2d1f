"""Blocks whose projections have a bias, dropout or DoRA, and embeddings with a scale of their own."""

import numpy as np
import pytest

from npl_lora.oracle import CONTRACTS
from npl_lora.oracle.case import is_dropout_mask
from npl_lora.oracle.subjects import self_ops

BLOCKS = {"lora_mlp_projections": "lora_mlp", "lora_attention_projections": "lora_attention"}
CASES = [case for contract in BLOCKS for case in CONTRACTS[contract].cases("float64")]


def extras(case):
    return [name for name in case.arrays if name[:2] in ("b_", "m_") or is_dropout_mask(name)]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_a_block_without_bias_dropout_and_dora_is_the_plain_one(case):
    arrays = {name: array for name, array in case.arrays.items() if name not in extras(case)}
    got, plain = (CONTRACTS[name].answer(arrays, case.config) for name in (case.contract, BLOCKS[case.contract]))
    assert got.keys() == plain.keys()
    for name in got:
        np.testing.assert_array_equal(got[name], plain[name], err_msg=name)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_every_projection_has_its_extras_and_each_of_them_matters(case):
    projections = [name[2:] for name in case.arrays if name.startswith("A_")]
    kinds = {name.rpartition("_")[0] for name in extras(case)}
    assert kinds in ({"b", "mask"}, {"b", "m"})
    assert set(extras(case)) == {f"{kind}_{n}" for kind in kinds for n in projections}
    right = CONTRACTS[case.contract].answer(case.arrays, case.config)
    assert {f"dm_{n}" for n in projections if "m" in kinds} <= right.keys()
    for name in extras(case):
        changed = {**case.arrays, name: case.arrays[name][..., ::-1]}
        y = CONTRACTS[case.contract].answer(changed, case.config)["y"]
        assert np.max(np.abs(y - right["y"])) > 1e-6, name


@pytest.mark.parametrize("case", CONTRACTS["lora_scaled_embedding"].cases("float64"), ids=lambda c: c.id)
def test_an_embeddings_own_scale_multiplies_the_table_and_lora_alike(case):
    e = case.config["embed_scale"]
    got = CONTRACTS["lora_scaled_embedding"].answer(case.arrays, case.config)
    plain = CONTRACTS["lora_embedding"].answer({**case.arrays, "E": e * case["E"], "B": e * case["B"]}, case.config)
    np.testing.assert_allclose(got["y"], plain["y"], rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(got["dA"], plain["dA"], rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(got["dB"], e * plain["dB"], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("contract", [name for name in CONTRACTS if CONTRACTS[name].leading])
def test_one_feature_of_all_tokens_at_once_gives_the_derivative_by_each_number(contract):
    """Where tokens do not meet, which a contract with `leading` says."""
    case = next(case for case in CONTRACTS[contract].cases("float64") if case["x"].ndim > 1)
    arrays, f = dict(case.arrays), lambda at: CONTRACTS[contract].forward(at, case.config)[0]
    slow, fast = (self_ops.complex_step(f, arrays, "x", case["dy"], by_token) for by_token in (False, True))
    np.testing.assert_allclose(fast, slow, rtol=1e-12, atol=1e-13)
