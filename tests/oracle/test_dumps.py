"""Judging dumps: right ones pass whatever is missing, wrong ones fail with the right line, and of large ones every row
is seen."""

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle.dump_files import LORA, step, write
from oracle.test_precision import truncated_variant
from oracle.variants import LINEAR, plain

from npl_lora.oracle import CONTRACTS, DTYPES, Case
from npl_lora.oracle.dumps import diagnosing, gradients, judge_dump, judging, rows
from npl_lora.oracle.dumps import step as steps
from npl_lora.oracle.dumps.file import open_dump
from npl_lora.oracle.dumps.gradients import right_dA, right_dB, rows_of_dh, rows_of_h
from npl_lora.oracle.dumps.progress import Progress
from npl_lora.oracle.faults import FAULTS, wrong_answer
from npl_lora.oracle.report import NOTHING
from npl_lora.oracle.subjects.self_ops import SelfSubject
from npl_lora.oracle.tolerance.judge import right_answer

INPUTS = ("x", "W", "A", "B", "dy", "b", "mask")


@pytest.fixture
def as_if_large(monkeypatch):
    """Small steps go the way of large ones: blocks of a few rows, random sums, some rows in full. No diagnosis, which
    takes seconds where nothing explains what is wrong."""
    monkeypatch.setattr(steps, "_BLOCK", 1 << 9)
    monkeypatch.setattr(rows, "_IN_FULL", 0)
    monkeypatch.setattr(judging, "diagnose_step", lambda *step: NOTHING)


def judged(path, inner=None):
    report = judge_dump(path, inner)
    assert not report.problem, report.problem
    (contract,) = report.contracts
    return contract.cases[0]


def without(arrays, *names):
    return {name: array for name, array in arrays.items() if name not in names}


# Right dumps


@pytest.mark.parametrize("contract", CONTRACTS)
@pytest.mark.slow
def test_every_contracts_cases_are_judged_as_dumps(contract, tmp_path):
    for dtype in DTYPES:
        for case in CONTRACTS[contract].cases(dtype)[:2]:
            answer = SelfSubject().ask(case).outputs[0]
            path = write(
                tmp_path / "dump.safetensors",
                {**case.arrays, **answer},
                contract=contract,
                dtype=dtype,
                config=case.config,
            )
            assert judged(path).verdict == "pass", case.id
            name, last = list(answer.items())[-1]
            wrong = {**case.arrays, **answer, name: 1.5 * np.asarray(last) + 0.5}
            if dtype != "float32":
                continue
            write(path, wrong, contract=contract, dtype=dtype, config=case.config)
            assert judged(path).outputs[name].verdict == "fail", case.id


@pytest.mark.parametrize("large", [False, True])
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(DTYPES),
    variant=st.sampled_from(LINEAR),
    leading=st.sampled_from([(7,), (3, 11), (2, 3, 13)]),
    mask=st.booleans(),
    use_rslora=st.booleans(),
)
def test_every_right_way_to_compute_passes(large, tmp_path_factory, seed, dtype, variant, leading, mask, use_rslora):
    arrays = step(dtype, leading, in_=19, out=37, r=4, seed=seed, mask=mask, use_rslora=use_rslora)
    config = {**LORA, "r": 4, "use_rslora": use_rslora}
    case = Case("lora_linear", "", dtype, config, {n: arrays[n] for n in INPUTS if n in arrays})
    path = tmp_path_factory.mktemp("dump") / "dump.safetensors"
    write(path, {**case.arrays, **variant(case)}, dtype=dtype, config=config)
    with pytest.MonkeyPatch.context() as patch:
        if large:
            patch.setattr(steps, "_BLOCK", 1 << 7)
            patch.setattr(rows, "_IN_FULL", 0)
        case_report = judged(path)
    assert case_report.verdict == "pass", case_report.message
    assert set(case_report.outputs) == {"y", "dx", "dA", "dB"}
    assert not case_report.message


@pytest.mark.parametrize("mask", [False, True])
def test_in_blocks_the_right_answer_is_the_ops_own(tmp_path, monkeypatch, mask):
    """Values and what is allowed, from h, dh and slices of W, against the contract's answer in one go. (It does not
    know that tokens may share a rounding.)"""
    monkeypatch.setattr(steps, "_BLOCK", 1 << 7)
    monkeypatch.setattr(gradients, "_of_factor", lambda step, signed, other: np.zeros((1, 1)))
    path = write(tmp_path / "dump.safetensors", step(leading=(5, 6), mask=mask))
    dump = steps.lora_linear_step(open_dump(path))
    inputs = {name: np.array(a) for name, a in dump.arrays.items() if name in INPUTS}
    whole = right_answer(Case("lora_linear", "", "float32", LORA, inputs), CONTRACTS["lora_linear"].answer)
    progress, every = Progress(), np.arange(30)
    parts = {
        "y": rows.right_rows(dump, rows.Y, every, progress),
        "dx": rows.right_rows(dump, rows.DX, every, progress),
        "dA": right_dA(dump, rows_of_dh(dump, progress), progress),
        "dB": right_dB(dump, rows_of_h(dump, progress), progress),
    }
    for name, right in parts.items():
        np.testing.assert_allclose(right.value, whole[name].value, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(right.size, whole[name].size, rtol=1e-12)
        np.testing.assert_allclose(right.allowed, whole[name].allowed, rtol=1e-9)


def drifting(tokens, in_, out, dtype, seed=0):
    """A step whose x and dy have the mean 1 over the tokens, as behind a ReLU."""
    rng = np.random.default_rng(seed)

    def normal(*shape, mean=0.0, std=1.0):
        return (mean + std * rng.standard_normal(shape)).astype(dtype)

    arrays = {"x": normal(tokens, in_, mean=1.0), "dy": normal(tokens, out, mean=1.0)}
    arrays |= {"W": normal(out, in_, std=in_**-0.5), "A": normal(3, in_, std=in_**-0.5), "B": normal(out, 3, std=0.5)}
    return arrays


@pytest.mark.parametrize("tokens", [300, 3000])
@pytest.mark.parametrize("one_by_one", [False, True])
def test_a_sum_over_tokens_that_all_point_one_way_passes(tmp_path, tokens, one_by_one):
    """In float32, by BLAS and token after token: there each partial sum is larger than the one before."""
    t = drifting(tokens, 7, 6, np.float32)
    s = np.float32(LORA["alpha"] / LORA["r"])
    h, dh = t["x"] @ t["A"].T, s * (t["dy"] @ t["B"])
    y, dx = t["x"] @ t["W"].T + s * (h @ t["B"].T), t["dy"] @ t["W"] + dh @ t["A"]
    if one_by_one:
        dA, dB = (np.cumsum(np.einsum("nk,ni->nki", a, b), axis=0)[-1] for a, b in ((dh, t["x"]), (t["dy"], h)))
    else:
        dA, dB = dh.T @ t["x"], t["dy"].T @ h
    outputs = {"y": y, "dx": dx, "dA": dA, "dB": s * dB}
    assert judged(write(tmp_path / "dump.safetensors", {**t, **outputs})).verdict == "pass"


@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("which", ["A", "B"])
def test_tokens_may_share_the_rounding_of_a_factor(tmp_path, which, alike):
    """The variance for it is that of gradients whose factor is rounded anew again and again, within what 16 draws
    of signs can tell. alike: dy goes with x, as in a regression, though both have mean 0."""
    t = drifting(2000, 7, 6, "bfloat16")
    if alike:
        t["x"] = (t["x"].astype(np.float64) - 1.0).astype("bfloat16")
        t["dy"] = (t["x"].astype(np.float64) @ t["W"].astype(np.float64).T).astype("bfloat16")
    dump = steps.lora_linear_step(open_dump(write(tmp_path / "dump.safetensors", t, dtype="bfloat16")))
    x, dy, factor = (t[name].astype(np.float64) for name in ("x", "dy", which))
    u, s = dump.precision.store, LORA["alpha"] / LORA["r"]
    rng, drawn = np.random.default_rng(1), []
    for _ in range(400):
        error = factor * rng.uniform(-u, u, factor.shape)
        drawn.append(s * (dy @ error).T @ x if which == "B" else s * dy.T @ (x @ error.T))
    columns = factor if which == "B" else factor.T
    signed = gradients._with_signs(dump, "dy" if which == "B" else "x", columns, Progress())
    estimate = gradients._of_factor(dump, signed, x if which == "B" else dy)
    ratio = (estimate if which == "B" else estimate.T) / np.var(drawn, axis=0)
    assert 0.1 < ratio.min() < ratio.max() < 4.0
    assert 0.6 < ratio.mean() < 1.6


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_roots_of_s_stored_in_bfloat16_pass(tmp_path, seed):
    """(sqrt(s) A) and (sqrt(s) B) are rounded once, for 4,096 tokens that all point one way."""
    t = drifting(4096, 128, 256, "bfloat16", seed)
    wide = {name: a.astype(np.float64) for name, a in t.items()}
    stored = lambda a: a.astype("bfloat16").astype(np.float64)  # noqa: E731
    root = math.sqrt(LORA["alpha"] / LORA["r"])
    A, B = stored(root * wide["A"]), stored(root * wide["B"])
    h, dh = stored(wide["x"] @ A.T), stored(wide["dy"] @ B)
    outputs = {"y": wide["x"] @ wide["W"].T + h @ B.T, "dx": wide["dy"] @ wide["W"] + dh @ A}
    outputs |= {"dA": root * stored(dh.T @ wide["x"]), "dB": root * stored(wide["dy"].T @ h)}
    arrays = {**t, **{name: a.astype("bfloat16") for name, a in outputs.items()}}
    assert judged(write(tmp_path / "dump.safetensors", arrays, dtype="bfloat16")).verdict == "pass"


def test_progress_is_told(tmp_path):
    told = []
    judge_dump(write(tmp_path / "dump.safetensors", step()), on_progress=lambda *where: told.append(where))
    steps_told = {"h", "dh", "dA", "dB", "roundings that tokens share", "y: rows in full", "dx: rows in full"}
    assert steps_told == {what for what, _, _ in told}
    assert all(0 <= done < total for _, done, total in told)


# Wrong ones


@pytest.mark.usefixtures("as_if_large")
@pytest.mark.parametrize("output", ["y", "dx"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.slow
class TestPower:
    """What random sums and eight rows by lot see of y and dx in 512 rows of 160 and 144. `off` is in units of what is
    allowed for the element itself."""

    def seen(self, tmp_path, dtype, output, spoil, draws=8):
        """How many of some draws fail, spoil(right, got, rng) having made them wrong."""
        count = 0
        for seed in range(draws):
            arrays = step(dtype, (512,), 144, 160, seed=seed)
            case = Case("lora_linear", "", dtype, LORA, {n: arrays[n] for n in INPUTS if n in arrays})
            right = right_answer(case, CONTRACTS["lora_linear"].answer)[output]
            got = arrays[output].astype(np.float64)
            spoil(right, got, np.random.default_rng(seed))
            report = judged(write(tmp_path / "dump.safetensors", {**arrays, output: got}, dtype=dtype))
            count += report.outputs[output].verdict == "fail"
        return count

    def test_one_element_off_by_four_times_what_is_allowed(self, tmp_path, dtype, output):
        def spoil(right, got, rng):
            n, o = rng.integers(got.shape[0]), rng.integers(got.shape[1])
            got[n, o] = right.value[n, o] + 4.0 * right.allowed[n, o]

        assert self.seen(tmp_path, dtype, output, spoil) == 8

    def test_one_row_off_by_twice_what_is_allowed(self, tmp_path, dtype, output):
        def spoil(right, got, rng):
            n = rng.integers(got.shape[0])
            got[n] = right.value[n] + 2.0 * right.allowed[n] * rng.choice([-1.0, 1.0], got.shape[1])

        assert self.seen(tmp_path, dtype, output, spoil) == 8

    def test_two_columns_of_one_bucket_swapped_in_one_row(self, tmp_path, dtype, output):
        def spoil(right, got, rng):
            n, stride = rng.integers(got.shape[0]), got.shape[1] // 16
            got[n, [0, stride]] = got[n, [stride, 0]]

        assert self.seen(tmp_path, dtype, output, spoil) >= 7  # equal numbers and near-equal weights may hide it

    def test_a_block_of_columns_of_other_rows(self, tmp_path, dtype, output):
        def spoil(right, got, rng):
            got[100:104, 32:64] = got[200:204, 32:64]

        assert self.seen(tmp_path, dtype, output, spoil, draws=3) == 3

    def test_the_low_rank_term_scaled(self, tmp_path, dtype, output):
        def spoil(right, got, rng):
            got *= 1.1

        assert self.seen(tmp_path, dtype, output, spoil, draws=3) == 3


def test_infinities_and_absurd_numbers_are_seen(tmp_path, as_if_large):
    arrays = step("float64", leading=(300,))
    for absurd, words in ((np.inf, "not finite at [77, 3]"), (np.nan, "not finite at [77, 3]"), (1e300, "row [77]")):
        y = arrays["y"].copy()
        y[77, 3] = absurd
        report = judged(write(tmp_path / "dump.safetensors", {**arrays, "y": y}, dtype="float64"))
        assert report.outputs["y"].verdict == "fail"
        assert words in report.message


SCALED = st.lists(st.sampled_from(("x", "W", "A", "B", "dy", "b")), max_size=3, unique=True)


@settings(max_examples=60)
@given(dtype=st.sampled_from(DTYPES), names=SCALED, exponent=st.integers(-300, 300))
def test_numbers_of_any_size_are_judged_or_refused(tmp_path_factory, dtype, names, exponent):
    """A right step is never called wrong, however large or small its numbers are."""
    arrays = step(dtype, leading=(2,), in_=4, out=5)
    inputs = {name: arrays[name] for name in ("x", "W", "A", "B", "dy", "b")}
    with np.errstate(all="ignore"):
        factor = np.float64(10.0) ** exponent
        inputs |= {name: (inputs[name].astype(np.float64) * factor).astype(dtype) for name in names}
        outputs = plain(Case("lora_linear", "step", dtype, LORA, inputs))
    report = judge_dump(write(tmp_path_factory.mktemp("dump") / "dump.safetensors", {**inputs, **outputs}, dtype=dtype))
    if all(np.isfinite(a).all() for a in (*inputs.values(), *outputs.values())):
        assert report.verdict == "pass" or "too large to judge" in report.problem
    else:
        assert report.verdict in ("fail", "error")


def test_a_tiny_step_is_still_judged(tmp_path):
    arrays = step("float64", leading=(2,), in_=4, out=5)
    tiny = {name: arrays[name] * 1e-170 if name in ("dy", "dx", "dA", "dB") else arrays[name] for name in arrays}
    assert judged(write(tmp_path / "right.safetensors", tiny, dtype="float64")).verdict == "pass"
    report = judged(write(tmp_path / "wrong.safetensors", {**tiny, "dB": tiny["dB"] / 2}, dtype="float64"))
    assert report.message.startswith("dB")


def test_another_contract_s_numbers_that_are_too_large_are_refused(tmp_path):
    case = next(iter(CONTRACTS["lora_mlp"].cases("float64")))
    arrays = {name: a * 1e120 if a.dtype.kind == "f" else a for name, a in case.arrays.items()}
    outputs = {name: np.zeros_like(a.value) for name, a in right_answer(case, CONTRACTS["lora_mlp"].answer).items()}
    about = {"contract": "lora_mlp", "dtype": "float64", "config": case.config}
    report = judge_dump(write(tmp_path / "dump.safetensors", {**arrays, **outputs}, **about))
    assert "too large to judge" in report.problem


def spoiled(arrays, config=LORA):
    """Steps with one fault each: (what is wrong, the arrays, what the message must say)."""
    s = config["alpha"] / config["r"]
    low = s * (arrays["x"] @ arrays["A"].T @ arrays["B"].T)
    low_dx = s * (arrays["dy"] @ arrays["B"] @ arrays["A"])
    return [
        ("dB", {**arrays, "dB": arrays["dB"] / s}, "dB: 0.428571 times the right answer, everywhere; 0.428571 = 1/s"),
        ("dA", {**arrays, "dA": arrays["dA"] * 3}, "dA: 3 times the right answer, everywhere; 3 = r"),
        ("y", {**arrays, "y": arrays["y"] + 2 * low}, "its low-rank term is 3 = r times the right one, everywhere"),
        ("dx", {**arrays, "dx": arrays["dx"] + (1 / s - 1) * low_dx}, "its low-rank term is 0.428571 = 1/s times"),
        ("y", {**arrays, "y": arrays["y"] * -1}, "y: -1 times the right answer, everywhere"),
        ("dA", {**arrays, "dA": arrays["dA"].T}, "dA has shape (40, 3), expected (r, in) = (3, 40)"),
        ("dB", {**arrays, "dB": arrays["dB"].astype(np.int64)}, "dB: dtype int64, expected a floating dtype"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("fault", range(7))
def test_a_fault_is_said_in_terms_of_the_configuration(tmp_path, request, large, fault):
    if large:
        request.getfixturevalue("as_if_large")
    arrays = step("float64", leading=(4, 16))
    name, wrong, words = spoiled(arrays)[fault]
    report = judged(write(tmp_path / "dump.safetensors", wrong, dtype="float64"))
    assert report.verdict == "fail"
    assert words in report.message
    assert {n for n, v in report.outputs.items() if v.verdict == "fail"} == {name}


def test_a_complete_small_dump_is_diagnosed(tmp_path):
    arrays = step("float64", leading=(4, 16))
    s = LORA["alpha"] / LORA["r"]
    wrong = {**arrays, "dA": arrays["dA"] / s, "dB": arrays["dB"] / s}
    report = judge_dump(write(tmp_path / "dump.safetensors", wrong, dtype="float64"))
    assert report.as_json()["diagnosis"] == ["S4"]


def spoiled_by(name, **how):
    """A step of more than 32,768 numbers with a fault of the catalogue."""
    arrays = step("float64", leading=(4, 30), in_=96, out=80, mask=True, **how)
    inputs = {n: a for n, a in arrays.items() if n in INPUTS}
    (fault,) = (fault for fault in FAULTS if fault.name == name)
    return {**inputs, **wrong_answer("lora_linear", fault)(inputs, LORA)}


@pytest.mark.parametrize("name", ["S5/dB", "D3", "K1", "B11"])
def test_a_large_dump_is_diagnosed_by_samples(tmp_path, name):
    """K1 and B11 are about tokens and rows of the batch, so a sample must keep the places of its rows."""
    report = judge_dump(write(tmp_path / "dump.safetensors", spoiled_by(name), dtype="float64"))
    assert report.as_json()["diagnosis"] == [name.split("/")[0]]


@pytest.mark.parametrize(("name", "ids"), [("S13", ["S13"]), ("D3", ["D3"]), ("K1", ["K1"]), ("S5/dB", [])])
def test_of_a_very_large_dump_some_rows_are_looked_at(tmp_path, monkeypatch, name, ids):
    """Then dA and dB, which are sums over all rows, are not."""
    monkeypatch.setattr(diagnosing, "_ALL_ROWS", 1 << 12)
    report = judge_dump(write(tmp_path / "dump.safetensors", spoiled_by(name), dtype="float64"))
    assert report.as_json()["diagnosis"] == ids


def spoiled_somewhere(what):
    """A large step in which one thing is wrong that a sample shows in another place, or not at all."""
    arrays = step("float64", leading=(1500,), in_=20, out=300)
    if what == "one output":
        arrays["y"] = arrays["y"].copy()
        arrays["y"][:, 100] = arrays["y"][:, 100] - arrays["x"] @ arrays["W"][100]
    elif what == "dx over the sample's length":
        arrays["dx"] = arrays["dx"] / 16
    elif what == "y doubled, and one row of dB":
        arrays["y"], arrays["dB"] = 2.0 * arrays["y"], arrays["dB"].copy()
        arrays["dB"][173] *= 3.0
    return arrays


@pytest.mark.parametrize("what", ["one output", "dx over the sample's length", "y doubled, and one row of dB"])
def test_no_place_and_no_length_of_a_sample_is_told(tmp_path, monkeypatch, what):
    monkeypatch.setattr(diagnosing, "_ALL_ROWS", 1 << 12)
    report = judge_dump(write(tmp_path / "dump.safetensors", spoiled_somewhere(what), dtype="float64"))
    says = report.contracts[0].diagnosis.says
    assert report.verdict == "fail"
    assert not re.search(r"(output|token|feature|rank|index|row) \d", says), says
    assert "mean" not in says
    assert not re.search(r"dB[^.]* (is|are) right", says), says


def test_a_step_without_tokens_is_judged(tmp_path):
    """As of a layer that a kernel went around: A, B and their gradients alone. At B = 0, dA must be 0."""
    arrays = step("float64")
    alone = {name: arrays[name] for name in ("A", "B", "dA", "dB")}
    report = judge_dump(write(tmp_path / "dump.safetensors", {**alone, "B": 0.0 * arrays["B"]}, dtype="float64"))
    assert report.verdict == "fail"


def test_a_scale_that_has_no_square_is_judged(tmp_path):
    arrays, config = step("float64"), {**LORA, "alpha": 3e-170}
    arrays = {**arrays, "B": arrays["B"] * 1e90}
    inputs = {name: a for name, a in arrays.items() if name in INPUTS}
    right = CONTRACTS["lora_linear"].answer(inputs, config)
    spoilt = {**inputs, **right, "dA": right["dA"] / 2.0}
    assert judge_dump(write(tmp_path / "dump.safetensors", spoilt, dtype="float64", config=config)).verdict == "fail"


@pytest.mark.parametrize("missing", ["dx", "W", "y"])
def test_a_dump_that_lacks_something_is_diagnosed(tmp_path, missing):
    """The first layer's x needs no gradient, so dumps often lack dx. The gradients alone can't tell S4 from S13."""
    arrays = without(spoiled_by("S4"), missing)
    report = judge_dump(write(tmp_path / "dump.safetensors", arrays, dtype="float64"))
    assert report.as_json()["diagnosis"] == (["S4", "S13"] if missing == "W" else ["S4"])


def test_a_missing_low_rank_term_is_said(tmp_path):
    arrays = step("float64", leading=(4, 16))
    wrong = {**arrays, "dx": arrays["dy"] @ arrays["W"]}
    report = judged(write(tmp_path / "dump.safetensors", wrong, dtype="float64"))
    assert "its low-rank term is missing" in report.message


# What is missing


@pytest.mark.parametrize("mask", [False, True])
def test_without_W_the_gradients_are_judged_and_J3_stands_for_y_and_dx(tmp_path, mask):
    arrays = without(step(mask=mask), "W")
    report = judged(write(tmp_path / "dump.safetensors", arrays))
    assert report.verdict == "pass"
    assert set(report.outputs) == {"dA", "dB", "J3"}
    for sentence in ("y on its own, because W is missing", "dx on its own, because W is missing", "J3"):
        assert sentence in report.message
    dx = arrays["dx"].copy()
    dx[2, 5] *= 1.01
    report = judged(write(tmp_path / "dump.safetensors", {**arrays, "dx": dx}))
    assert {n for n, v in report.outputs.items() if v.verdict == "fail"} == {"J3"}
    assert "at [2, 5]" in report.message


def test_a_mask_lost_in_dx_breaks_J3(tmp_path):
    arrays = step(mask=True)
    unmasked = arrays["dy"] @ arrays["W"] + LORA["alpha"] / LORA["r"] * (arrays["dy"] @ arrays["B"] @ arrays["A"])
    report = judged(write(tmp_path / "dump.safetensors", {**without(arrays, "W"), "dx": unmasked}))
    assert report.outputs["J3"].verdict == "fail"


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_without_x_dx_is_judged_and_J1_stands_for_the_gradients(tmp_path, dtype):
    arrays = without(step(dtype), "x", "b")
    report = judged(write(tmp_path / "dump.safetensors", arrays, dtype=dtype))
    assert report.verdict == "pass", report.message
    assert set(report.outputs) == {"dx", "J1"}
    assert "y on its own, because x is missing" in report.message
    one_sided = {**arrays, "dA": arrays["dA"] * np.dtype(dtype).type(0.5)}
    report = judged(write(tmp_path / "dump.safetensors", one_sided, dtype=dtype))
    assert report.outputs["J1"].verdict == "fail"
    assert re.search(r"J1: B\^T dB is (2|1\.99\d*|2\.00\d*) times dA A\^T", report.message)
    both = {**one_sided, "dB": arrays["dB"] * np.dtype(dtype).type(0.5)}
    report = judged(write(tmp_path / "dump.safetensors", both, dtype=dtype))
    assert report.outputs["J1"].verdict == "pass", "J1 is blind to a common factor, and the message says so"
    assert "a factor common to dA and dB, to which J1 (B^T dB = dA A^T) is blind" in report.message


def test_factors_and_their_gradients_alone_are_enough_for_J1(tmp_path):
    arrays = {name: array for name, array in step().items() if name in ("A", "B", "dA", "dB")}
    assert judged(write(tmp_path / "dump.safetensors", arrays)).outputs["J1"].verdict == "pass"
    report = judged(write(tmp_path / "dump.safetensors", {**arrays, "dB": arrays["dB"] * 1.25}))
    assert report.outputs["J1"].verdict == "fail"


@settings(max_examples=40, deadline=None)
@given(missing=st.sets(st.sampled_from(["x", "W", "dy", "b", "mask", "y", "dx", "dA", "dB"])))
def test_a_right_dump_never_fails_for_what_it_lacks(missing, tmp_path_factory):
    """b and mask change what is right when they are missing: what depends on them goes with them."""
    arrays = step(mask="mask" not in missing, bias="b" not in missing)
    path = write(tmp_path_factory.mktemp("dump") / "dump.safetensors", without(arrays, *missing))
    report = judged(path)
    assert report.verdict in ("pass", "absent"), report.message
    judged_here = set(report.outputs) & {"y", "dx", "dA", "dB"}
    for name in ("y", "dx", "dA", "dB"):
        assert (
            name in judged_here
            or f"{name} is not in the dump" in report.message
            or f"{name} on its own, because " in (report.message)
        )


# Coarser arithmetic, where the user allows it


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    missing=st.sampled_from([[], ["x"], ["W"], ["dy"]]),
    variant=st.sampled_from(LINEAR),
    mask=st.booleans(),
    large=st.booleans(),
)
@pytest.mark.slow
def test_float64_computed_in_float32_is_judged_as_float32(tmp_path_factory, seed, missing, variant, mask, large):
    arrays = step("float64", seed=seed, mask=mask)
    single = {name: arrays[name].astype(np.float32) for name in INPUTS if name in arrays}
    answers = variant(Case("lora_linear", "", "float32", LORA, single))
    path = tmp_path_factory.mktemp("dump") / "dump.safetensors"
    write(path, without({**arrays, **answers}, *missing), dtype="float64")
    with pytest.MonkeyPatch.context() as patch:
        if large:
            patch.setattr(rows, "_IN_FULL", 0)
        assert judged(path).verdict == "fail"
        report = judged(path, "fp32")
    assert report.verdict == "pass", report.message


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    missing=st.sampled_from([[], ["x"], ["W"], ["dy"]]),
    variant=st.sampled_from(LINEAR),
    positive=st.booleans(),
    mask=st.booleans(),
    large=st.booleans(),
)
@pytest.mark.slow
def test_truncated_products_are_judged_as_such(tmp_path_factory, seed, missing, variant, positive, mask, large):
    """Positive inputs are the worst for truncation: nothing cancels."""
    arrays = step(seed=seed, mask=mask)
    inputs = {name: np.abs(arrays[name]) if positive else arrays[name] for name in INPUTS if name in arrays}
    case = Case("lora_linear", "", "float32", LORA, inputs)
    path = tmp_path_factory.mktemp("dump") / "dump.safetensors"
    write(path, without({**inputs, **truncated_variant(case, variant)}, *missing))
    with pytest.MonkeyPatch.context() as patch:
        if large:
            patch.setattr(rows, "_IN_FULL", 0)
        assert judged(path).verdict == "fail"
        report = judged(path, "tf32-truncated")
    assert report.verdict == "pass", report.message


# The first step


def first_step(**how):
    arrays = step(**how)
    arrays["B"] = np.zeros_like(arrays["B"])
    case = Case("lora_linear", "", "float32", LORA, {n: arrays[n] for n in INPUTS if n in arrays})
    return {**arrays, **LINEAR[0](case)}


def test_at_the_first_step_a_later_one_is_asked_for(tmp_path):
    arrays = first_step()
    report = judged(write(tmp_path / "dump.safetensors", arrays))
    assert report.verdict == "pass"
    assert set(report.outputs) == {"y", "dx", "dA", "dB"}
    assert "B is 0, as in the first step of every run" in report.message
    assert "dump a later step" in report.message
    wrong = {**arrays, "dB": arrays["dB"] * 2}
    assert judged(write(tmp_path / "dump.safetensors", wrong)).outputs["dB"].verdict == "fail"


def test_at_the_first_step_dA_is_zero_and_the_identities_say_nothing(tmp_path):
    arrays = without(first_step(), "x")
    report = judged(write(tmp_path / "dump.safetensors", arrays))
    assert set(report.outputs) == {"dx", "dA"}
    dA = arrays["dA"].copy()
    dA[1, 2] = 1e-30
    assert judged(write(tmp_path / "dump.safetensors", {**arrays, "dA": dA})).outputs["dA"].verdict == "fail"
    nothing = {name: arrays[name] for name in ("A", "B", "dB")}
    report = judge_dump(write(tmp_path / "dump.safetensors", nothing))
    assert report.verdict == "error"
    assert "dump a later step" in report.contracts[0].cases[0].message
