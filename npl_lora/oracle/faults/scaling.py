"""Faults of the scale s = alpha / r."""

import math

from .backwards import low_rank_dx
from .fault import Fault, asked, backward, given

_LAYERS = ("lora_linear", "lora_embedding", "dora_linear")  # a convolution is lora_linear on patches


def _in_layers(wrap):
    return dict.fromkeys(_LAYERS, wrap)


FAULTS = [
    Fault(
        "S1",
        "alpha is used in the place of s = alpha / r: the division by r is missing",
        "y = x W^T + alpha (x A^T) B^T",
        "y = x W^T + (alpha / r) (x A^T) B^T",
        "r = 1",
        "rasbt/LLMs-from-scratch#821, #1080; Blaizzy/mlx-vlm#841",
        parts={"scale": lambda scale: lambda config: config["alpha"]},
    ),
    Fault(
        "S2",
        "the merge lacks s = alpha / r",
        "W' = W + B A",
        "W' = W + s B A",
        "alpha = r",
        "hao-ai-lab/FastVideo#870",
        parts={"merge": given(scale=lambda a: 1.0), "unmerge": given(scale=lambda a: 1.0)},
    ),
    Fault(
        "S2",
        "the merge lacks s = alpha / r, which the unmerge has",
        "W' = W + B A, then W' - s B A",
        "W' = W + s B A, then W' - s B A",
        "alpha = r",
        "hao-ai-lab/FastVideo#870",
        variant="merge-only",
        parts={"merge": given(scale=lambda a: 1.0)},
    ),
    Fault(
        "S3",
        "use_rslora is ignored: the scale is alpha / r where it should be alpha / sqrt(r)",
        "s = alpha / r",
        "s = alpha / sqrt(r)",
        "r = 1, or no test that sets use_rslora",
        "NVIDIA/TensorRT-LLM#1668, #1669; paiml/aprender#2111, #2189",
        parts={"scale": lambda scale: lambda config: scale({**config, "use_rslora": False})},
    ),
    Fault(
        "S3",
        "the scale is alpha / sqrt(r) also where use_rslora is off",
        "s = alpha / sqrt(r)",
        "s = alpha / r",
        "r = 1, or no test without use_rslora",
        "huggingface/peft#2733",
        variant="always",
        parts={"scale": lambda scale: lambda config: scale({**config, "use_rslora": True})},
    ),
    Fault(
        "S4",
        "dA and dB lack s = alpha / r: the backward forgets the scale of the low-rank path",
        "dA = (dy B)^T x, dB = dy^T (x A^T)",
        "dA = s (dy B)^T x, dB = s dy^T (x A^T)",
        "s = 1; Adam hides it in loss curves",
        "hand-written backwards invite it",
        parts=_in_layers(backward(A=lambda dA, a: dA / a.scale, B=lambda dB, a: dB / a.scale)),
    ),
    Fault(
        "S5",
        "dA lacks s = alpha / r, which dB has",
        "dA = (dy B)^T x",
        "dA = s (dy B)^T x",
        "s = 1",
        "hand-written backwards invite it",
        variant="dA",
        parts=_in_layers(backward(A=lambda dA, a: dA / a.scale)),
    ),
    Fault(
        "S5",
        "dB lacks s = alpha / r, which dA has",
        "dB = dy^T (x A^T)",
        "dB = s dy^T (x A^T)",
        "s = 1",
        "hand-written backwards invite it",
        variant="dB",
        parts=_in_layers(backward(B=lambda dB, a: dB / a.scale)),
    ),
    Fault(
        "S6",
        "the low-rank part of dx lacks s = alpha / r: earlier layers get a wrong gradient",
        "dx = dy W + (dy B) A",
        "dx = dy W + s (dy B) A",
        "s = 1 or B = 0",
        "hand-written backwards invite it",
        parts={"lora_linear": backward(x=lambda dx, a: dx + (1.0 / a.scale - 1.0) * low_rank_dx(a))},
    ),
    Fault(
        "S7",
        "s = alpha / r is applied twice",
        "s^2 B A",
        "s B A",
        "alpha = r",
        "huggingface/peft#3111",
        parts={"scale": lambda scale: lambda config: scale(config) ** 2},
    ),
    Fault(
        "S9",
        "every adapter is scaled with the first one's alpha",
        "s_i = alpha_1 / r_i",
        "s_i = alpha_i / r_i",
        "all adapters alike",
        "huggingface/diffusers#14409",
        variant="alpha",
        answers={"adapter_combine": asked(config=lambda t, c: {"alpha": [c["alpha"][0]] * len(c["alpha"])})},
    ),
    Fault(
        "S9",
        "every adapter is scaled with the first one's rank",
        "s_i = alpha_i / r_1",
        "s_i = alpha_i / r_i",
        "all adapters alike",
        "huggingface/diffusers#14409",
        variant="rank",
        answers={
            "adapter_combine": asked(
                config=lambda t, c: {
                    "alpha": [
                        alpha * (math.sqrt(r / c["r"][0]) if rs else r / c["r"][0])
                        for alpha, r, rs in zip(c["alpha"], c["r"], c["use_rslora"], strict=True)
                    ]
                }
            )
        },
    ),
    Fault(
        "S13",
        "the scale is not applied: s is 1, not alpha / r",
        "y = x W^T + (x A^T) B^T",
        "y = x W^T + s (x A^T) B^T",
        "alpha = r",
        "sgl-project/sglang#16935; ml-explore/mlx-examples#622",
        parts={"scale": lambda scale: lambda config: 1.0},
    ),
    Fault(
        "S14",
        "an adapter's weight takes the place of its scale",
        "sum_i w_i B_i A_i",
        "sum_i w_i s_i B_i A_i",
        "alpha = r",
        "huggingface/diffusers#5414, #5417; huggingface/peft#1029",
        variant="weight-for-scale",
        answers={
            "adapter_combine": asked(config=lambda t, c: {"alpha": list(c["r"]), "use_rslora": [False] * len(c["r"])})
        },
    ),
    Fault(
        "S14",
        "the adapters' weights are lost",
        "sum_i s_i B_i A_i",
        "sum_i w_i s_i B_i A_i",
        "all weights 1",
        "huggingface/diffusers#5414, #5417; huggingface/peft#1029",
        variant="weight-lost",
        answers={"adapter_combine": asked(config=lambda t, c: {"weights": [1.0] * len(c["weights"])})},
    ),
]
