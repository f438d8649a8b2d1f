"""This project's step, the same as in npl-lora train."""

import platform
from typing import Any

import numpy as np

from ... import __version__
from ...adapters import LoRAConfig
from ...models import Model, load
from ..step import Batch, Recipe, State, train_step
from .settings import ALPHA, CLIP, LR, Settings


class Side:
    """about: versions, the number of trained parameters, and the settings that follow from the model."""

    def __init__(self, settings: Settings) -> None:
        model = load(settings.model)
        model = model if settings.coded else model.decode()
        names = settings.target_modules
        fields = {"r": settings.rank, "lora_alpha": ALPHA, "target_modules": names}
        adapter = model.attach(LoRAConfig.from_json(fields), rng=settings.seed)
        self._settings, self._state, self._vocabulary = settings, State(adapter), model.config.vocabulary
        self._model: Any = _Recomputing(model) if settings.recompute else model
        self._recipe = Recipe(settings.steps + 1, lr=LR, clip=CLIP, schedule="constant")
        self.about = {
            "versions": {"npl-lora": __version__, "Python": platform.python_version(), **_numpy()},
            "trained": sum(array.size for array in adapter.parameters.values()),
            "decided": {"target_modules": adapter.config.as_json()["target_modules"], "vocabulary": self._vocabulary},
        }

    def step(self, step: int) -> float:
        """Take a step. Returns the loss before it."""
        tokens = self._settings.tokens(step, self._vocabulary)
        self._state, metrics = train_step(self._model, self._state, [Batch(tokens, tokens)], self._recipe)
        return metrics.loss


class _Recomputing:
    """A model whose loss always recomputes. (train_step has no option for it.)"""

    def __init__(self, model: Model) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def loss(self, *inputs: Any, **how: Any) -> Any:
        return self._model.loss(*inputs, **{**how, "recompute": True})


def _numpy() -> dict[str, str]:
    """The versions of NumPy and of its BLAS."""
    config: Any = np.show_config(mode="dicts")
    blas = config["Build Dependencies"]["blas"]
    return {"NumPy": np.__version__, blas["name"]: blas["version"]}
