"""One training step: the gradients of a batch, clipped, then a step of the optimiser.

The loss is the mean over the labels that count in the full batch. So the losses and gradients of the micro-batches
simply add up. The step takes a state and returns a new one. Nothing changes in place: if a step fails, the old state is
intact.

Source: Loshchilov and Hutter 2019 (AdamW); Pascanu et al., "On the difficulty of training recurrent neural networks",
2013 (clipping); Hayou et al., "LoRA+", 2024 (a larger learning rate for B).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from .. import ops as reference
from ..adapters import Adapter
from ..lora.masks import counter_rng, dropout_mask
from ..lora.optimizers import AdamWState, adamw, sgd
from ..models import LossOptions, Pretrained
from ..support.array import Array
from ..support.finite import describe_nonfinite, is_finite
from ..support.ranks import ALONE, Ranks
from .nonfinite import origin
from .schedule import rate

OPTIMIZERS = ("adamw", "sgd")


@dataclass(frozen=True)
class Recipe:
    """How to train. lr: the learning rate; B learns at lr times loraplus_ratio. clip: the largest norm of all gradients
    together; None does not clip. warmup: how many of the steps raise the rate to lr. seed: of the order of the rows and
    of the dropout masks.

    Raises ValueError for a value out of range.
    """

    steps: int
    lr: float = 2e-4
    optimizer: str = "adamw"
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    loraplus_ratio: float = 1.0
    clip: float | None = 1.0
    schedule: str = "cosine"
    warmup: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer is {self.optimizer!r}, expected one of {', '.join(OPTIMIZERS)}")
        rate(0, steps=self.steps, warmup=self.warmup, schedule=self.schedule)  # raises for an unknown schedule
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}, expected at least 1")
        if not 0 <= self.warmup <= self.steps:
            raise ValueError(f"warmup is {self.warmup}, expected 0 to {self.steps} steps")
        rates = {"lr": self.lr, "loraplus_ratio": self.loraplus_ratio, "clip": 1.0 if self.clip is None else self.clip}
        for name, value in rates.items():
            if not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}, expected a finite number above 0")
        for name, value in {"weight_decay": self.weight_decay, "eps": self.eps}.items():
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value}, expected a finite number of at least 0")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas is {self.betas}, expected 0 <= beta < 1 for both")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}, expected at least 0")


@dataclass(frozen=True)
class Batch:
    """tokens (B, T). labels: (B, T) for a `Model`, (B,) for a `Classifier`; -100 does not count. key_mask (B, T) bool:
    False on padding; None if there is none."""

    tokens: np.ndarray
    labels: np.ndarray
    key_mask: np.ndarray | None = None

    @property
    def count(self) -> int:
        """How many labels count. With a label for each token, the first of a row does not: nothing predicts it."""
        labels = self.labels if self.labels.ndim == 1 else self.labels[:, 1:]
        return int(np.sum(labels != -100))

    @property
    def size(self) -> int:
        """How many tokens are not padding."""
        return self.tokens.size if self.key_mask is None else int(np.sum(self.key_mask))


@dataclass(frozen=True)
class Best:
    """The lowest held-out loss so far, the step after which it was measured, and the number of evaluations since."""

    loss: float = math.inf
    step: int = 0
    worse_since: int = 0

    def after(self, loss: float, step: int) -> "Best":
        """The best after one more evaluation."""
        return Best(loss, step) if loss < self.loss else replace(self, worse_since=self.worse_since + 1)


@dataclass(frozen=True)
class State:
    """The state of a training run: the adapter, the optimiser's means by parameter name, the number of steps and of
    micro-batches taken, and the best evaluation."""

    adapter: Adapter
    means: Mapping[str, AdamWState] = field(default_factory=dict)
    step: int = 0
    micro_batches: int = 0
    best: Best = Best()


@dataclass(frozen=True)
class Metrics:
    """What one step measured. loss: before the update. norm: of all gradients, before clipping. lr: the learning rate.
    count: the labels that counted. tokens: without padding."""

    loss: float
    norm: float
    lr: float
    count: int
    tokens: int


class NonFiniteError(ArithmeticError):
    """A loss or a gradient is not finite. The message is one sentence and names the place."""


def train_step(
    model: Pretrained, state: State, batches: Sequence[Batch], recipe: Recipe, ranks: Ranks = ALONE
) -> tuple[State, Metrics]:
    """The state after one step, and its metrics. batches: the micro-batches of one batch, the same list on all ranks;
    the ranks share the work. Raises NonFiniteError and leaves the state unchanged."""
    with np.errstate(all="ignore"):  # an overflow shows in the loss or in the norm
        loss, grads = gradients(model, state, batches, recipe, ranks=ranks)
        norm = global_norm(grads)
    if not (math.isfinite(loss) and math.isfinite(norm)):
        where = origin(partial(gradients, model, state, batches, recipe), model, state.adapter)
        raise NonFiniteError(f"{_describe_nonfinite(loss, grads)} in step {state.step + 1}{where}")
    shrink = 1.0 if recipe.clip is None else min(1.0, recipe.clip / (norm + 1e-6))  # 1e-6 as in torch
    lr = recipe.lr * rate(state.step, steps=recipe.steps, warmup=recipe.warmup, schedule=recipe.schedule)
    parameters, means = dict(state.adapter.parameters), dict(state.means)
    for name, gradient in grads.items():
        gradient, before = gradient if shrink == 1.0 else shrink * gradient, parameters[name]
        with np.errstate(all="ignore"):  # an overflow shows in the parameter or in v
            after, means[name] = _update_parameter(name, before, gradient, means.get(name), lr, recipe)
        for what, array in ((name, after), (f"v of {name}", np.asarray(means[name].v))):
            if not is_finite(array) and is_finite(before):
                place = describe_nonfinite(what, array, array)
                raise NonFiniteError(f"{place}, after step {state.step + 1}, though its gradient was finite")
        parameters[name] = after
    new = replace(
        state,
        adapter=state.adapter.with_parameters(parameters),
        means=means,
        step=state.step + 1,
        micro_batches=state.micro_batches + len(batches),
    )
    count, tokens = sum(batch.count for batch in batches), sum(batch.size for batch in batches)
    return new, Metrics(loss, norm, lr, count, tokens)


def gradients(
    model: Pretrained,
    state: State,
    batches: Sequence[Batch],
    recipe: Recipe,
    ops: Any = reference,
    ranks: Ranks = ALONE,
) -> tuple[float, dict[str, np.ndarray]]:
    """The loss of a batch and the gradients of all trained parameters, summed over its micro-batches.

    Each micro-batch is computed by one rank, with the same dropout masks on any of them. Raises ValueError if there are
    fewer micro-batches than ranks.
    """
    if len(batches) < ranks.size:
        raise ValueError(
            f"a batch has {len(batches)} micro-batches, expected at least one for each of {ranks.size} ranks"
        )
    count, total, grads = sum(batch.count for batch in batches), 0.0, dict[str, np.ndarray]()
    for i in ranks.mine(len(batches)):
        batch = batches[i]
        masks = partial(_mask, state, recipe.seed, state.micro_batches + i) if state.adapter.dropout else None
        options = LossOptions(key_mask=batch.key_mask, count=count, masks=masks, ops=ops)
        loss, pullback = model.loss(batch.tokens, batch.labels, state.adapter, options)
        total += float(loss)
        for name, gradient in pullback(1.0).items():
            grads[name] = grads[name] + gradient if name in grads else gradient
    return _sum_over_ranks(ranks, total, grads) if ranks.size > 1 else (total, grads)


def _sum_over_ranks(ranks: Ranks, loss: float, grads: Mapping[str, np.ndarray]) -> tuple[float, dict[str, np.ndarray]]:
    """Loss and gradients summed over all ranks, in one flat buffer: the gradients, then the loss."""
    dtype = np.result_type(*grads.values())
    flat = ranks.total(np.concatenate([*(g.ravel() for g in grads.values()), [loss]], dtype=dtype, casting="same_kind"))
    ends = np.cumsum([g.size for g in grads.values()])
    chunks = np.split(flat[:-1], ends[:-1])
    return float(flat[-1]), {name: c.reshape(g.shape) for (name, g), c in zip(grads.items(), chunks, strict=True)}


def global_norm(grads: Mapping[str, np.ndarray]) -> float:
    """The Euclidean norm of all gradients together, in float64."""
    return math.sqrt(sum(float(np.sum(np.square(g, dtype=np.float64))) for g in grads.values()))


def _describe_nonfinite(loss: float, grads: Mapping[str, np.ndarray]) -> str:
    """Which quantity of a step is not finite, as a clause."""
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    bad = next((name for name, g in grads.items() if not np.isfinite(g).all()), None)
    return "the norm of all gradients is not finite" if bad is None else f"the gradient of {bad} is not finite"


def _mask(state: State, seed: int, micro_batch: int, path: str, x: Array) -> np.ndarray:
    """The dropout mask on one module's input. Every call gives the same mask, so a recomputed forward gets it too."""
    layer = list(state.adapter.places).index(path)
    return dropout_mask(x.shape, state.adapter.dropout, counter_rng(seed, micro_batch, layer), x.dtype)


def _update_parameter(
    name: str, p: np.ndarray, gradient: np.ndarray, means: AdamWState | None, lr: float, recipe: Recipe
) -> tuple[np.ndarray, AdamWState]:
    """One parameter and its means after the step. A name that ends like B's gets LoRA+'s rate."""
    is_B = name.endswith(("lora_B.weight", "lora_embedding_B"))
    lr, means = lr * recipe.loraplus_ratio if is_B else lr, means or AdamWState()
    if recipe.optimizer == "sgd":
        return sgd(p, gradient, lr=lr, weight_decay=recipe.weight_decay), means
    return adamw(p, gradient, means, lr=lr, weight_decay=recipe.weight_decay, betas=recipe.betas, eps=recipe.eps)
