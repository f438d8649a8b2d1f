"""The exact cases are exact: every right way to compute gives the one right answer, digit by digit, in every dtype."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import variants
from oracle.variants import ANY, FAULTS, LINEAR, plain, right_of, scale

from npl_lora.oracle import CONTRACTS, DTYPES
from npl_lora.oracle.contracts import Contract, train_steps
from npl_lora.oracle.contracts._exact import largest_sum
from npl_lora.oracle.definition import RIGHT
from npl_lora.oracle.tolerance.judge import judge, right_answer
from npl_lora.oracle.tolerance.rounding import PRECISIONS

EXACT = [case for contract in CONTRACTS.values() for dtype in DTYPES for case in contract.cases(dtype) if case.exact]
LINEAR_EXACT = [case for case in EXACT if case.contract == "lora_linear"]
STEPS = {"float64": 3, "float32": 2, "float16": 1, "bfloat16": 1}


def redrawn(contract, name, seed, dtype):
    """An exact case drawn by the same rule from another stream."""
    contract = CONTRACTS[contract]
    return replace(contract, exact={f"{name}-{seed}": contract.exact[name]}).exact_case(f"{name}-{seed}", dtype)


def adapters(config):
    """The configuration of each adapter, where a case has several."""
    if not isinstance(config["r"], list):
        return [config]
    each = {name: value for name, value in config.items() if isinstance(value, list)}
    return [dict(zip(each, values, strict=True)) for values in zip(*each.values(), strict=True)]


def proof_of(case):
    return CONTRACTS[case.contract].proof or CONTRACTS[case.contract].answer


def failures(case, outputs):
    return {name: v for name, v in judge(right_of(case), outputs).items() if v.verdict != "pass"}


def same(case, outputs):
    """Equal as numbers, which is what the judge must say as well."""
    for name, right in right_of(case).items():
        np.testing.assert_array_equal(outputs[name].astype(np.float64), right.value, err_msg=name)
    return not failures(case, outputs)


def matmul_in_any_order(rng):
    """A product whose terms come in a random order, in random blocks, every partial sum stored in the dtype."""

    def matmul(a, b):
        K = a.shape[-1]
        blocks = np.array_split(rng.permutation(K), rng.integers(1, K + 1))
        total = 0 * (a[..., 0, None] * b[0])
        for block in blocks:
            partial = 0 * total
            for k in block:
                partial = partial + a[..., k, None] * b[k]
            total = total + partial
        return total

    return matmul


def test_the_contracts_that_admit_them_have_exact_cases_in_every_dtype():
    having = {"lora_linear", "lora_merge", "lora_embedding", "lora_attention", "adapter_combine", "train_steps"}
    having |= {"lora_batched"}
    having.add("lora_scaled_embedding")
    assert {(case.contract, case.dtype) for case in EXACT} == {(name, dtype) for name in having for dtype in DTYPES}
    for contract in ("lora_linear", "lora_merge", "lora_embedding"):
        assert {case.config["use_rslora"] for case in EXACT if case.contract == contract} == {False, True}


@pytest.mark.parametrize("case", EXACT, ids=lambda c: c.id)
def test_all_numbers_are_whole_and_the_scale_is_a_power_of_four(case):
    for name, array in case.arrays.items():
        values = array.astype(np.float64)
        assert np.array_equal(values, np.rint(values)), name
        assert values.any(), name
    for adapter in adapters(case.config):
        s, (r, alpha) = scale(adapter), (adapter["r"], adapter["alpha"])
        assert s > 1
        assert math.log(s, 4).is_integer()
        assert math.log2(alpha).is_integer()
        assert math.log2(r).is_integer()
        assert alpha != r
        assert math.log(abs(adapter.get("weights", 1)), 4).is_integer()


@pytest.mark.parametrize("case", EXACT, ids=lambda c: c.id)
def test_no_partial_sum_reaches_the_digits_of_the_dtype(case):
    """The proof, once more; that its sums are whole; and that the least and largest number fit as well."""
    assert largest_sum(case, proof_of(case)) < 1
    for name, right in right_answer(case, proof_of(case)).items():
        assert np.array_equal(right.size, np.rint(right.size)), name
    assert not any(right.allowed.any() for right in right_of(case).values())
    largest, least = 1 / PRECISIONS[case.dtype].store, 2 * PRECISIONS[case.dtype].tiny
    assert np.max(case.config["alpha"]) * largest < (65504 if case.dtype == "float16" else 2.0**127)
    assert least < 2.0**-12  # 1 / n, and lr and s divided out, are far above


@pytest.mark.parametrize("case", EXACT, ids=lambda c: c.id)
@pytest.mark.parametrize("variant", ANY, ids=lambda v: v.__name__)
def test_the_ops_in_the_cases_own_dtype_give_the_one_right_answer(variant, case):
    assert same(case, variant(case))


@pytest.mark.parametrize("case", LINEAR_EXACT, ids=lambda c: c.id)
@pytest.mark.parametrize("variant", LINEAR, ids=lambda v: v.__name__)
def test_every_association_gives_the_one_right_answer(variant, case):
    assert same(case, variant(case))


@pytest.mark.slow
@pytest.mark.parametrize("variant", LINEAR, ids=lambda v: v.__name__)
@pytest.mark.parametrize("name", CONTRACTS["lora_linear"].exact)
@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), dtype=st.sampled_from(DTYPES))
def test_every_order_of_every_sum_gives_the_one_right_answer(variant, name, seed, dtype):
    case = redrawn("lora_linear", name, seed, dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(variants, "wide_matmul", matmul_in_any_order(np.random.default_rng(seed)))
        assert same(case, variant(case))


@pytest.mark.parametrize("contract", ["lora_merge", "lora_embedding", "adapter_combine", "lora_batched"])
@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), dtype=st.sampled_from(DTYPES), data=st.data())
def test_redrawn_cases_are_as_exact(contract, seed, dtype, data):
    case = redrawn(contract, data.draw(st.sampled_from(list(CONTRACTS[contract].exact))), seed, dtype)
    for variant in ANY:
        assert same(case, variant(case))


@pytest.mark.parametrize("case", LINEAR_EXACT, ids=lambda c: c.id)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_fails_in_every_dtype(fault, case):
    assert failures(case, FAULTS[fault](case, plain(case), case["x"].dtype.type(scale(case.config))))


WRONG = {
    "no scale": RIGHT.wrapped(scale=lambda right: lambda config: 1.0),
    "alpha for the scale": RIGHT.wrapped(scale=lambda right: lambda config: float(config["alpha"])),
    "r for sqrt(r), and sqrt(r) for r": RIGHT.wrapped(
        scale=lambda right: lambda config: right({**config, "use_rslora": not config["use_rslora"]})
    ),
}


@pytest.mark.parametrize("fault", WRONG)
@pytest.mark.parametrize("case", EXACT, ids=lambda c: c.id)
def test_a_wrong_scale_fails_in_every_contract_and_dtype(case, fault):
    arrays, plain_array = variants.native(case)
    outputs = CONTRACTS[case.contract].answer(arrays, case.config, WRONG[fault])
    assert failures(case, {name: plain_array(output) for name, output in outputs.items()})


def test_float64_cases_have_numbers_that_float32_cannot_compute():
    for case in EXACT:
        if case.dtype == "float64":
            narrow = {n: a.astype(np.float32) if a.dtype.kind == "f" else a for n, a in case.arrays.items()}
            assert failures(case, CONTRACTS[case.contract].answer(narrow, case.config)), case.id


def test_the_last_unit_decides():
    case = CONTRACTS["lora_linear"].exact_case("exact-tokens", "float64")
    answer = plain(case)
    off = answer["dB"].copy()
    off.flat[3] = np.nextafter(off.flat[3], np.inf)
    (verdict,) = failures(case, {**answer, "dB": off}).values()
    assert verdict.allowed == 0
    assert "(1 of 12 wrong)" in verdict.note


def test_minus_zero_equals_zero():
    case = CONTRACTS["lora_attention"].exact_case("exact-one-key", "float32")
    values = {name: right.value for name, right in right_of(case).items()}
    assert not values["dA_q"].any()
    assert not failures(case, {name: np.where(value == 0, -0.0, value) for name, value in values.items()})


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_number_of_sgd_steps(dtype):
    (case,) = [case for case in EXACT if (case.contract, case.dtype) == ("train_steps", dtype)]
    assert right_of(case)["losses"].value.shape == (STEPS[dtype],)
    n = case.config["accumulation"] * math.prod(case["Y"].shape[1:])
    assert scale(case.config) * case.config["lr"] * 2 / n == 1
    assert (case.config["lr"] * case.config["weight_decay"]).is_integer()

    def gradients(arrays, config, definition, trained):
        loss, grads = train_steps.loss_and_gradients(arrays, config, definition, trained)
        assert all(grad.any() for grad in grads.values())
        return loss, grads

    train_steps.answer({name: a.astype(float) for name, a in case.arrays.items()}, case.config, RIGHT, gradients)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_scores_of_attention_are_sums_of_zeros_and_its_queries_see_one_key_or_none(dtype):
    (case,) = [case for case in EXACT if (case.contract, case.dtype) == ("lora_attention", dtype)]
    x, s = case["x"].astype(float), scale(case.config)
    q, k = (x @ (case[f"W{n}"] + s * case[f"B_{n}"].astype(float) @ case[f"A_{n}"].astype(float)).T for n in "qk")
    q, k = q.reshape(2, 2, 2, 2), k.reshape(2, 2, 1, 2)
    assert q.any()
    assert k.any()
    assert not (q * k).any()  # coordinate by coordinate, at every position, so also where key and query differ
    assert not (q * k[:, ::-1]).any()
    seen = np.tril(np.ones((2, 2), bool)) & case["key_mask"][:, None, :]
    assert sorted(seen.sum(axis=-1).ravel()) == [0, 1, 1, 1]


# The proof can fail.


@pytest.mark.parametrize("case", [c for c in LINEAR_EXACT if "tokens" in c.id], ids=lambda c: c.id)
def test_too_large_a_number_is_noticed_by_the_proof_and_by_the_arithmetic(case):
    odd = 2 * 3 ** int(math.log(1 / PRECISIONS[case.dtype].store, 9)) + 1
    large = replace(case, arrays={**case.arrays, "x": (case["x"].astype(float) * odd).astype(case["x"].dtype)})
    assert largest_sum(large, proof_of(case)) >= 1
    assert any(failures(large, variant(large)) for variant in LINEAR)


@pytest.mark.slow
def test_a_case_that_cannot_be_exact_is_refused():
    linear = CONTRACTS["lora_linear"]

    def stubborn(draw):
        arrays, config = linear.exact["exact-tokens"](draw)
        return {**arrays, "x": np.full_like(arrays["x"], 2.0**10)}, config

    contract = Contract("lora_linear", linear.answer, {}, exact={"stubborn": stubborn})
    assert contract.exact_case("stubborn", "float32").exact
    with pytest.raises(AssertionError, match="lora_linear/stubborn/float16 is not exact: its largest sum is"):
        contract.exact_case("stubborn", "float16")


@pytest.mark.parametrize("beyond", [np.inf, np.nan])
def test_what_overflows_proves_nothing(beyond):
    case = CONTRACTS["lora_linear"].exact_case("exact-tokens", "float64")

    def proof(arrays, config):
        return {"y": arrays["x"], "dA": arrays["A"] * beyond, "dB": arrays["B"]}

    assert not largest_sum(case, proof) < 1
