"""LoRA layers in Flax linen as people write them, right and wrong."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn


class Right(nn.Module):
    features: int
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    use_bias: bool = True
    dtype: Any = jnp.float32

    def scale_of(self, alpha, r):
        return alpha / r

    def base(self, x):
        return nn.Dense(self.features, use_bias=self.use_bias, dtype=self.dtype, name="base")(x)

    def factors(self, x):
        a = self.param("lora_a", nn.initializers.he_uniform(), (x.shape[-1], self.rank), jnp.float32)
        b = self.param("lora_b", nn.initializers.zeros, (self.rank, self.features), jnp.float32)
        return a, b

    @nn.compact
    def __call__(self, x, deterministic: bool = True):
        y, (a, b) = self.base(x), self.factors(x)
        x = nn.Dropout(self.dropout)(x, deterministic=deterministic)
        return y + self.scale_of(self.alpha, self.rank) * (x @ a @ b)


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
    def factors(self, x):
        a = self.param("lora_a", nn.initializers.normal(), (x.shape[-1], self.rank))
        return a, self.param("lora_b", nn.initializers.normal(), (self.rank, self.features))


class BothZero(Right):
    def factors(self, x):
        a = self.param("lora_a", nn.initializers.zeros, (x.shape[-1], self.rank))
        return a, self.param("lora_b", nn.initializers.zeros, (self.rank, self.features))


class ScaledBase(Right):
    @nn.compact
    def __call__(self, x):
        y, (a, b) = self.base(x), self.factors(x)
        return self.scale_of(self.alpha, self.rank) * (y + x @ a @ b)


class Untransposed(Right):
    @nn.compact
    def __call__(self, x):
        a, b = self.factors(x)
        return self.base(x) + self.scale_of(self.alpha, self.rank) * (x @ (b @ a))


class DenseFactors(nn.Module):
    """A and B are the kernels of two Dense; in setup, without a base of its own."""

    features: int
    lora_rank: int
    alpha: float = 16.0

    def setup(self):
        self.down = nn.Dense(self.lora_rank, use_bias=False)
        self.up = nn.Dense(self.features, use_bias=False, kernel_init=nn.initializers.zeros)

    def __call__(self, x):
        return (self.alpha / self.lora_rank) * self.up(self.down(x))


class OnDense(nn.Module):
    """The Dense is handed in, and the scale is a raw one."""

    base: nn.Module
    features: int
    lora_r: int = 8
    scale: float = 1.0

    @nn.compact
    def __call__(self, x, train: bool = False):
        a = self.param("A", nn.initializers.normal(0.02), (self.lora_r, x.shape[-1]))
        b = self.param("B", nn.initializers.zeros, (self.features, self.lora_r))
        return self.base(x) + self.scale * (x @ a.T @ b.T)


class DropoutAfterB(Right):
    @nn.compact
    def __call__(self, x, deterministic: bool = True):
        y, (a, b) = self.base(x), self.factors(x)
        added = self.scale_of(self.alpha, self.rank) * (x @ a @ b)
        return y + nn.Dropout(self.dropout)(added, deterministic=deterministic)


class Embedding(nn.Module):
    num_embeddings: int
    features: int
    rank: int
    alpha: float

    def scaled(self, t):
        return self.alpha / self.rank * t

    @nn.compact
    def __call__(self, ids):
        y = nn.Embed(self.num_embeddings, self.features, name="embed")(ids)
        lora_a = self.param("lora_a", nn.initializers.zeros, (self.num_embeddings, self.rank))
        lora_b = self.param("lora_b", nn.initializers.normal(1.0), (self.rank, self.features))
        return y + self.scaled(lora_a[ids] @ lora_b)


class UnscaledEmbedding(Embedding):
    def scaled(self, t):
        return t


class ScalesTwiceInEvaluation(Right):
    @nn.compact
    def __call__(self, x, deterministic: bool = True):
        y, (a, b) = self.base(x), self.factors(x)
        s = self.scale_of(self.alpha, self.rank) * (self.scale_of(self.alpha, self.rank) if deterministic else 1.0)
        return y + s * (nn.Dropout(self.dropout)(x, deterministic=deterministic) @ a @ b)
