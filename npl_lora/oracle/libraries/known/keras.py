"""What is known of Keras 3.15.1 on its PyTorch backend, with torch 2.13.0, on a CPU."""

from ..library import Reason, Verdicts

RSLORA = Reason("absent", "Keras has no rsLoRA")
DROPOUT = Reason("absent", "Keras has no dropout inside LoRA")
VECTOR = Reason("absent", "Keras' Dense takes no single vector")
PADDING = Reason("absent", "Keras' Embedding has no padding_idx")
FLOAT32_FACTORS = Reason(
    "convention",
    "Keras keeps A and B in float32 whatever the layer's dtype, on purpose: float64 factors lose their digits",
    """\
import os

os.environ["KERAS_BACKEND"] = "torch"
import keras

layer = keras.layers.Dense(1, dtype="float64")
layer.build((None, 1))
layer.enable_lora(1)
print(layer.lora_kernel_a.dtype)
""",
    "float32\n",
)
FLOAT32_DIVISION = Reason(
    "fault",
    "Keras' divide_no_nan gives float32 for float64, and with it its losses weigh what is not ignored",
    """\
import os

os.environ["KERAS_BACKEND"] = "torch"
import numpy as np
from keras import ops

print(ops.divide_no_nan(ops.convert_to_tensor(np.array([7.0])), ops.convert_to_tensor(np.array([3.0]))).dtype)
""",
    "torch.float32\n",
)
MEAN_OF_MEANS = Reason(
    "fault",
    "Keras' gradient_accumulation_steps takes the mean of the micro-batches' gradients, each of a mean over its own "
    "labels: a label in a micro-batch with few of them counts for more",
    """\
import os

os.environ["KERAS_BACKEND"] = "torch"
import keras
import torch

z = keras.Variable([[0.0, 0.0]])
optimizer = keras.optimizers.SGD(1.0, gradient_accumulation_steps=2)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
for labels in ([0, 0, 0], [1, -1, -1]):  # 3 labels of class 0 and 1 of class 1
    z.value.grad = None
    loss(torch.tensor([labels]), z.value.expand(1, 3, 2)).backward()
    with torch.no_grad():
        optimizer.apply([z.value.grad], [z])
print(z.value.tolist())  # the mean over the four labels gives 1/4 and -1/4
""",
    "[[0.0, 0.0]]\n",
)
EPSILON = Reason(
    "convention",
    "Keras' AdamW adds epsilon to the root of v before the bias correction (the paper's epsilon hat), as documented",
    """\
import os

os.environ["KERAS_BACKEND"] = "torch"
import keras
import torch

p = keras.Variable(0.0)
optimizer = keras.optimizers.AdamW(1.0, weight_decay=0.0, beta_2=0.75, epsilon=0.5)
with torch.no_grad():
    optimizer.apply([torch.tensor(1.0)], [p])
print(f"{p.value.item():.4f}")  # corrected, m = v = 1: the definition gives -1 / (1 + 0.5)
""",
    "-0.5000\n",
)
LOST_ALPHA = Reason(
    "fault",
    "Keras' Dense and Embedding drop the lora_alpha of their constructor, and of from_config: alpha becomes the rank",
    """\
import os

os.environ["KERAS_BACKEND"] = "torch"
import keras

layer = keras.layers.Dense(3, lora_rank=2, lora_alpha=8)
layer.build((None, 4))
print(layer.lora_alpha)
""",
    "2\n",
)
FLOAT32_NORM = Reason(
    "fault",
    "Keras' RMSNormalization computes in float32 whatever its dtype is: too coarse for float64",
    """\
import os

os.environ["KERAS_BACKEND"] = "torch"
import keras

y = keras.layers.RMSNormalization(epsilon=0.0, dtype="float64")(keras.ops.array([[1.0, 2.0]], dtype="float64"))
print(f"{abs(y[0, 0].item() ** 2 * 2.5 - 1):.0e}")
""",
    "1e-08\n",
)

VERDICTS: Verdicts = {
    "rms_norm/*/float64": ("fail", FLOAT32_NORM),
    "lora_linear/one-token-rslora/*": ("absent", VECTOR),
    "lora_linear/*rslora/*": ("absent", RSLORA),
    "lora_merge/*rslora/*": ("absent", RSLORA),
    "lora_linear/*dropout/*": ("absent", DROPOUT),
    "lora_embedding/*padding-*": ("absent", PADDING),
    "train_steps/sgd-accumulated/*": ("absent", RSLORA),
    "train_steps/adamw*": ("fail", EPSILON),
    "cross_entropy/accumulated/*": ("fail", MEAN_OF_MEANS),
    "cross_entropy/empty-micro-batch/*": ("fail", MEAN_OF_MEANS),
    "cross_entropy/nothing-counts/*": ("pass", None),
    "cross_entropy/*/float64": ("fail", FLOAT32_DIVISION),
    "lora_*/float64": ("fail", FLOAT32_FACTORS),
    "train_steps/*/float64": ("fail", FLOAT32_FACTORS),
}

BEYOND = (LOST_ALPHA,)
