"""Faults of the scale s = alpha / r."""

import math

from .fault import Fault
from .lora_path import in_lora_ops, low_rank_dx
from .wraps import with_arguments, with_gradients, with_question


def _scaled(name):
    """s times an argument, or None where it is None."""
    return lambda a: None if getattr(a, name) is None else a.scale * getattr(a, name)


def _inverse(s):
    """1 / s; 0 stays 0, where another fault has made it so."""
    return 1.0 / s if s else s


def _in_contracts_of_several(change):
    """The same change of the configuration in both contracts of several adapters."""
    return dict.fromkeys(("adapter_combine", "lora_batched"), with_question(config=change))


def _scaled_by_rank(config, rank):
    """alpha such that each adapter gets the scale that it would have with this rank."""
    ratios = [math.sqrt(r / rank) if rs else r / rank for r, rs in zip(config["r"], config["use_rslora"], strict=True)]
    return {"alpha": [alpha * ratio for alpha, ratio in zip(config["alpha"], ratios, strict=True)]}


FAULTS = [
    Fault(
        "S1",
        says="alpha is used instead of s = alpha / r: the division by r is missing",
        wrong="y = x W^T + alpha (x A^T) B^T",
        right="y = x W^T + (alpha / r) (x A^T) B^T",
        hidden_when="r = 1",
        seen_in="rasbt/LLMs-from-scratch#821, #1080; Blaizzy/mlx-vlm#841",
        parts={"scale": lambda scale: lambda config: config["alpha"]},
    ),
    Fault(
        "S2",
        says="the merge lacks s = alpha / r",
        wrong="W_merged = W + B A",
        right="W_merged = W + s B A",
        hidden_when="alpha = r",
        seen_in="hao-ai-lab/FastVideo#870",
        parts={"merge": with_arguments(scale=lambda a: 1.0), "unmerge": with_arguments(scale=lambda a: 1.0)},
    ),
    Fault(
        "S2",
        variant="merge-only",
        says="the merge lacks s = alpha / r, but the unmerge has it",
        wrong="W_merged = W + B A, W_unmerged = W_merged - s B A",
        right="W_merged = W + s B A, W_unmerged = W_merged - s B A",
        hidden_when="alpha = r",
        seen_in="hao-ai-lab/FastVideo#870",
        parts={"merge": with_arguments(scale=lambda a: 1.0)},
    ),
    Fault(
        "S3",
        says="use_rslora is ignored: the scale is alpha / r instead of alpha / sqrt(r)",
        wrong="s = alpha / r",
        right="s = alpha / sqrt(r)",
        hidden_when="r = 1, or no test sets use_rslora",
        seen_in="NVIDIA/TensorRT-LLM#1668, #1669; paiml/aprender#2111, #2189",
        parts={"scale": lambda scale: lambda config: scale({**config, "use_rslora": False})},
    ),
    Fault(
        "S3",
        variant="always",
        says="the scale is alpha / sqrt(r) even when use_rslora is off",
        wrong="s = alpha / sqrt(r)",
        right="s = alpha / r",
        hidden_when="r = 1, or every test sets use_rslora",
        seen_in="huggingface/peft#2733",
        parts={"scale": lambda scale: lambda config: scale({**config, "use_rslora": True})},
    ),
    Fault(
        "S4",
        says="dA and dB lack s = alpha / r: the backward forgets the scale of the low-rank path",
        wrong="dA = (dy B)^T x, dB = dy^T (x A^T)",
        right="dA = s (dy B)^T x, dB = s dy^T (x A^T)",
        hidden_when="s = 1, or only Adam's loss curves are compared",
        seen_in="hand-written backward passes",
        parts=in_lora_ops(with_gradients(A=lambda dA, a: dA / a.scale, B=lambda dB, a: dB / a.scale)),
    ),
    Fault(
        "S5",
        variant="dA",
        says="dA lacks s = alpha / r, which dB has",
        wrong="dA = (dy B)^T x",
        right="dA = s (dy B)^T x",
        hidden_when="s = 1",
        seen_in="hand-written backward passes",
        parts=in_lora_ops(with_gradients(A=lambda dA, a: dA / a.scale)),
    ),
    Fault(
        "S5",
        variant="dB",
        says="dB lacks s = alpha / r, which dA has",
        wrong="dB = dy^T (x A^T)",
        right="dB = s dy^T (x A^T)",
        hidden_when="s = 1",
        seen_in="hand-written backward passes",
        parts=in_lora_ops(with_gradients(B=lambda dB, a: dB / a.scale)),
    ),
    Fault(
        "S6",
        says="the low-rank part of dx lacks s = alpha / r, so earlier layers get a wrong gradient",
        wrong="dx = dy W + (dy B) A",
        right="dx = dy W + s (dy B) A",
        hidden_when="s = 1 or B = 0",
        seen_in="hand-written backward passes",
        parts={"lora_linear": with_gradients(x=lambda dx, a: dx + (_inverse(a.scale) - 1.0) * low_rank_dx(a))},
    ),
    Fault(
        "S7",
        says="s = alpha / r is applied twice",
        wrong="s^2 B A",
        right="s B A",
        hidden_when="alpha = r",
        seen_in="huggingface/peft#3111",
        parts={"scale": lambda scale: lambda config: scale(config) ** 2},
    ),
    Fault(
        "S9",
        variant="alpha",
        says="every adapter is scaled with the alpha of the first one",
        wrong="s_i = alpha_1 / r_i",
        right="s_i = alpha_i / r_i",
        hidden_when="all adapters have the same alpha",
        seen_in="huggingface/diffusers#14409",
        answers=_in_contracts_of_several(lambda t, c: {"alpha": [c["alpha"][0]] * len(c["alpha"])}),
    ),
    Fault(
        "S9",
        variant="rank",
        says="every adapter is scaled with the rank of the first one",
        wrong="s_i = alpha_i / r_1",
        right="s_i = alpha_i / r_i",
        hidden_when="all adapters have the same rank",
        seen_in="huggingface/diffusers#14409",
        answers=_in_contracts_of_several(lambda t, c: _scaled_by_rank(c, c["r"][0])),
    ),
    Fault(
        "S9",
        variant="rslora",
        says="every adapter is scaled as the use_rslora of the first one says",
        wrong="s_i = alpha_i / sqrt(r_i) if use_rslora_1, else alpha_i / r_i",
        right="s_i = alpha_i / sqrt(r_i) if use_rslora_i, else alpha_i / r_i",
        hidden_when="all adapters have the same use_rslora",
        seen_in="hand-written code that reads one adapter's settings",
        answers=_in_contracts_of_several(lambda t, c: {"use_rslora": [c["use_rslora"][0]] * len(c["r"])}),
    ),
    Fault(
        "S9",
        variant="any-rslora",
        says="every adapter is scaled with sqrt(r) if any of them uses rsLoRA",
        wrong="s_i = alpha_i / sqrt(r_i) if any use_rslora_j, else alpha_i / r_i",
        right="s_i = alpha_i / sqrt(r_i) if use_rslora_i, else alpha_i / r_i",
        hidden_when="all adapters have the same use_rslora",
        seen_in="hand-written engines with one setting for all adapters",
        answers=_in_contracts_of_several(lambda t, c: {"use_rslora": [any(c["use_rslora"])] * len(c["r"])}),
    ),
    Fault(
        "S9",
        variant="padded",
        says="every adapter is scaled with the rank that the buffer is padded to",
        wrong="s_k = alpha_k / R",
        right="s_k = alpha_k / r_k",
        hidden_when="all adapters have the rank of the buffer",
        seen_in="hand-written engines that keep all adapters in one buffer",
        answers={"lora_batched": with_question(config=lambda t, c: _scaled_by_rank(c, t["A"].shape[1]))},
    ),
    Fault(
        "S13",
        says="the scale is not applied: s is 1 instead of alpha / r",
        wrong="y = x W^T + (x A^T) B^T",
        right="y = x W^T + s (x A^T) B^T",
        hidden_when="alpha = r",
        seen_in="sgl-project/sglang#16935; ml-explore/mlx-examples#622",
        parts={"scale": lambda scale: lambda config: 1.0},
    ),
    Fault(
        "S14",
        variant="weight-for-scale",
        says="each adapter's weight replaces its scale instead of multiplying it",
        wrong="sum_i w_i B_i A_i",
        right="sum_i w_i s_i B_i A_i",
        hidden_when="alpha = r",
        seen_in="huggingface/diffusers#5414, #5417; huggingface/peft#1029",
        answers={
            "adapter_combine": with_question(
                config=lambda t, c: {"alpha": list(c["r"]), "use_rslora": [False] * len(c["r"])}
            )
        },
    ),
    Fault(
        "S14",
        variant="weight-lost",
        says="the adapters' weights are ignored",
        wrong="sum_i s_i B_i A_i",
        right="sum_i w_i s_i B_i A_i",
        hidden_when="all weights are 1",
        seen_in="huggingface/diffusers#5414, #5417; huggingface/peft#1029",
        answers={"adapter_combine": with_question(config=lambda t, c: {"weights": [1.0] * len(c["weights"])})},
    ),
    Fault(
        "S15",
        says="s = alpha / r is an integer division: the scale is rounded down",
        wrong="s = alpha // r",
        right="s = alpha / r",
        hidden_when="r divides alpha",
        seen_in="LoRA-ViT; hand-written ports to C++ and Rust",
        parts={"scale": lambda scale: lambda config: scale(config) // 1},
    ),
    Fault(
        "S16",
        says="alpha and r are swapped in the scale",
        wrong="s = r / alpha",
        right="s = alpha / r",
        hidden_when="alpha = r",
        seen_in="hand-written layers",
        parts={"scale": lambda scale: lambda config: _inverse(scale(config))},
    ),
    Fault(
        "S17",
        says="s = alpha / r multiplies the base path and the bias as well",
        wrong="y = s (x W^T + b + (x A^T) B^T)",
        right="y = x W^T + b + s (x A^T) B^T",
        hidden_when="s = 1",
        seen_in="KohakuBlueleaf/LyCORIS#23, #26; EricLBuehler/candle-lora",
        parts={
            "lora_linear": with_arguments(W=_scaled("W"), b=_scaled("b")),
            "lora_embedding": with_arguments(E=_scaled("E")),
        },
    ),
    Fault(
        "S17",
        variant="without-bias",
        says="s = alpha / r multiplies the base path as well, but not the bias",
        wrong="y = s (x W^T + (x A^T) B^T) + b",
        right="y = x W^T + b + s (x A^T) B^T",
        hidden_when="s = 1",
        seen_in="hand-written layers",
        parts={"lora_linear": with_arguments(W=_scaled("W"))},
    ),
]
