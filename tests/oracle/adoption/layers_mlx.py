"""LoRA layers in MLX as people write them, right and wrong."""

import mlx.core as mx
import mlx.nn as nn


class Right(nn.Module):
    def __init__(self, input_dims, output_dims, r=8, alpha=16.0, dropout=0.0, bias=False):
        super().__init__()
        self.linear = nn.Linear(input_dims, output_dims, bias=bias)
        self.linear.freeze()
        self.dropout = nn.Dropout(dropout)
        self.scale = self.scale_of(alpha, r)
        self.lora_a = self.start_a((input_dims, r))
        self.lora_b = self.start_b((r, output_dims))

    def scale_of(self, alpha, r):
        return alpha / r

    def start_a(self, shape):
        return mx.random.uniform(-1, 1, shape) * shape[0] ** -0.5

    def start_b(self, shape):
        return mx.zeros(shape)

    def __call__(self, x):
        return self.linear(x) + self.scale * (self.dropout(x) @ self.lora_a @ self.lora_b)


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
    def start_b(self, shape):
        return mx.random.normal(shape)


class BothZero(Right):
    def start_a(self, shape):
        return mx.zeros(shape)


class ScaledBase(Right):
    def __call__(self, x):
        return self.scale * (self.linear(x) + x @ self.lora_a @ self.lora_b)


class Untransposed(Right):
    def __call__(self, x):
        return self.linear(x) + self.scale * (x @ (self.lora_b @ self.lora_a))


class FrozenFactors(Right):
    def __init__(self, input_dims, output_dims, r=8, alpha=16.0):
        super().__init__(input_dims, output_dims, r, alpha)
        self.freeze()


class PrivateFactors(nn.Module):
    """MLX takes what begins with an underscore for no parameter."""

    def __init__(self, input_dims, output_dims, r, alpha):
        super().__init__()
        self.linear = nn.Linear(input_dims, output_dims, bias=False)
        self.scale = alpha / r
        self._lora_a = mx.random.normal((input_dims, r))
        self._lora_b = mx.zeros((r, output_dims))

    def __call__(self, x):
        return self.linear(x) + self.scale * (x @ self._lora_a @ self._lora_b)


class OnBase(nn.Module):
    """A raw scale, as is the rule in MLX."""

    def __init__(self, linear, rank, scale=20.0):
        super().__init__()
        out, in_ = linear.weight.shape
        self.linear = linear
        self.scale = scale
        self.lora_a = nn.Linear(in_, rank, bias=False)
        self.lora_b = nn.Linear(rank, out, bias=False)
        self.lora_b.weight = mx.zeros((out, rank))

    def __call__(self, x):
        return self.linear(x) + self.scale * self.lora_b(self.lora_a(x))


class PathAlone(nn.Module):
    def __init__(self, in_dims, out_dims, rank, alpha):
        super().__init__()
        self.scale = alpha / rank
        self.A = mx.random.normal((rank, in_dims))
        self.B = mx.zeros((out_dims, rank))

    def __call__(self, x):
        return self.scale * (x @ self.A.T @ self.B.T)


class DropoutAfterB(Right):
    def __call__(self, x):
        return self.linear(x) + self.dropout(self.scale * (x @ self.lora_a @ self.lora_b))


class Embedding(nn.Module):
    def __init__(self, num_embeddings, dims, r, alpha):
        super().__init__()
        self.embedding = nn.Embedding(num_embeddings, dims)
        self.embedding.freeze()
        self.lora_a, self.lora_b = mx.zeros((num_embeddings, r)), mx.random.normal((r, dims))
        self.scale = alpha / r

    def __call__(self, ids):
        return self.embedding(ids) + self.scale * (self.lora_a[ids] @ self.lora_b)


class UnscaledEmbedding(Embedding):
    def __call__(self, ids):
        return self.embedding(ids) + self.lora_a[ids] @ self.lora_b


class KeepsItsProduct(Right):
    """In evaluation, for good."""

    def __call__(self, x):
        if self.training:
            return super().__call__(x)
        if "_product" not in self:
            self._product = self.lora_a @ self.lora_b
        return self.linear(x) + self.scale * (x @ self._product)


class OverwritesX(Right):
    """What is multiplied in place is the caller's array."""

    def __call__(self, x):
        y = self.linear(x)
        x *= self.scale
        return y + x @ self.lora_a @ self.lora_b


class KeepsLastX(Right):
    """Its backward uses the x of the last call."""

    def __call__(self, x):
        object.__setattr__(self, "last", x)

        @mx.custom_function
        def low_rank(x, a, b):
            return x @ a @ b

        @low_rank.vjp
        def backward(primals, dy, _):
            x, a, b = primals
            g, last = dy @ b.T, object.__getattribute__(self, "last").reshape(-1, x.shape[-1])
            flat = lambda t: t.reshape(-1, t.shape[-1])  # noqa: E731
            return g @ a.T, last.T @ flat(g), (last @ a).T @ flat(dy)

        return self.linear(x) + self.scale * low_rank(x, self.lora_a, self.lora_b)


class AddsToItsBaseInEvaluation(Right):
    """And takes nothing away again."""

    def __call__(self, x):
        if self.training:
            return super().__call__(x)
        self.linear.weight = self.linear.weight + self.scale * (self.lora_a @ self.lora_b).T
        return self.linear(x)


class RemembersItsProduct(Right):
    """From the first call in training on."""

    def __call__(self, x):
        kept = self.__dict__.get("kept")
        product = self.lora_a @ self.lora_b if kept is None else kept
        if self.training:
            object.__setattr__(self, "kept", mx.stop_gradient(product))
        return self.linear(x) + self.scale * (x @ product)
