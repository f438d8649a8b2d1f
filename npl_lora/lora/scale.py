"""The scale of the low-rank path: s = alpha / r, or alpha / sqrt(r) with rsLoRA.

With alpha / r, the path learns less as r grows. With alpha / sqrt(r) it does not.

Source: Hu et al. 2021, section 4.1; Kalajdzievski, "A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA",
2023, section 3.
"""

import math
from collections.abc import Callable
from typing import Any

from ..ops.checks import check_number


def lora_scale(rank: Any, alpha: Any, use_rslora: bool, sqrt: Callable[[Any], Any] = math.sqrt) -> Any:
    """s = alpha / rank, or alpha / sqrt(rank) with use_rslora.

    rank and alpha are numbers of any kind with a division. For numbers of a many-digit library, give its sqrt too.
    """
    return alpha / sqrt(rank) if use_rslora else alpha / rank


def check_alpha(alpha: Any) -> Any:
    """alpha as a Python number; any finite real number is allowed. Raises TypeError and ValueError."""
    alpha = check_number("alpha", alpha)
    if isinstance(alpha, complex):
        raise TypeError("alpha is a complex, expected a real number")
    return alpha
