"""The cases break every setting that hides a fault, are the same everywhere, and fit half precision."""

import itertools

import numpy as np
import pytest
from oracle.variants import with_masks

from npl_lora.oracle import CONTRACTS, DTYPES
from npl_lora.oracle.case import widen
from npl_lora.oracle.contracts.train_steps import least_gradients
from npl_lora.oracle.dtypes import dtype_by_name
from npl_lora.oracle.tolerance.rounding import PRECISIONS, RoundingNamespace, round_to

ALL = [case for contract in CONTRACTS.values() for dtype in DTYPES for case in contract.cases(dtype)]
LORA = [case for case in ALL if "alpha" in case.config]


def numbers(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [n for v in value for n in numbers(v)]
    return [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else []


def test_the_configuration_is_exact_in_the_cases_dtype():
    for case in ALL:
        for number in numbers(case.config):
            assert float(dtype_by_name(case.dtype).type(number)) == number, case.id


def test_a_case_gets_as_a_mapping_does():
    case = next(case for case in LORA if "mask" in case and "b" not in case)
    assert case.get("mask") is case["mask"]
    assert case.get("b") is None
    assert case.get("b", 3) == 3


def stored(numbers, dtype):
    """Rounded once: ml_dtypes goes from float64 to bfloat16 by way of float32."""
    return numbers if numbers.dtype.kind in "biu" else round_to(numbers, PRECISIONS[dtype]).astype(dtype_by_name(dtype))


@pytest.mark.parametrize("contract", CONTRACTS)
def test_a_case_is_drawn_the_same_every_time_and_in_every_dtype(contract):
    for case in ALL:
        if case.contract == contract:
            is_drawn_the_same(case)


def is_drawn_the_same(case):
    name = case.id.split("/")[1]
    again = {c.id: c for c in CONTRACTS[case.contract].cases(case.dtype)}[case.id]
    wide = {c.id: c for c in CONTRACTS[case.contract].cases("float64")}[f"{case.contract}/{name}/float64"]
    for array_name, array in case.arrays.items():
        np.testing.assert_array_equal(array, again[array_name])
        if not case.exact:  # those have larger numbers in wider dtypes
            np.testing.assert_array_equal(array, stored(wide[array_name], case.dtype))


@pytest.mark.parametrize("contract", sorted({case.contract for case in LORA}))
def test_no_setting_hides_a_fault(contract):
    for case in LORA:
        if case.contract == contract:
            hides_nothing(case)


def hides_nothing(case):
    config, arrays = case.config, case.arrays
    adapters = zip(*(np.atleast_1d(config[name]) for name in ("r", "alpha")), strict=True)
    assert all(r > 1 and alpha != r for r, alpha in adapters)
    apart = ("B_q", "B_k") if case.exact else ()  # half 0, for scores that are 0
    factors = {name: a for name, a in arrays.items() if name[0] in "AB" and name not in apart}
    assert all(np.count_nonzero(a) > a.size / 2 for a in factors.values())


def some(contract, condition):
    return any(condition(case) for case in CONTRACTS[contract].cases("float32"))


def test_some_case_of_each_contract_breaks_what_the_others_leave():
    for contract in ("lora_linear", "lora_merge", "lora_embedding", "lora_attention", "lora_mlp", "train_steps"):
        assert some(contract, lambda c: c.config["use_rslora"]), contract
    square = [c.id for c in CONTRACTS["lora_linear"].cases("float32") if c["W"].shape[0] == c["W"].shape[1]]
    assert square == ["lora_linear/square/float32"]  # for layers that take no other
    assert some("lora_linear", lambda c: "mask" in c and np.any(c["mask"] == 0) and np.any(c["mask"] > 1))
    assert some("lora_linear", lambda c: c["x"].ndim == 3 and c["x"].shape[0] > 1)
    assert some("lora_embedding", lambda c: np.any(c["ids"] == c.config["padding_idx"]))
    assert all(len(np.unique(c["ids"])) < c["ids"].size for c in CONTRACTS["lora_embedding"].cases("float32"))
    assert some("lora_attention", lambda c: 1 < c.config["n_kv_heads"] < c.config["n_heads"])
    assert some("lora_attention", lambda c: "key_mask" in c and not c["key_mask"][:, 0].all())
    assert some("train_steps", lambda c: c.config["accumulation"] > 1)
    assert some("adapter_combine", lambda c: len(set(c.config["r"])) > 2)
    assert some("adapter_combine", lambda c: len(set(c.config["use_rslora"])) > 1 and min(c.config["weights"]) < 0)
    assert some("adapter_combine", lambda c: c.config["weights"] == [1.0] and c.config["use_rslora"] == [True])


def test_some_case_of_lora_batched_has_what_engines_meet():
    def rows(case):
        return [int(k) for k in case["ids"]]

    def runs(case):
        return 1 + sum(a != b for a, b in itertools.pairwise(rows(case)))

    def has(condition):
        return some("lora_batched", condition)

    def padding(case):
        return [
            np.concatenate((A[r:].ravel(), B[:, r:].ravel()))
            for A, B, r in zip(case["A"], case["B"], case.config["r"], strict=True)
        ]

    assert all(-1 in rows(c) for c in CONTRACTS["lora_batched"].cases("float32"))
    assert has(lambda c: c["x"].ndim == 2)
    assert has(lambda c: c["x"].ndim == 3)
    assert has(lambda c: runs(c) == len(rows(c)) > len(set(rows(c))))  # no neighbours share, and none is alone
    assert has(lambda c: len(set(rows(c))) < runs(c) < len(rows(c)))  # some do
    assert has(lambda c: set(range(len(c["A"]))) - set(rows(c)))  # an adapter without any row
    assert has(lambda c: rows(c)[0] > 0)
    assert has(lambda c: rows(c)[0] == -1)
    assert has(lambda c: len(set(c.config["r"])) > 2)
    assert has(lambda c: len(set(c.config["use_rslora"])) > 1)
    assert has(lambda c: c["A"].shape[1] > max(c.config["r"]))
    assert has(lambda c: not any(p.size for p in padding(c)))
    assert all(p.all() for c in CONTRACTS["lora_batched"].cases("float32") if not c.exact for p in padding(c))


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_gradient_that_adamw_makes_a_step_of_is_tiny(dtype):
    """Rounding is some units of the dtype's of the root mean square: far below a sixteenth in half precision."""
    (case,) = [case for case in CONTRACTS["train_steps"].cases(dtype) if case.config["optimizer"] == "adamw"]
    assert min(least_gradients(widen(case), case.config)) > 1 / 17
    assert case.config["eps"] == float(np.asarray(case.config["eps"], dtype_by_name(dtype)))


@pytest.mark.parametrize("contract", ["lora_linear", "lora_merge", "lora_embedding"])
def test_some_case_has_no_base_that_could_hide_lora(contract):
    assert some(contract, lambda c: not c["E" if contract == "lora_embedding" else "W"].any())


def test_accumulated_cases_have_unequal_token_counts_and_an_empty_micro_batch():
    counts = []
    for case in CONTRACTS["cross_entropy"].cases("float32"):
        parts = np.split(case["labels"][:, 1:], case.config["accumulation"])
        counts.append([int(np.sum(part != case.config["ignore_index"])) for part in parts])
    assert any(len(c) > 1 and len(set(c)) > 1 and min(c) > 0 for c in counts)
    assert any(len(c) > 1 and min(c) == 0 < max(c) for c in counts)
    assert [0] in counts


def test_some_cases_are_larger_than_a_block_of_a_kernel():
    assert some("lora_linear", lambda c: c["x"].shape[0] > 128 and c["x"].shape[0] % 4)
    assert some("cross_entropy", lambda c: c["logits"].shape[-1] > 1024)
    assert some("cross_entropy", lambda c: np.sum(c["labels"][:, 1:] != c.config["ignore_index"]) > 128)


@pytest.mark.parametrize("dtype", DTYPES)
def test_some_labels_are_certain_and_some_impossible(dtype):
    """Their probability is 1, or 0, to the last bit."""
    found = set()
    for case in CONTRACTS["cross_entropy"].cases(dtype):
        logits, labels = case["logits"][:, :-1].astype(np.float64), case["labels"][:, 1:]
        p = np.exp(logits - logits.max(axis=-1, keepdims=True))
        p /= p.sum(axis=-1, keepdims=True)
        kept = labels != case.config["ignore_index"]
        found |= set(p[kept, labels[kept]]) & {0.0, 1.0}
    assert found == {0.0, 1.0}


class Peaks(RoundingNamespace):
    """The same namespace, that remembers the largest number it stored."""

    peak = 0.0

    def _stored(self, value, *errors):
        self.peak = max(self.peak, float(np.max(np.abs(value), initial=0.0)))
        return super()._stored(value, *errors)


@pytest.mark.parametrize("case", [c for c in ALL if c.dtype == "float16"], ids=lambda c: c.id)
def test_nothing_overflows_float16_in_any_association(case):
    """The largest number anywhere, with the division by r or by sqrt(D) left to the end, and
    four times as much for partial sums whose terms cancel later, still fits."""
    xp = Peaks(PRECISIONS["float16"])
    CONTRACTS[case.contract].answer({name: xp.exact(a) for name, a in with_masks(case).arrays.items()}, case.config)
    divisors = [int(np.max(case.config.get("r", 1)))]
    if "n_heads" in case.config:
        divisors.append((case["Wq"].shape[0] / case.config["n_heads"]) ** 0.5)
    assert 4 * max(divisors) * xp.peak < float(np.finfo(np.float16).max)
