"""LoRA layers in Flax nnx as people write them, right and wrong."""

import jax
import jax.numpy as jnp
from flax import nnx


class Right(nnx.Module):
    def __init__(self, in_features, out_features, rank, alpha=16.0, dropout=0.0, use_bias=False, *, rngs: nnx.Rngs):
        self.base = nnx.Linear(in_features, out_features, use_bias=use_bias, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.scale = self.scale_of(alpha, rank)
        self.lora_a = nnx.LoRAParam(self.start_a(rngs.params(), (in_features, rank)))
        self.lora_b = nnx.LoRAParam(self.start_b(rngs.params(), (rank, out_features)))

    def scale_of(self, alpha, r):
        return alpha / r

    def start_a(self, key, shape):
        return jax.random.normal(key, shape) * 0.03

    def start_b(self, key, shape):
        return jnp.zeros(shape)

    def __call__(self, x):
        return self.base(x) + self.scale * (self.dropout(x) @ self.lora_a[...] @ self.lora_b[...])


class AlphaAlone(Right):
    def scale_of(self, alpha, r):
        return alpha


class FloorDivided(Right):
    def scale_of(self, alpha, r):
        return alpha // r


class AlphaWithoutEffect(Right):
    def scale_of(self, alpha, r):
        return 1.0


class BothRandom(Right):
    def start_b(self, key, shape):
        return jax.random.normal(key, shape)


class BothZero(Right):
    def start_a(self, key, shape):
        return jnp.zeros(shape)


class ScaledBase(Right):
    def __call__(self, x):
        return self.scale * (self.base(x) + x @ self.lora_a[...] @ self.lora_b[...])


class Untransposed(Right):
    def __call__(self, x):
        return self.base(x) + self.scale * (x @ (self.lora_b[...] @ self.lora_a[...]))


class FactorsOfAnotherKind(nnx.Module):
    """A variable that is no nnx.Param is not trained."""

    def __init__(self, in_features, out_features, rank, alpha, rngs: nnx.Rngs):
        self.base = nnx.Linear(in_features, out_features, use_bias=False, rngs=rngs)
        self.scale = alpha / rank
        self.lora_a = nnx.BatchStat(jax.random.normal(rngs.params(), (in_features, rank)))
        self.lora_b = nnx.BatchStat(jnp.zeros((rank, out_features)))

    def __call__(self, x):
        return self.base(x) + self.scale * (x @ self.lora_a[...] @ self.lora_b[...])


class OnLinear(nnx.Module):
    def __init__(self, linear: nnx.Linear, rank: int, alpha: float, *, rngs: nnx.Rngs):
        self.linear = linear
        self.scale = alpha / rank
        self.A = nnx.Linear(linear.in_features, rank, use_bias=False, rngs=rngs)
        self.B = nnx.Linear(
            rank, linear.out_features, use_bias=False, kernel_init=nnx.initializers.zeros_init(), rngs=rngs
        )

    def __call__(self, x):
        return self.linear(x) + self.scale * self.B(self.A(x))


class PathAlone(nnx.Module):
    """As nnx.LoRA: the rank stands between the sizes, and there is no alpha."""

    def __init__(self, in_features, lora_rank, out_features, *, rngs: nnx.Rngs):
        self.lora_a = nnx.LoRAParam(jax.random.normal(rngs.params(), (in_features, lora_rank)))
        self.lora_b = nnx.LoRAParam(jnp.zeros((lora_rank, out_features)))

    def __call__(self, x):
        return x @ self.lora_a[...] @ self.lora_b[...]


class Embedding(nnx.Module):
    def __init__(self, num_embeddings: int, features: int, rank: int, alpha: float, *, rngs: nnx.Rngs):
        self.embed = nnx.Embed(num_embeddings, features, rngs=rngs)
        self.lora_a = nnx.LoRAParam(jnp.zeros((num_embeddings, rank)))
        self.lora_b = nnx.LoRAParam(jax.random.normal(rngs.params(), (rank, features)))
        self.scale = alpha / rank

    def __call__(self, ids):
        return self.embed(ids) + self.scale * (self.lora_a[...][ids] @ self.lora_b[...])


class UnscaledEmbedding(Embedding):
    def __call__(self, ids):
        return self.embed(ids) + self.lora_a[...][ids] @ self.lora_b[...]
