"""torchtune, Keras, mlx-lm and torch.compile: the recorded verdicts, and the grounds for calling them what they are.

A disagreement is a convention when the library's gradients are those of its own forward, by complex step, and a fault
when they are not, or when digits are lost. Versions: see npl_lora/oracle/libraries/known/.
"""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import npl_lora
from npl_lora import ops
from npl_lora.oracle import CONTRACTS, Case
from npl_lora.oracle.contracts import train_steps
from npl_lora.oracle.contracts.judging import judge_case
from npl_lora.oracle.definition import RIGHT
from npl_lora.oracle.dumps import capture, judge_dump
from npl_lora.oracle.libraries.known import keras, mlx, torchtune
from npl_lora.oracle.libraries.table import LIBRARIES
from npl_lora.oracle.subjects.convert import to_arrays
from npl_lora.oracle.subjects.self_ops import complex_step
from npl_lora.oracle.tolerance.judge import judge, right_answer

pytestmark = [
    pytest.mark.libraries,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # the libraries' own, of each other
]

RECORDED = json.loads((Path(npl_lora.__file__).parents[1] / "examples" / "conformance.json").read_text())
ELSEWHERE = {"peft", "loralib"}  # in test_libraries.py
OPTIONS = {
    name: ("--dtype", "float32") if library.slow else () for name, library in LIBRARIES.items() if name not in ELSEWHERE
}


@pytest.fixture(scope="module", params=OPTIONS)
def report(request, tmp_path_factory):
    file = tmp_path_factory.mktemp("library") / "report.json"
    words = [request.param, "--json", str(file), "--timeout", "300", *OPTIONS[request.param]]
    done = subprocess.run([sys.executable, "-m", "npl_lora", "check", *words], capture_output=True, text=True)
    assert file.exists(), done.stdout + done.stderr
    return json.loads(file.read_text())


def test_the_verdicts_are_the_recorded_ones(report):
    library = LIBRARIES[report["target"]]
    cases = [case for contract in report["contracts"].values() for case in contract["cases"]]
    got = {case["id"]: case["verdict"] for case in cases}
    assert got == {case: library.verdict(case)[0] for case in got}
    for case in cases:
        if case["verdict"] == "absent":
            assert case["message"] == library.verdict(case["id"])[1].sentence


def test_the_record_holds_the_same_numbers(report):
    recorded = RECORDED["libraries"][report["target"]]["contracts"]
    assert list(recorded) == list(report["contracts"])
    if not OPTIONS[report["target"]]:
        for name, contract in report["contracts"].items():
            assert recorded[name]["passed"] == sum(case["verdict"] == "pass" for case in contract["cases"])
            absent = {case["id"]: case["message"] for case in contract["cases"] if case["verdict"] == "absent"}
            assert recorded[name]["absent"] == absent


FLOAT32 = {
    torchtune.ROTARY,
    torchtune.FLOAT32_LOSS,
    torchtune.FLOAT32_NORM,
    keras.FLOAT32_FACTORS,
    keras.FLOAT32_DIVISION,
    keras.FLOAT32_NORM,
    mlx.FLOAT32_FUNCTIONS,
    mlx.FLOAT32_NORM,
}
LARGEST = 2.0**-24 * 64  # float32 rounds log p, which is down to -48 where p counts, and exp makes a factor of that


def test_what_is_too_coarse_for_float64_is_off_by_float32s_rounding_and_no_more(report):
    for contract in report["contracts"].values():
        for case in contract["cases"]:
            if LIBRARIES[report["target"]].verdict(case["id"])[1] in FLOAT32 and case["verdict"] == "fail":
                assert case["id"].endswith("float64")
                assert all(output["error"] < LARGEST for output in case["outputs"].values()), case["id"]


EXAMPLES = [(name, r) for name, library in LIBRARIES.items() for r in library.reasons if r.example]


@pytest.mark.parametrize(("library", "reason"), EXAMPLES)
def test_the_example_prints_what_is_recorded(library, reason):
    # PEFT adapts nothing where an older torchao is installed, which torchtune needs: None says that there is none.
    hidden = "import sys; sys.modules['torchao'] = None\n" if library == "peft" else ""
    done = subprocess.run([sys.executable, "-c", hidden + reason.example], capture_output=True, text=True)
    assert done.stdout == reason.prints, done.stderr


def ask(library, case):
    module = importlib.import_module(LIBRARIES[library].module)
    return to_arrays(getattr(module, case.contract)(case))


def case_of(contract, name, dtype):
    return next(case for case in CONTRACTS[contract].cases(dtype) if case.id == f"{contract}/{name}/{dtype}")


# Conventions: the library answers another definition rightly, gradients included.


def dora_with_scaled_bias(arrays, n):
    """torchtune's: y = (m / n) (x V^T + b), n given: it is a constant in the backward."""
    V = arrays["W"] + 2.5 * arrays["B"] @ arrays["A"]
    return arrays["m"] / n * (arrays["x"] @ V.T + arrays["b"])


@pytest.mark.parametrize("library", ["torchtune", "mlx", "torch-compiled"])
def test_torchtune_alone_scales_the_bias_of_dora(library):
    rng = np.random.default_rng(3)
    shapes = {"x": (3, 5), "W": (4, 5), "A": (2, 5), "B": (4, 2), "m": (4,), "b": (4,), "dy": (3, 4)}
    arrays = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    case = Case("dora_linear", "", "float64", {"r": 2, "alpha": 5, "use_rslora": False}, arrays)
    n = np.linalg.norm(arrays["W"] + 2.5 * arrays["B"] @ arrays["A"], axis=1)
    ratio = arrays["m"] / n

    def forward(at):
        bias = at["b"] if library == "torchtune" else at["b"] / ratio  # the definition's, were it not for dm
        return dora_with_scaled_bias({**at, "b": bias}, n)

    got = ask(library, case)
    np.testing.assert_allclose(got["y"], forward(arrays), atol=1e-12)
    for name in ("x", "A", "B"):
        np.testing.assert_allclose(got[f"d{name}"], complex_step(forward, arrays, name, arrays["dy"]), atol=1e-12)
    without_bias = arrays if library == "torchtune" else {**arrays, "b": 0.0 * arrays["b"]}
    dm = complex_step(lambda at: dora_with_scaled_bias(at, n), without_bias, "m", arrays["dy"])
    np.testing.assert_allclose(got["dm"], dm, atol=1e-12)


def test_kerass_adamw_is_right_with_the_papers_epsilon_hat():
    def with_epsilon_hat(adamw):
        def step(p, g, state, *, eps, betas, **how):
            corrected = eps / (1.0 - betas[1] ** (state.step + 1)) ** 0.5
            return adamw(p, g, state, eps=corrected, betas=betas, **how)

        return step

    case = case_of("train_steps", "adamw-accumulated", "float32")
    hat = RIGHT.wrapped(adamw=with_epsilon_hat)
    right = right_answer(case, lambda arrays, config: train_steps.answer(arrays, config, hat))
    got = ask("keras", case)
    assert {name: v.note for name, v in judge(right, got).items() if v.verdict != "pass"} == {}
    assert {v.verdict for v in judge_case(case, got).values()} == {"pass", "fail"}


def test_mlxs_query_without_keys_gets_the_mean_of_all_values_and_its_gradients():
    """The definition with one change: where there is no key, the scores of all keys are equal."""

    def equal_scores_without_keys(attention):
        def changed(q, k, v, *, causal, key_mask):
            y, pullback = attention(q, k, v, causal=causal, key_mask=key_mask)
            T = key_mask.shape[-1]
            blind = ~(np.tril(np.ones((T, T), dtype=bool)) & key_mask[:, None, :]).any(axis=-1)
            mean = np.repeat(v.mean(axis=-2, keepdims=True), q.shape[-3] // v.shape[-3], axis=-3)
            return y + blind[:, None, :, None] * mean, pullback

        return changed

    changed = RIGHT.wrapped(attention=equal_scores_without_keys)
    single = case_of("lora_attention", "left-padded", "float32")
    arrays = {name: a if a.dtype == bool else a.astype(np.float64) for name, a in single.arrays.items()}

    def forward(at):
        return CONTRACTS["lora_attention"].forward(at, single.config, changed)[0]

    got = ask("mlx", single)
    np.testing.assert_allclose(got.pop("y"), forward(arrays), atol=1e-4)
    for name, value in got.items():
        derivative = complex_step(forward, arrays, name.removeprefix("d"), arrays["dy"])
        np.testing.assert_allclose(value, derivative, atol=1e-4, rtol=1e-4, err_msg=name)


# Faults


@pytest.mark.parametrize("library", ["keras", "mlx"])
def test_accumulation_differentiates_the_mean_of_the_micro_batches_means(library):
    """What is trained on is another loss than that of the window; its gradient is right for what it is."""
    case = case_of("cross_entropy", "accumulated", "float32")
    logits, labels, parts = case["logits"].astype(np.float64), case["labels"], case.config["accumulation"]

    def mean_of_means(at):
        pairs = zip(np.split(at["logits"], parts), np.split(labels, parts), strict=True)
        losses = [ops.cross_entropy(z[:, :-1], t[:, 1:], ignore_index=case.config["ignore_index"])[0] for z, t in pairs]
        return sum(losses) / parts

    got, at = ask(library, case), {"logits": logits}
    np.testing.assert_allclose(got["loss"], mean_of_means(at), rtol=1e-6)
    np.testing.assert_allclose(got["dlogits"], complex_step(mean_of_means, at, "logits", 1.0), atol=1e-6)
    assert judge_case(case, got)["dlogits"].error > 0.1


def test_what_is_compiled_is_compiled():
    """Inductor made kernels for the forward and the backward."""
    import torch

    torch._inductor.metrics.reset()
    ask("torch-compiled", case_of("lora_mlp", "silu", "float32"))
    assert torch._inductor.metrics.generated_kernel_count >= 2


@pytest.mark.parametrize("name", ["LoRALinear", "DoRALinear"])
def test_torchtunes_layers_are_captured_or_named(tmp_path, name):
    torch = importlib.import_module("torch")
    layer = getattr(importlib.import_module("torchtune.modules.peft"), name)(10, 8, rank=3, alpha=7.0, dropout=0.4)
    torch.nn.init.normal_(layer.lora_b.weight)
    if name == "DoRALinear":
        layer.initialize_dora_magnitude()
        sentence = "1 can't be judged, because it is DoRA, with the magnitude magnitude"
        with pytest.raises(ValueError, match=sentence), capture(torch.nn.Sequential(torch.nn.ReLU(), layer), tmp_path):
            pass
        return
    model = torch.nn.Sequential(torch.nn.Linear(10, 10), layer)
    with capture(model, tmp_path):
        model(torch.randn(4, 10)).square().sum().backward()
    ((case,),) = (contract.cases for contract in judge_dump(tmp_path / "1.safetensors").contracts)
    assert (case.verdict, case.message) == ("pass", "s = alpha / r = 2.333")
    assert set(case.outputs) == {"y", "dx", "dA", "dB"}
