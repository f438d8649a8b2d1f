"""What a training step will cost, from a model's sizes alone: memory and operations, for LoRA and full fine-tuning.

The step is `train_step` with AdamW in float32, its weights decoded, nothing recomputed and no dropout. Memory is what
its arrays take at one time, without the interpreter and its libraries (about 0.1 GB). P is the number of the model's
parameters, t that of the trained ones, N = B T the tokens, and a number has 4 bytes:

    weights      P       the model, which stays as it is
    trained      t       A and B; for full fine-tuning, a copy of the model
    optimiser    2 t     AdamW's means m and v
    gradients    t
    update       3 t     the new values beside the old, since a step changes nothing in place
    activations          what the pullbacks of all ops hold until the backward: see `_llama` and `_gpt2`
    loss         a block of rows of logits, with what cross_entropy makes of it: about 5.75 arrays of that size, and
                 1.5 more of the block before it
    backward     the arrays of one block that is on its way back

    peak = weights + trained + optimiser
           + max(activations + loss, activations + gradients + backward, gradients + update)

Operations are those of matrix products, where a product and a sum count as two. A layer y = x W^T takes 2 N in out of
them forward, as many for dx, and as many for dW if W is trained. Attention has two products (N, T) by H D forward and
four on the way back, computed for all T keys. All blocks are counted alike, though the lowest one needs no dx.

Source: the closures of the ops. Kaplan et al., "Scaling Laws for Neural Language Models", 2020, table 1, for the
operations of a layer.
"""

from collections.abc import Collection
from dataclasses import dataclass
from math import prod
from typing import Any

from ..adapters import LoRAConfig, Module
from ..adapters.lora import shapes as factor_shapes
from ..models import Plan, block_rows

_BYTES = 4
_LOGITS, _BEFORE = 5.75, 1.5  # arrays of a block's size: logits, exp, p, one-hot and differences; those of the last one


@dataclass(frozen=True)
class Budget:
    """Bytes, and operations of matrix products. trained: how many parameters. See the top of the file."""

    trained: int
    weights: int
    copies: int
    gradients: int
    optimiser: int
    update: int
    activations: int
    loss: int
    backward: int
    forward_operations: int
    backward_operations: int

    @property
    def peak(self) -> int:
        """The most bytes at one time."""
        now = max(self.loss, self.gradients + self.backward) + self.activations
        return self.weights + self.copies + self.optimiser + max(now, self.gradients + self.update)

    @property
    def operations(self) -> int:
        return self.forward_operations + self.backward_operations


def budget(plan: Plan, lora: LoRAConfig | None, batch: int, length: int) -> Budget:
    """The cost of a step on batch x length tokens. lora: None for full fine-tuning. Raises ConfigError for targets that
    do not fit, and ValueError for sizes that do not."""
    for name, value in (("batch", batch), ("length", length)):
        if value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1")
    if length > plan.config.positions:
        raise ValueError(f"length is {length}, expected at most the model's {plan.config.positions} positions")
    tokens, rows = batch * length, batch * (length - 1)  # the first token of a row is not predicted
    factors = {} if lora is None else factor_shapes(lora, plan.modules)
    adapted = {name.rpartition(".lora_")[0] for name in factors}
    ranks = sum(shape[0] for name, shape in factors.items() if name.endswith(("lora_A.weight", "lora_embedding_A")))
    parameters = sum(map(prod, plan.shapes.values()))
    trained = parameters if lora is None else sum(map(prod, factors.values()))
    is_kept = set(plan.modules) if lora is None else adapted
    blocks = (_llama if hasattr(plan.config, "n_kv_heads") else _gpt2)(plan.config, is_kept, length)
    C, V, H, F = plan.config.width, plan.config.vocabulary, plan.config.n_heads, plan.config.inner
    per_token = blocks.per_token + 2 * C + 1 + ranks  # with the last norm's, and dx of the loss
    table = C * V if lora is None else 0
    ends = 3 * table if plan.head not in plan.modules else 2 * table  # gradients of the table that are added up
    forward, backward = _operations(plan, lora is None, factors, tokens, rows, length)
    return Budget(
        trained,
        _BYTES * parameters,
        _BYTES * trained,
        _BYTES * trained,
        2 * _BYTES * trained,
        3 * _BYTES * trained,
        _BYTES * (tokens * per_token + blocks.fixed),
        int(_BYTES * (_logits(rows, V) + ends)),
        _BYTES * (max(3 * tokens * H * length, 8 * tokens * F) + ends),
        forward,
        backward,
    )


def _logits(rows: int, V: int) -> float:
    """The numbers of all arrays that the loss has at once."""
    block = block_rows(V)
    return (_LOGITS if rows <= block else _LOGITS + _BEFORE) * min(rows, block) * V


@dataclass(frozen=True)
class _Kept:
    """Numbers that the pullbacks of all blocks hold: for each token, and besides."""

    per_token: int
    fixed: int = 0


def _llama(config: Any, trained: Collection[str], length: int) -> _Kept:
    """Two norms hold x-hat and 1 / root, attention s q, k, v and P, the gated MLP gate and up, rope its tables.

    A linear layer holds its input if something of it is trained; q, k and v share theirs, and so do gate and up.
    """
    C, F, H, G, D = config.width, config.inner, config.n_heads, config.n_kv_heads, config.head_size
    inputs = {
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"): C,
        ("self_attn.o_proj",): H * D,
        ("mlp.gate_proj", "mlp.up_proj"): C,
        ("mlp.down_proj",): F,
    }
    always = 2 * (C + 1) + (H + 2 * G) * D + H * length + 2 * F
    per_token = config.n_layers * always + _inputs("model.layers.", inputs, trained)
    return _Kept(per_token, config.n_layers * 2 * length * D)


def _gpt2(config: Any, trained: Collection[str], length: int) -> _Kept:
    """Two norms hold x-hat and 1 / root, attention the projection with k and v in it, s q and P, and GELU four arrays,
    of which the last is the next layer's input."""
    C, F, H = config.width, config.inner, config.n_heads
    inputs: dict[tuple[str, ...], int] = dict.fromkeys([("attn.c_attn",), ("attn.c_proj",), ("mlp.c_fc",)], C)
    always = 2 * (C + 1) + 4 * C + H * length + 4 * F
    return _Kept(config.n_layers * always + _inputs("transformer.h.", inputs, trained))


def _inputs(prefix: str, inputs: dict[tuple[str, ...], int], trained: Collection[str]) -> int:
    """The features of all inputs of linear layers that are kept for dW, or for dA. prefix: of all blocks."""
    sizes = {layer: (group, size) for group, size in inputs.items() for layer in group}
    kept = set()
    for path in trained:
        block, _, name = path.removeprefix(prefix).partition(".")
        if path.startswith(prefix) and name in sizes:
            kept.add((block, *sizes[name]))
    return sum(size for _, _, size in kept)


def _operations(
    plan: Plan, is_full: bool, factors: dict[str, tuple[int, ...]], tokens: int, rows: int, length: int
) -> tuple[int, int]:
    """Forward and backward, of all matrix products."""
    inner = [m for path, m in plan.modules.items() if m.kind == "linear" and path != plan.head]
    head = Module("linear", plan.modules[plan.embedding].shape, ())
    products = 2 * tokens * sum(prod(module.shape) for module in inner) + 2 * rows * prod(head.shape)
    head_size = getattr(plan.config, "head_size", plan.config.width // plan.config.n_heads)
    attention = 4 * tokens * length * plan.config.n_heads * head_size * plan.config.n_layers
    on_head = f"{plan.head}.lora_"
    low_rank = sum(2 * (rows if name.startswith(on_head) else tokens) * prod(shape) for name, shape in factors.items())
    backward = products * (2 if is_full else 1) + 2 * attention + 2 * low_rank
    return products + attention + low_rank, backward
