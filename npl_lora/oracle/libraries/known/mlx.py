"""What is known of mlx 0.32.4 and mlx-lm 0.32.2, on a CPU."""

from ..library import Reason, Verdicts

SCALE = Reason(
    "convention",
    "mlx-lm takes the scale itself (20 by default) and knows neither alpha nor rsLoRA: handed s, it is right",
    """\
import mlx.core as mx
from mlx_lm.tuner.lora import LoRALinear

layer = LoRALinear(1, 1, r=4, scale=8.0)
layer.linear.weight, layer.lora_a, layer.lora_b = mx.zeros((1, 1)), mx.ones((1, 4)) / 4, mx.ones((4, 1))
print(layer(mx.ones((1, 1))).item())  # not 8 / 4
""",
    "8.0\n",
)
STORED = Reason("absent", "MLX has no weights stored (in, out)")
PADDING = Reason("absent", "MLX's embedding has no padding_idx")
STRETCH = Reason("absent", "mlx-lm's loss counts one stretch of each row")
OFFSET = Reason("absent", "MLX's RoPE counts on from an offset")
SAVES = Reason("absent", "mlx-lm's trainer saves what it has trained, and MLX saves no float64")
FLOAT32_FUNCTIONS = Reason(
    "fault",
    "MLX evaluates exp, sigmoid, erf, cos and softmax of float64 arrays in float32",
    """\
import math

import mlx.core as mx

x = mx.array([0.1], dtype=mx.float64)
print(mx.exp(x).dtype, f"{abs(mx.exp(x).item() / math.exp(0.1) - 1):.0e}")
""",
    "mlx.core.float64 4e-08\n",
)
NO_KEY = Reason(
    "convention",
    "MLX masks with the lowest finite number: a query that may see no key gets the mean of all values, hidden ones "
    "too, where the definition has zeros",
    """\
import mlx.core as mx

v = mx.array([[1.0], [3.0]]).reshape(1, 1, 2, 1)
q, nothing = mx.ones((1, 1, 1, 1)), mx.array([[False, False]])
print(mx.fast.scaled_dot_product_attention(q, v, v, scale=1.0, mask=nothing).item())
""",
    "2.0\n",
)
MEAN_OF_MEANS = Reason(
    "fault",
    "mlx-lm's trainer divides accumulated gradients by the number of micro-batches, and each is of a mean over its own "
    "labels: a label in a micro-batch with few of them counts for more",
    """\
import mlx.core as mx
import mlx.nn as nn
from mlx_lm.tuner.trainer import default_loss

# 3 labels of class 0 and 1 of class 1, combined as the trainer does. The mean over the four gives -1/4 and 1/4.
grad = mx.grad(lambda z, *batch: default_loss(lambda tokens: mx.broadcast_to(z, (1, 3, 2)), *batch)[0])
batches = (mx.array([[0, 0, 0, 0]]), mx.array([[1, 3]])), (mx.array([[0, 1, 0, 0]]), mx.array([[1, 1]]))
print((sum(grad(mx.zeros(2), *batch) for batch in batches) / 2).tolist())
""",
    "[0.0, 0.0]\n",
)
NO_LABELS = Reason(
    "fault",
    "mlx-lm's default_loss divides 0 by 0 when nothing counts: the loss and its gradient are NaN",
    """\
import mlx.core as mx
from mlx_lm.tuner.trainer import default_loss

print(default_loss(lambda tokens: mx.zeros((1, 1, 7)), mx.array([[0, 0]]), mx.array([[1, 0]]))[0].item())
""",
    "nan\n",
)
FLOAT32_NORM = Reason(
    "fault",
    "MLX's RMSNorm computes float64 arrays in float32",
    """\
import mlx.core as mx

y = mx.fast.rms_norm(mx.array([1.0, 2.0], dtype=mx.float64), None, eps=0.0)
print(y.dtype, f"{abs(y[0].item() ** 2 * 2.5 - 1):.0e}")
""",
    "mlx.core.float64 1e-08\n",
)

VERDICTS: Verdicts = {
    "rms_norm/*/float64": ("fail", FLOAT32_NORM),
    "rope/*gaps/*": ("absent", OFFSET),
    "rope/*/float64": ("fail", FLOAT32_FUNCTIONS),
    "lora_merge/*fan-in-fan-out*": ("absent", STORED),
    "lora_embedding/*padding-*": ("absent", PADDING),
    "cross_entropy/ignored/*": ("absent", STRETCH),
    "cross_entropy/empty-micro-batch/*": ("absent", STRETCH),
    "cross_entropy/*/float64": ("absent", SAVES),
    "train_steps/*/float64": ("absent", SAVES),
    "cross_entropy/accumulated/*": ("fail", MEAN_OF_MEANS),
    "cross_entropy/nothing-counts/*": ("fail", NO_LABELS),
    "lora_attention/left-padded/*": ("fail", NO_KEY),
    "lora_attention/exact-one-key/*": ("fail", NO_KEY),
    "lora_attention/*/float64": ("fail", FLOAT32_FUNCTIONS),
    "lora_mlp/gelu-tanh/float64": ("pass", SCALE),
    "lora_mlp/*/float64": ("fail", FLOAT32_FUNCTIONS),
    "lora_*": ("pass", SCALE),
    "dora_linear/*": ("pass", SCALE),
    "train_steps/*": ("pass", SCALE),
}
