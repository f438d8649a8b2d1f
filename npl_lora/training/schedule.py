"""The learning rate over a run: a warm-up, then constant, linear to 0, or half a cosine to 0.

In a run of n steps, the first w warm up. Step t = 0, 1, ..., n - 1 uses lr times

    t / w                                   t < w
    1                                       constant
    (n - t) / (n - w)                       linear
    (1 + cos(pi (t - w) / (n - w))) / 2     cosine

Source: Loshchilov and Hutter, "SGDR", 2017, equation 5, without restarts; transformers' schedulers of the same names.
"""

import math

SCHEDULES = ("constant", "linear", "cosine")


def rate(step: int, *, steps: int, warmup: int = 0, schedule: str = "cosine") -> float:
    """The factor on the learning rate at a step; the first step is 0. Raises ValueError for an unknown schedule."""
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule is {schedule!r}, expected one of {', '.join(SCHEDULES)}")
    if step < warmup:
        return step / warmup
    if schedule == "constant":
        return 1.0
    done = (step - warmup) / max(1, steps - warmup)
    return max(0.0, 1.0 - done) if schedule == "linear" else max(0.0, 0.5 * (1.0 + math.cos(math.pi * done)))
