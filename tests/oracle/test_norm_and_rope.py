"""rms_norm and rope alone: the ways in which libraries compute them are right."""

import numpy as np
import pytest

from npl_lora.oracle import CONTRACTS, DTYPES, check
from npl_lora.oracle.contracts.judging import judge_case
from npl_lora.oracle.subjects import Answer


def wide(dtype):
    """What is computed in: float32, unless the numbers are float64."""
    return np.float64 if dtype == np.float64 else np.float32


def rms_norm(case):
    """As Hugging Face's Llama has it: float32 inside, rounded to the dtype before the weight is applied."""
    dtype = case["x"].dtype
    x, w, dy = (case[name].astype(wide(dtype)) for name in ("x", "w", "dy"))
    q = 1 / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + x.dtype.type(case.config["eps"]))
    xhat, g = x * q, w * dy
    y = case["w"] * xhat.astype(dtype)
    dx = g * q - x * q**3 * np.sum(g * x, axis=-1, keepdims=True) / x.shape[-1]
    dw = (dy * xhat).reshape(-1, x.shape[-1]).sum(axis=0)
    return {"y": y, "dx": dx.astype(dtype), "dw": dw.astype(dtype)}


def tables(case):
    """cos and sin (T, D/2): angles in float32 at least, rounded to the dtype."""
    x, theta = case["x"], case.config["theta"]
    D, inner = x.shape[-1], wide(x.dtype)
    inverse = (1.0 / theta ** (np.arange(0, D, 2) / D)).astype(inner)
    phi = case["positions"].astype(inner)[:, None] * inverse
    return np.cos(phi).astype(x.dtype), np.sin(phi).astype(x.dtype)


def rotate_half(t):
    half = t.shape[-1] // 2
    return np.concatenate((-t[..., half:], t[..., :half]), axis=-1)


def rope_by_tables(case):
    """As Hugging Face has it: x cos + rotate_half(x) sin, with each table twice side by side."""
    cos, sin = (np.concatenate((t, t), axis=-1) for t in tables(case))
    x, dy = case["x"], case["dy"]
    return {"y": x * cos + rotate_half(x) * sin, "dx": dy * cos - rotate_half(dy) * sin}


def rope_by_pairs(case):
    """As Meta has it: neighbours are complex numbers."""
    cos, sin = (t.astype(wide(t.dtype)) for t in tables(case))

    def turn(t, sign):
        pairs = t.astype(cos.dtype).reshape(*t.shape[:-1], -1, 2)
        z = (pairs[..., 0] + 1j * pairs[..., 1]) * (cos + sign * 1j * sin)
        return np.stack((z.real, z.imag), axis=-1).reshape(t.shape).astype(t.dtype)

    return {"y": turn(case["x"], 1), "dx": turn(case["dy"], -1)}


def rope(case):
    return rope_by_pairs(case) if case.config["interleaved"] else rope_by_tables(case)


def failures(case, outputs):
    return [name for name, verdict in judge_case(case, outputs).items() if verdict.verdict != "pass"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("answer", [rms_norm, rope])
def test_what_libraries_compute_is_right_in_every_dtype(answer, dtype):
    for case in CONTRACTS[answer.__name__].cases(dtype):
        assert failures(case, answer(case)) == [], case.id


def test_the_cases_have_every_layout_and_positions_that_do_not_count_from_zero():
    cases = CONTRACTS["rope"].cases("float64")
    for interleaved in (False, True):
        positions = [c["positions"].tolist() for c in cases if c.config["interleaved"] == interleaved]
        assert any(p == list(range(len(p))) for p in positions)
        assert any(p[0] != 0 for p in positions)
        assert any(sorted(set(p)) != p for p in positions)
    assert all(c["x"].shape[-1] > 2 for c in cases)
    assert {c["x"].ndim for c in cases} == {3, 4}
    norms = CONTRACTS["rms_norm"].cases("float64")
    assert {c["x"].ndim for c in norms} == {1, 2, 3, 4}
    assert len({c.config["eps"] for c in norms}) > 2
    assert any((c["x"] == 0).all(axis=-1).any() for c in norms)


class InFloat32:
    """A norm that casts its input to float32."""

    name, contracts = "float32", ("rms_norm",)

    def ask(self, case):
        arrays = {name: array.astype(np.float32) for name, array in case.arrays.items()}
        outputs = CONTRACTS["rms_norm"].answer(arrays, case.config)
        return Answer(outputs=({name: output.astype(np.float64) for name, output in outputs.items()},))


def test_a_norm_that_is_computed_in_float32_is_told():
    (report,) = check(InFloat32(), dtypes=["float64"]).contracts
    assert report.verdict == "fail"
    assert "float32 somewhere inside" in report.diagnosis.says
