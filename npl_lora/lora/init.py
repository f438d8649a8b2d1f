"""The parameters of a LoRA layer before training.

B is zero and A is not. With B = 0 the layer equals its base, so training starts from the pretrained model. With A != 0,
B has a gradient, dB = s dy^T (x A^T). With both at zero, both gradients would stay zero for ever.

    "course"     A ~ 0.01 N(0, 1)                       as in most lecture notes
    "kaiming"    A ~ U(-1/sqrt(in), 1/sqrt(in))         PEFT's default: He et al. with a = sqrt(5)
    "gaussian"   A ~ N(0, (1/r)^2)                      PEFT's init_lora_weights="gaussian"

Source: Hu et al. 2021, section 4.1 (A Gaussian, B zero); He et al., "Delving Deep into Rectifiers", 2015,
equation 15: the bound is sqrt(6 / ((1 + a^2) in)), and a = sqrt(5) makes it 1/sqrt(in).
"""

import math
from typing import Any

import numpy as np

from ..ops.checks import check_choice

INITS = ("course", "kaiming", "gaussian")


def factors(
    out_features: int, in_features: int, rank: int, init: str, rng: np.random.Generator, dtype: Any
) -> tuple[np.ndarray, np.ndarray]:
    """A (r, in), drawn as `init` says, and B (out, r), zero; both in dtype. Raises ValueError for an unknown init."""
    check_choice("init", init, INITS)
    shape = (rank, in_features)
    if init == "course":
        A = 0.01 * rng.standard_normal(shape)
    elif init == "gaussian":
        A = rng.standard_normal(shape) / rank
    else:
        A = uniform(shape, in_features, rng, dtype)
    return A.astype(dtype), np.zeros((out_features, rank), dtype)


def uniform(shape: tuple[int, ...], fan_in: int, rng: np.random.Generator, dtype: Any) -> np.ndarray:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): torch.nn.Linear's default for its weight and its bias."""
    bound = 1.0 / math.sqrt(fan_in)
    return rng.uniform(-bound, bound, shape).astype(dtype)
