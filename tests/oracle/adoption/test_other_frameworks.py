"""Layers in Keras, MLX, Flax and Equinox, and functions of arrays: as their authors wrote them, right and wrong.

For each the verdict, and words of the sentence that says why: its convention, a fact's, the fault's id, or the reason
why it was not adopted ("error").
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from npl_lora.oracle import TargetError, check
from npl_lora.oracle.subjects.objects import ObjectSubject
from npl_lora.oracle.subjects.targets import load_object

pytestmark = [
    pytest.mark.libraries,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # the libraries' own, of each other
    pytest.mark.filterwarnings("ignore::UserWarning:keras"),
]

COMMON = {
    "Right": ("pass", "s = alpha / r"),
    "AlphaAlone": ("convention", "s = alpha, not alpha / r: alpha = 16 at r = 8 is alpha = 128 in PEFT"),
    "FloorDivided": ("fail", "S15"),
    "AlphaWithoutEffect": ("fail", "alpha has no effect: s = 1"),
    "BothRandom": ("fail", "neither A nor B is zero at the start"),
    "BothZero": ("fail", "A and B are both zero at the start"),
    "ScaledBase": ("fail", "S17"),
    "Untransposed": ("fail", "TypeError"),
    "Embedding": ("pass", "(ids, width); A "),
    "UnscaledEmbedding": ("fail", "S13"),
}
NOT_ADOPTED = ("error", "was not adopted: its first call, at in = 13, out = 11, r = 3, raised")
EXPECTED = {
    "layers_keras": {
        **COMMON,
        "Untransposed": NOT_ADOPTED,
        "FrozenFactors": ("fail", "neither A nor B is trained: trainable is False"),
        "OnLayer": ("pass", "W original_layer.kernel (in, out); A A.kernel (in, r)"),
        "FactorsWithBias": ("pass", "trained, and W is frozen; PEFT trains no bias by default"),
        "PathAlone": ("convention", "s = scale, not alpha / r"),
        "DropoutAfterB": ("pass", "Dropout acts after B"),
        "KeepsItsProduct": ("fail", "after A was changed, y in evaluation is not that of the new A"),
        "OverwritesX": ("fail", "x is overwritten: a branch that uses it after the call gets other numbers"),
        "KeepsLastX": ("fail", "called twice in one graph, dA and dB are wrong"),
        "ReadsTheStoredNumbers": ("fail", "under a policy of mixed precision, its first call, at in = 13"),
        "AddsToItsBaseInEvaluation": ("fail", "after training and evaluation in turn, y and dx are no longer the same"),
        "RemembersItsProduct": ("fail", "checkpointed: CheckpointError"),
    },
    "layers_mlx": {
        **COMMON,
        "Untransposed": ("fail", "[matmul]"),
        "FrozenFactors": ("fail", "neither A nor B is trained: freeze() was called"),
        "PrivateFactors": ("fail", "A and B are not parameters"),
        "OnBase": ("convention", "s = scale, not alpha / r"),
        "PathAlone": ("pass", "A path.A (r, in)"),
        "DropoutAfterB": ("pass", "Dropout acts after B"),
        "KeepsItsProduct": ("fail", "after A was changed, y in evaluation is not that of the new A"),
        "OverwritesX": ("fail", "x is overwritten: a branch that uses it after the call gets other numbers"),
        "KeepsLastX": ("fail", "called twice in one graph, dA and dB are wrong"),
        "AddsToItsBaseInEvaluation": ("fail", "after training and evaluation in turn, y and dx are no longer the same"),
        "RemembersItsProduct": ("fail", "under gradient checkpointing, dA and dB are wrong"),
    },
    "layers_flax_linen": {
        **COMMON,
        "Untransposed": NOT_ADOPTED,
        "DenseFactors": ("pass", "A path.down.kernel (in, r)"),
        "OnDense": ("convention", "s = scale, not alpha / r"),
        "DropoutAfterB": ("pass", "Dropout acts after B"),
        "ScalesTwiceInEvaluation": ("fail", "y in evaluation differs from y in training without dropout"),
    },
    "layers_flax_nnx": {
        **COMMON,
        "FactorsOfAnotherKind": ("fail", "A and B are buffers, not parameters: never trained"),
        "OnLinear": ("pass", "W linear.kernel (in, out); A A.kernel (in, r)"),
        "PathAlone": ("convention", "s = 1, not alpha / r"),
    },
    "layers_equinox": {
        **COMMON,
        "StoppedFactor": ("fail", "a step of the optimiser does not change A"),
        "NumPyFactors": ("pass", "A lora_a (r, in)"),
        "Sized": ("pass", "A A.weight (r, in)"),
        "Batched": ("pass", "s = alpha / r"),
    },
    "functions_of_arrays": {
        "numpy_right": ("pass", "a function in numpy: W (out, in); A (r, in); B (out, r); s = alpha / r"),
        "numpy_no_scale": ("fail", "S13"),
        "lora_linear": ("convention", "a function in torch: weight (out, in); lora_A (in, r); lora_B (r, out)"),
        "torch_path_floor": ("fail", "S15"),
        "torch_detached": ("fail", "dA"),
        "jax_bias": ("pass", "a function in jax: w (in, out); a (in, r); b (r, out); s = alpha / r"),
        "jax_mask": ("pass", "a function in jax"),
        "raises": ("error", "it raises with W, A and B whichever way round they are, ValueError"),
    },
}


def loaded(name):
    """The file of this name, imported once."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def judged(thing, **how):
    """The verdict, and everything that was said."""
    try:
        subject = ObjectSubject(thing)
    except TargetError as error:
        return "error", str(error)
    report = check(subject, **how)
    wrong = [fact.wrong for fact in subject.adoption.facts if fact.wrong]
    said = [*report.found, report.convention, *wrong, *report.diagnosis]
    said += [case.message for contract in report.contracts for case in contract.cases if case.verdict == "fail"]
    return ("fail" if wrong else report.verdict), "\n".join(said)


@pytest.mark.parametrize(("file", "name"), [(file, name) for file, names in EXPECTED.items() for name in names])
def test_the_verdict_and_the_sentence(file, name):
    contract = "lora_embedding" if "Embedding" in name else "lora_linear"
    verdict, said = judged(getattr(loaded(file), name), contract=contract, dtypes=["float32"])
    assert verdict == EXPECTED[file][name][0], said
    assert EXPECTED[file][name][1] in said


@pytest.mark.parametrize("file", [file for file in EXPECTED if file.startswith("layers_")])
def test_a_right_layer_passes_every_contract_in_every_dtype(file):
    subject = ObjectSubject(loaded(file).Right)
    report = check(subject)
    assert report.verdict == "pass", judged(loaded(file).Right)
    passed = {contract.contract for contract in report.contracts if contract.verdict == "pass"}
    assert {"layer", "lora_linear", "train_steps", "lora_dropout"} <= passed


def test_a_function_that_builds_a_layer_belongs_to_the_framework_of_what_it_builds():
    mlx = loaded("layers_mlx")

    def build(in_features, out_features, rank, alpha):
        return mlx.Right(in_features, out_features, rank, alpha)

    assert judged(build, contract="lora_linear", dtypes=["float32"])[0] == "pass"


@pytest.mark.parametrize("file", [file for file in EXPECTED if file.startswith("layers_")])
def test_every_layer_of_a_file_is_found(file):
    assert set(load_object(loaded(file), file, None).layers) == set(EXPECTED[file])


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_keras_on_both_backends(backend):
    words = [sys.executable, "-m", "npl_lora", "check", f"{Path(__file__).parent / 'layers_keras.py'}:Right"]
    words += ["--contract", "lora_linear", "--dtype", "float32"]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "KERAS_BACKEND": backend})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Right  pass" in done.stdout


def test_keras_without_tensorflow_says_what_to_set(tmp_path):
    (tmp_path / "mine.py").write_text("import keras\n")
    words = [sys.executable, "-m", "npl_lora", "check", str(tmp_path / "mine.py")]
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    done = subprocess.run(words, capture_output=True, text=True, env={**environment, "KERAS_HOME": str(tmp_path)})
    assert done.returncode == 2
    assert "KERAS_BACKEND=torch or jax" in done.stdout + done.stderr
