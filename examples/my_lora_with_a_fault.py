"""my_lora.py with one fault of a kind that hides in real code: y is right, the loss goes down, but dB is wrong.

    npl-lora check examples/my_lora_with_a_fault.py

exits with status 1: something was wrong. y, dx and dA are right in every case. dB lacks the factor s,
where s = alpha/r (alpha/sqrt(r) with use_rslora). Tests with alpha = r never see it, because then s = 1.
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
    dB = np.einsum("no,nr->or", tokens(dy), tokens(h))  # the fault: s * is missing
    return {"y": y, "dx": dx, "dA": dA, "dB": dB}


def tokens(t):
    """(..., n) -> (N, n)."""
    return t.reshape(-1, t.shape[-1])
