"""Training: optimisers as pure functions, schedules, a step on a batch, data, the loop, and checkpoints.

The optimisers are for whoever has a parameter and its gradient; the rest trains a model's adapter. Reading order:
optimizers, schedule, step, data, loop, checkpoint.
"""

from .optimizers import AdamWState, adamw, sgd

__all__ = ["AdamWState", "adamw", "sgd"]
