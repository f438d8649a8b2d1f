"""An implementation of LoRA such as you might write, ready to be checked. It is right.

    npl-lora check examples/my_lora.py

finds the function by its name, runs it on the cases, and exits with status 0: every answer was right.
my_lora_with_a_fault.py is the same with one fault. The function needs nothing from npl_lora.
"""

import numpy as np


def lora_linear(case):
    # Inputs. Half precision is for storing, not for summing: compute in float64 for every input dtype.
    x, W, A, B, dy = (case[name].astype(np.float64) for name in ("x", "W", "A", "B", "dy"))
    b = case["b"].astype(np.float64) if "b" in case else 0.0
    mask = case["mask"].astype(np.float64) if "mask" in case else 1.0

    r, alpha = case.config["r"], case.config["alpha"]
    s = alpha / r**0.5 if case.config["use_rslora"] else alpha / r

    # Forward: the base path sees x, the low-rank path sees what dropout leaves of it.
    x_dropped = x * mask
    h = np.einsum("...i,ri->...r", x_dropped, A)
    y = np.einsum("...i,oi->...o", x, W) + b + s * np.einsum("...r,or->...o", h, B)

    # Backward: dh is the gradient of h. A and B serve every token, so their gradients sum over all tokens.
    dh = s * np.einsum("...o,or->...r", dy, B)
    dx = np.einsum("...o,oi->...i", dy, W) + mask * np.einsum("...r,ri->...i", dh, A)
    dA = np.einsum("nr,ni->ri", tokens(dh), tokens(x_dropped))
    dB = s * np.einsum("no,nr->or", tokens(dy), tokens(h))
    return {"y": y, "dx": dx, "dA": dA, "dB": dB}


def tokens(t):
    """(..., n) -> (N, n)."""
    return t.reshape(-1, t.shape[-1])
