"""LoRA layers in Keras as people write them, right and wrong."""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")  # before Keras is imported

import keras


class Right(keras.layers.Layer):
    def __init__(self, units, rank=8, alpha=16.0, dropout=0.0, use_bias=True, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(units, use_bias=use_bias)
        self.dense.trainable = False
        self.units, self.rank, self.scale = units, rank, self.scale_of(alpha, rank)
        self.dropout = keras.layers.Dropout(dropout)

    start_a, start_b = "he_uniform", "zeros"

    def scale_of(self, alpha, r):
        return alpha / r

    def build(self, input_shape):
        self.dense.build(input_shape)
        shapes = (input_shape[-1], self.rank), (self.rank, self.units)
        self.lora_a = self.add_weight(name="lora_a", shape=shapes[0], initializer=self.start_a)
        self.lora_b = self.add_weight(name="lora_b", shape=shapes[1], initializer=self.start_b)
        self.built = True

    def call(self, x, training=False):
        return self.dense(x) + self.scale * (self.dropout(x, training=training) @ self.lora_a @ self.lora_b)


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
    start_b = "random_normal"


class BothZero(Right):
    start_a = "zeros"


class ScaledBase(Right):
    def call(self, x):
        return self.scale * (self.dense(x) + x @ self.lora_a @ self.lora_b)


class Untransposed(Right):
    def call(self, x):
        return self.dense(x) + self.scale * (x @ (self.lora_b @ self.lora_a))


class FrozenFactors(Right):
    def build(self, input_shape):
        super().build(input_shape)
        self.trainable = False


class OnLayer(keras.layers.Layer):
    """Wraps a Dense; A and B are the kernels of two more."""

    def __init__(self, original_layer, rank=8, alpha=32, **kwargs):
        super().__init__(**kwargs)
        self.original_layer = original_layer
        self.original_layer.trainable = False
        self.scale = alpha / rank
        self.A = keras.layers.Dense(rank, use_bias=False, kernel_initializer="he_uniform", name="lora_a")
        self.B = keras.layers.Dense(original_layer.units, use_bias=False, kernel_initializer="zeros", name="lora_b")

    def call(self, inputs):
        return self.original_layer(inputs) + self.B(self.A(inputs)) * self.scale


class FactorsWithBias(OnLayer):
    """The bias of A's Dense is trained too, and it starts at zero."""

    def __init__(self, original_layer, rank=8, alpha=32, **kwargs):
        super().__init__(original_layer, rank, alpha, **kwargs)
        self.A = keras.layers.Dense(rank, use_bias=True, kernel_initializer="he_uniform", name="lora_a")


class PathAlone(keras.layers.Layer):
    def __init__(self, units, r, scale=1.0, **kwargs):
        super().__init__(**kwargs)
        self.scale = scale
        self.down = keras.layers.Dense(r, use_bias=False)
        self.up = keras.layers.Dense(units, use_bias=False, kernel_initializer="zeros")

    def call(self, x):
        return self.up(self.down(x)) * self.scale


class DropoutAfterB(Right):
    def call(self, x, training=False):
        return self.dense(x) + self.dropout(self.scale * (x @ self.lora_a @ self.lora_b), training=training)


class Embedding(keras.layers.Layer):
    def __init__(self, input_dim, output_dim, rank, alpha, trainable=False):
        super().__init__(trainable=trainable)
        self.embedding = keras.layers.Embedding(input_dim, output_dim, trainable=False)
        self.lora_a = keras.layers.Embedding(input_dim, rank, embeddings_initializer="zeros")
        self.lora_b = keras.layers.Dense(output_dim, use_bias=False, kernel_initializer="random_normal")
        self.scale = alpha / rank

    def call(self, ids):
        return self.embedding(ids) + self.scale * self.lora_b(self.lora_a(ids))


class UnscaledEmbedding(Embedding):
    def call(self, ids):
        return self.embedding(ids) + self.lora_b(self.lora_a(ids))


class KeepsItsProduct(Right):
    """In evaluation, for good."""

    product = None

    def call(self, x, training=False):
        if training:
            return super().call(x, training=True)
        if self.product is None:
            self.product = keras.ops.convert_to_numpy(keras.ops.matmul(self.lora_a, self.lora_b))
        return self.dense(x) + self.scale * keras.ops.matmul(x, self.product)


class OverwritesX(Right):
    """By torch's own word."""

    def call(self, x, training=False):
        y = super().call(x, training)
        x.data.mul_(self.scale)
        return y


class KeepsLastX(Right):
    """Its backward uses the x of the last call."""

    def call(self, x, training=False):
        self.last = x

        @keras.ops.custom_gradient
        def low_rank(x, a, b):
            def backward(dy, *_, upstream=None):
                dy = dy if upstream is None else upstream
                g, last = dy @ keras.ops.transpose(b), keras.ops.reshape(self.last, (-1, self.last.shape[-1]))
                flat = lambda t: keras.ops.transpose(keras.ops.reshape(t, (-1, t.shape[-1])))  # noqa: E731
                return g @ keras.ops.transpose(a), flat(last) @ flat(g).T, flat(last @ a) @ flat(dy).T

            return x @ a @ b, backward

        return self.dense(x) + self.scale * low_rank(x, self.lora_a.value, self.lora_b.value)


class ReadsTheStoredNumbers(Right):
    """Past Keras' casting, so that the dtypes differ under a policy of mixed precision."""

    def call(self, x, training=False):
        return self.dense(x) + self.scale * (x @ self.lora_a._value @ self.lora_b._value)


class AddsToItsBaseInEvaluation(Right):
    """And takes nothing away again."""

    def call(self, x, training=False):
        if training:
            return super().call(x, training)
        self.dense.kernel.assign_add(self.scale * keras.ops.matmul(self.lora_a, self.lora_b))
        return self.dense(x)


class RemembersItsProduct(Right):
    """From the first call in training on."""

    product = None

    def call(self, x, training=False):
        product = keras.ops.matmul(self.lora_a, self.lora_b) if self.product is None else self.product
        if training:
            self.product = keras.ops.stop_gradient(product)
        return self.dense(x) + self.scale * keras.ops.matmul(x, product)
