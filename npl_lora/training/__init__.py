"""Training: optimisers as pure functions, schedules, and a step on a batch. (The loop and checkpoints are to come.)"""

from .optimizers import AdamWState, adamw, sgd

__all__ = ["AdamWState", "adamw", "sgd"]
