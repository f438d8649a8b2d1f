"""Training: optimisers as pure functions. (Schedules, data, the loop and checkpoints come with the models.)"""

from .optimizers import AdamWState, adamw, sgd

__all__ = ["AdamWState", "adamw", "sgd"]
