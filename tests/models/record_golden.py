"""Write tests/models/golden.json: what transformers and PEFT answer, in float64 throughout, for tiny models of every
kind under every configuration of test_transformers, and the losses of fifty AdamW steps.

    cd tests && PYTHONPATH=. python models/record_golden.py

Whoever adds a kind or a configuration there runs it again. Needs the extras torch and test.
"""

import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch
from models import golden, test_bert
from models.float64 import islands_in_float64
from models.test_training import their_losses
from models.test_transformers import GEMMAS, GPT2_LORAS, LORAS, MODELS, PHI3_LORAS, PHIS, ROPES, answers, theirs

CASES = [(name, lora, LORAS[lora]) for name in MODELS for lora in LORAS]
CASES += [(name, "usual", LORAS["usual"]) for name in ROPES | GEMMAS]
CASES += [(name, lora, PHI3_LORAS[lora]) for name in PHIS for lora in PHI3_LORAS]
CASES += [("gpt2", lora, GPT2_LORAS[lora]) for lora in GPT2_LORAS]
CASES += [("bert", lora, test_bert.LORAS[lora]) for lora in test_bert.LORAS]
RUNS = [("usual", schedule, dtype) for schedule in ("linear", "cosine") for dtype in ("float32", "float64")]
RUNS += [("rslora", "linear", "float64")]


def record():
    """What golden.json holds."""
    models, cases = {}, {}
    for name, lora, config in CASES:
        with tempfile.TemporaryDirectory() as folder:
            adapted = remade(Path(folder), name, config)
            models[name] = about(Path(folder) / "model" / "config.json")
            cases[f"{name} {lora}"] = about(Path(folder) / "adapter" / "adapter_config.json") | answered(name, adapted)
    versions = {package: version(package) for package in ("torch", "transformers", "peft", "numpy")}
    losses = {" ".join(run): trained(*run) for run in RUNS}
    return {"made_with": versions, "models": models, "cases": cases, "training": losses}


def remade(folder, name, lora):
    """The model and the adapter that test_transformers makes, with the numbers of `golden.values`."""
    adapted = test_bert.theirs(folder, lora) if name == "bert" else theirs(folder, name, lora)
    for parameter_name, parameter in adapted.named_parameters():
        value = golden.values(golden.ours(parameter_name), tuple(parameter.shape))
        parameter.data = torch.from_numpy(value)
    return adapted


def about(path):
    """A configuration as it was written, but for nulls and what names this run; and the shapes of the tensors there."""
    of_this_run = ("transformers_version", "peft_version", "base_model_name_or_path")
    found = json.loads(path.read_text()).items()
    config = {
        name: value
        for name, value in found
        if (value is not None or name.endswith("softcapping")) and name not in of_this_run  # a missing cap is a default
    }
    if isinstance(config.get("target_modules"), list):
        config["target_modules"].sort()  # PEFT keeps a set, whose order is another each time
    (file,) = path.parent.glob("*model.safetensors")
    raw = file.read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    return {"config": config, "tensors": {n: t["shape"] for n, t in header.items() if n != "__metadata__"}}


def answered(name, adapted):
    """Of a batch of texts, or of sentences to be classified."""
    tokens, labels, mask = golden.batch_for(name)
    logits, loss, grads = answers(adapted, tokens, labels, mask)
    gradients = {ours: golden.numbers(ours, g) for ours, g in test_bert.by_our_names(grads).items()}
    logits = logits if labels.ndim == 1 else logits[mask]
    return {"logits": golden.numbers("logits", logits), "loss": loss, "gradients": gradients}


def trained(lora, schedule, dtype):
    """The losses of fifty steps of the tiny Llama."""
    batches = [golden.batch(seed) for seed in range(golden.STEPS)]
    with tempfile.TemporaryDirectory() as folder:
        adapted = remade(Path(folder), "llama", LORAS[lora])
        if dtype == "float32":
            return their_losses(adapted.float(), batches, schedule)
        with islands_in_float64():
            return their_losses(adapted, batches, schedule)


def written(recorded):
    """The text of the file: a line for each model, case and run."""

    def lines(part):
        return ",\n".join(f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in part.items())

    parts = (f" {json.dumps(name)}: {{\n{lines(part)}\n }}" for name, part in recorded.items())
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    sys.modules["torchao"] = None  # as in conftest
    golden.FILE.write_text(written(record()))
