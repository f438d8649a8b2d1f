"""LoRA layers in Equinox as people write them, right and wrong."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


class Right(eqx.Module):
    base: eqx.nn.Linear
    lora_a: jax.Array
    lora_b: jax.Array
    dropout: eqx.nn.Dropout
    scale: float = eqx.field(static=True)

    def __init__(self, base, *, rank, alpha, dropout=0.0, key):
        a_key, b_key = jax.random.split(key)
        self.base = base
        self.lora_a = self.start_a(a_key, (rank, base.in_features))
        self.lora_b = self.start_b(b_key, (base.out_features, rank))
        self.dropout = eqx.nn.Dropout(dropout)
        self.scale = self.scale_of(alpha, rank)

    def scale_of(self, alpha, r):
        return alpha / r

    def start_a(self, key, shape):
        return jax.random.normal(key, shape) * 0.03

    def start_b(self, key, shape):
        return jnp.zeros(shape)

    def __call__(self, x, *, key=None):
        return self.base(x) + self.scale * (self.lora_b @ (self.lora_a @ self.dropout(x, key=key)))


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
        return self.scale * (self.base(x) + self.lora_b @ (self.lora_a @ x))


class Untransposed(Right):
    def __call__(self, x):
        return self.base(x) + self.scale * ((self.lora_a @ self.lora_b) @ x)


class StoppedFactor(Right):
    """Freezes A by mistake, where the base was meant."""

    def __call__(self, x):
        return self.base(x) + self.scale * (self.lora_b @ (jax.lax.stop_gradient(self.lora_a) @ x))


class NumPyFactors(Right):
    """Equinox trains NumPy arrays as well."""

    def start_a(self, key, shape):
        return np.random.default_rng(0).normal(size=shape).astype(np.float32)

    def start_b(self, key, shape):
        return np.zeros(shape, np.float32)


class Sized(eqx.Module):
    """A and B are linear layers, and the sizes are handed over."""

    linear: eqx.nn.Linear
    A: eqx.nn.Linear
    B: eqx.nn.Linear
    alpha: float
    rank: int

    def __init__(self, in_features, out_features, rank=4, alpha=8.0, use_bias=True, *, key):
        keys = jax.random.split(key, 3)
        self.linear = eqx.nn.Linear(in_features, out_features, use_bias=use_bias, key=keys[0])
        self.A = eqx.nn.Linear(in_features, rank, use_bias=False, key=keys[1])
        B = eqx.nn.Linear(rank, out_features, use_bias=False, key=keys[2])
        self.B = eqx.tree_at(lambda layer: layer.weight, B, jnp.zeros((out_features, rank)))
        self.alpha, self.rank = alpha, rank

    def __call__(self, x):
        return self.linear(x) + self.alpha / self.rank * self.B(self.A(x))


class Batched(Right):
    """Written for a whole batch, which a vmap need not take apart."""

    def __call__(self, x):
        y = jax.vmap(self.base)(x.reshape(-1, x.shape[-1]))
        return y.reshape(*x.shape[:-1], -1) + self.scale * (x @ self.lora_a.T @ self.lora_b.T)


class Embedding(eqx.Module):
    base: eqx.nn.Embedding
    A: jax.Array
    B: jax.Array
    scale: float = eqx.field(static=True)

    def __init__(self, base: eqx.nn.Embedding, rank: int, alpha: float, *, key: jax.Array):
        self.base, (ids, width) = base, base.weight.shape
        self.A, self.B = jnp.zeros((ids, rank)), jax.random.normal(key, (rank, width))
        self.scale = alpha / rank

    def __call__(self, i):
        return self.base(i) + self.scale * (self.A[i] @ self.B)


class UnscaledEmbedding(Embedding):
    def __call__(self, i):
        return self.base(i) + self.A[i] @ self.B
