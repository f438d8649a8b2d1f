"""One step of training: gradients over all micro-batches of a batch, clipped, and a step of the optimiser.

The loss is the mean over the labels that count in the whole batch, so micro-losses and micro-gradients just add up. A
state goes in and another comes out: nothing is changed in place, so a step that fails has not half happened.

Source: Loshchilov and Hutter 2019 (AdamW); Pascanu et al., "On the difficulty of training recurrent neural networks",
2013, for clipping; Hayou et al., "LoRA+", 2024, for a larger rate on B.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from .. import ops as reference
from ..adapters import LoRA
from ..lora.masks import counter_rng, dropout_mask
from ..lora.optimizers import AdamWState, adamw, sgd
from ..models import Pretrained
from ..support.array import Array
from ..support.ranks import ALONE, Ranks
from .nonfinite import origin
from .schedule import rate

OPTIMIZERS = ("adamw", "sgd")


@dataclass(frozen=True)
class Recipe:
    """How to train. lr: of A, and of all else but B, which gets lr times loraplus_ratio. clip: the largest norm of all
    gradients together, or None. warmup: the steps, of all, until the rate is lr. seed: of the dropout masks.

    Raises ValueError for a value that does not fit.
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
    """tokens (B, T); labels as the loss takes them, (B, T) of a `Model`, (B,) of a `Classifier`; key_mask (B, T) bool,
    or None without padding."""

    tokens: np.ndarray
    labels: np.ndarray
    key_mask: np.ndarray | None = None

    @property
    def count(self) -> int:
        """The labels that count: the first of a row is predicted from nothing, where there is one for each token."""
        labels = self.labels if self.labels.ndim == 1 else self.labels[:, 1:]
        return int(np.sum(labels != -100))

    @property
    def size(self) -> int:
        """The tokens that are no padding."""
        return self.tokens.size if self.key_mask is None else int(np.sum(self.key_mask))


@dataclass(frozen=True)
class Best:
    """The lowest held-out loss so far, the step that it was seen after, and how many evaluations came since."""

    loss: float = math.inf
    step: int = 0
    worse_since: int = 0

    def after(self, loss: float, step: int) -> "Best":
        """With one evaluation more."""
        return Best(loss, step) if loss < self.loss else replace(self, worse_since=self.worse_since + 1)


@dataclass(frozen=True)
class State:
    """What training has reached: the adapter, the optimiser's means by parameter, how many steps and micro-batches are
    behind it, and what was best."""

    adapter: LoRA
    means: Mapping[str, AdamWState] = field(default_factory=dict)
    step: int = 0
    micro_batches: int = 0
    best: Best = Best()


@dataclass(frozen=True)
class Metrics:
    """Of one step: the loss before it, the norm of the gradients before clipping, the rate, the labels counted, and
    the tokens read."""

    loss: float
    norm: float
    lr: float
    count: int
    tokens: int


class NonFiniteError(ArithmeticError):
    """A loss or a gradient that is not finite. One sentence that says where."""


def train_step(
    model: Pretrained, state: State, batches: Sequence[Batch], recipe: Recipe, ranks: Ranks = ALONE
) -> tuple[State, Metrics]:
    """The state after one step on a batch, given as micro-batches, which are the same on all ranks and dealt out to
    them. Raises NonFiniteError; the state is as it was."""
    with np.errstate(all="ignore"):  # what overflows is seen by what comes of it
        loss, grads = gradients(model, state, batches, recipe, ranks=ranks)
        norm = global_norm(grads)
    if not (math.isfinite(loss) and math.isfinite(norm)):
        where = origin(partial(gradients, model, state, batches, recipe), model, state.adapter)
        raise NonFiniteError(f"{_describe_nonfinite(loss, grads)} in step {state.step + 1}{where}")
    shrink = 1.0 if recipe.clip is None else min(1.0, recipe.clip / (norm + 1e-6))  # 1e-6 as torch has it
    lr = recipe.lr * rate(state.step, steps=recipe.steps, warmup=recipe.warmup, schedule=recipe.schedule)
    parameters, means = dict(state.adapter.parameters), dict(state.means)
    for name, gradient in grads.items():
        gradient = gradient if shrink == 1.0 else shrink * gradient
        parameters[name], means[name] = _update_parameter(name, parameters[name], gradient, means.get(name), lr, recipe)
    after = replace(
        state,
        adapter=state.adapter.with_parameters(parameters),
        means=means,
        step=state.step + 1,
        micro_batches=state.micro_batches + len(batches),
    )
    count, tokens = sum(batch.count for batch in batches), sum(batch.size for batch in batches)
    return after, Metrics(loss, norm, lr, count, tokens)


def gradients(
    model: Pretrained,
    state: State,
    batches: Sequence[Batch],
    recipe: Recipe,
    ops: Any = reference,
    ranks: Ranks = ALONE,
) -> tuple[float, dict[str, np.ndarray]]:
    """The loss of a batch and the gradients of all that is trained, summed over its micro-batches, each of which one
    rank computes: there must be one for each. A micro-batch keeps its number, so its dropout is the same on any rank.
    """
    if len(batches) < ranks.size:
        raise ValueError(
            f"a batch has {len(batches)} micro-batches, expected at least one for each of {ranks.size} ranks"
        )
    count, total, grads = sum(batch.count for batch in batches), 0.0, dict[str, np.ndarray]()
    for i in ranks.mine(len(batches)):
        batch = batches[i]
        masks = (
            partial(_mask, state, recipe.seed, state.micro_batches + i) if state.adapter.config.lora_dropout else None
        )
        loss, pullback = model.loss(
            batch.tokens, batch.labels, state.adapter, key_mask=batch.key_mask, count=count, masks=masks, ops=ops
        )
        total += float(loss)
        for name, gradient in pullback(1.0).items():
            grads[name] = grads[name] + gradient if name in grads else gradient
    return _sum_over_ranks(ranks, total, grads) if ranks.size > 1 else (total, grads)


def _sum_over_ranks(ranks: Ranks, loss: float, grads: Mapping[str, np.ndarray]) -> tuple[float, dict[str, np.ndarray]]:
    """The sums over all ranks, by one flat buffer: the gradients, and the loss behind them."""
    dtype = np.result_type(*grads.values())
    flat = ranks.total(np.concatenate([*(g.ravel() for g in grads.values()), [loss]], dtype=dtype, casting="same_kind"))
    ends = np.cumsum([g.size for g in grads.values()])
    parts = np.split(flat[:-1], ends[:-1])
    return float(flat[-1]), {name: part.reshape(g.shape) for (name, g), part in zip(grads.items(), parts, strict=True)}


def global_norm(grads: Mapping[str, np.ndarray]) -> float:
    """The Euclidean norm of all gradients together, in float64."""
    return math.sqrt(sum(float(np.sum(np.square(g, dtype=np.float64))) for g in grads.values()))


def _describe_nonfinite(loss: float, grads: Mapping[str, np.ndarray]) -> str:
    """What of a step is not finite."""
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    bad = next((name for name, g in grads.items() if not np.isfinite(g).all()), None)
    return "the norm of all gradients is not finite" if bad is None else f"the gradient of {bad} is not finite"


def _mask(state: State, seed: int, micro_batch: int, path: str, x: Array) -> np.ndarray:
    """The dropout mask on one module's input: the same whenever it is asked for, a recomputed forward included."""
    layer = list(state.adapter.places).index(path)
    return dropout_mask(x.shape, state.adapter.config.lora_dropout, counter_rng(seed, micro_batch, layer), x.dtype)


def _update_parameter(
    name: str, p: np.ndarray, gradient: np.ndarray, means: AdamWState | None, lr: float, recipe: Recipe
) -> tuple[np.ndarray, AdamWState]:
    """One parameter after the step, and its means. LoRA+'s rate is for B, by its name."""
    is_B = name.endswith(("lora_B.weight", "lora_embedding_B"))
    lr, means = lr * recipe.loraplus_ratio if is_B else lr, means or AdamWState()
    if recipe.optimizer == "sgd":
        return sgd(p, gradient, lr=lr, weight_decay=recipe.weight_decay), means
    return adamw(p, gradient, means, lr=lr, weight_decay=recipe.weight_decay, betas=recipe.betas, eps=recipe.eps)
