"""What is known of the shipped libraries: every verdict that is not a plain pass, with its reason.

A **convention** is another definition, kept to: the library's gradients are those of its own forward. A **fault** is
wrong by the library's own account too, or loses digits that the dtype has. Which of the two was settled with the
complex step, which sides with the definition in every case (`npl-lora check self`). A library is asked by its own road;
what it has not is **absent**.

Recorded with torch 2.13.0, peft 0.21.2, transformers 5.23.0, loralib 0.1.2, torchtune 0.6.1 (torchao 0.10.0), Keras
3.15.1, mlx 0.32.4 and mlx-lm 0.32.2, on a CPU. Another release that differs shows in the tests and in the matrix.
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Reason:
    """kind: "convention", "fault" or "absent". sentence: what the library does. example: the shortest script that
    shows it; prints: what that prints."""

    kind: str
    sentence: str
    example: str = ""
    prints: str = ""


FLOAT32_LOSS = Reason(
    "fault",
    "transformers' ForCausalLMLoss computes in float32 whatever the logits are: too coarse for float64",
    """\
import torch
from transformers.loss.loss_utils import ForCausalLMLoss

logits = torch.zeros(1, 2, 7, dtype=torch.float64)
print(ForCausalLMLoss(logits, torch.tensor([[0, 1]]), vocab_size=7).dtype)
""",
    "torch.float32\n",
)
NO_LABELS = Reason(
    "fault",
    "transformers' ForCausalLMLoss divides 0 by 0 when every label is ignored: the loss is NaN",
    """\
import torch
from transformers.loss.loss_utils import ForCausalLMLoss

print(ForCausalLMLoss(torch.zeros(1, 2, 7), torch.tensor([[0, -100]]), vocab_size=7).item())
""",
    "nan\n",
)

PEFT_INHERITED = Reason(
    "fault",
    "PEFT's add_weighted_adapter passes the first adapter's use_rslora on: the result is scaled by sqrt(r), not by 1",
    """\
import torch
from peft import LoraConfig, get_peft_model

config = LoraConfig(r=4, lora_alpha=2, use_rslora=True, target_modules=["0"], init_lora_weights=False)
model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(1, 1)), config)
model.add_weighted_adapter(["default"], [1.0], "sum", combination_type="cat")
layer = model.base_model.model[0]
print(round((layer.get_delta_weight("sum") / layer.get_delta_weight("default")).item(), 3))
""",
    "2.0\n",
)
PEFT_NOT_CUT = Reason(
    "fault",
    "PEFT's add_weighted_adapter makes one adapter's svd a plain copy: svd_rank is ignored",
    """\
import torch
from peft import LoraConfig, get_peft_model

config = LoraConfig(r=2, lora_alpha=2, target_modules=["0"], init_lora_weights=False)
model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(3, 3)), config)
model.add_weighted_adapter(["default"], [1.0], "cut", combination_type="svd", svd_rank=1)
print(torch.linalg.matrix_rank(model.base_model.model[0].get_delta_weight("cut")).item())
""",
    "2\n",
)
PEFT_FLOAT32_ROOT = Reason(
    "fault",
    "PEFT's add_weighted_adapter stores one adapter's weight as a float32 root: too coarse for float64",
    """\
import torch
from peft import LoraConfig, get_peft_model

config = LoraConfig(r=1, lora_alpha=1, target_modules=["0"], init_lora_weights=False)
model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(1, 1)).double(), config)
model.add_weighted_adapter(["default"], [3.0], "sum", combination_type="cat")
layer = model.base_model.model[0]
print(f"{abs((layer.get_delta_weight('sum') / layer.get_delta_weight('default')).item() / 3 - 1):.0e}")
""",
    "4e-08\n",
)
PEFT_DILATION = Reason(
    "fault",
    "PEFT builds A's convolution without the base layer's dilation: shapes differ, or where they agree the numbers do",
    """\
import torch
from peft import LoraConfig, get_peft_model

config = LoraConfig(r=1, target_modules=["0"])
model = get_peft_model(torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3, dilation=2)), config)
print(model.base_model.model[0].lora_A["default"].dilation)
""",
    "(1, 1)\n",
)
PEFT_NO_DROPOUT = Reason(
    "fault",
    "PEFT's LoRA of an embedding builds lora_dropout and does not use it: training equals evaluation",
    """\
import torch
from peft import LoraConfig, get_peft_model

config = LoraConfig(r=64, lora_dropout=0.5, target_modules=["0"], init_lora_weights=False)
model = get_peft_model(torch.nn.Sequential(torch.nn.Embedding(2, 2)), config).train()
print(torch.equal(model(torch.tensor([0, 1])), model(torch.tensor([0, 1]))))
""",
    "True\n",
)

LORALIB_RSLORA = Reason("absent", "loralib has no rsLoRA")
LORALIB_INIT = Reason("absent", "loralib begins with Kaiming's uniform distribution")
LORALIB_DROPOUT = Reason("absent", "loralib.Embedding has no dropout")

TORCHTUNE_RSLORA = Reason("absent", "torchtune has no rsLoRA")
TORCHTUNE_STORED = Reason("absent", "torchtune has no weights stored (in, out)")
TORCHTUNE_DORA_BIAS = Reason(
    "convention",
    "torchtune's DoRALinear scales the bias by the magnitude ratio too: y = (m/n) (x V^T + b)",
    """\
import torch
from torchtune.modules.peft import DoRALinear

layer = DoRALinear(1, 1, rank=1, alpha=1, use_bias=True)
for name, parameter in layer.named_parameters():
    torch.nn.init.constant_(parameter, {"weight": 1, "bias": 1, "magnitude": 3}.get(name, 0))
print(layer(torch.ones(1, 1)).item())  # the definition gives 3 x 1 + 1
""",
    "6.0\n",
)
TORCHTUNE_ROTARY = Reason(
    "fault",
    "torchtune's rotary tables are float32 whatever the model's dtype: too coarse for float64",
    """\
import math

import torch
from torchtune.models.qwen2 import Qwen2RotaryPositionalEmbeddings

rope = Qwen2RotaryPositionalEmbeddings(dim=2)
y = rope(torch.tensor([1.0, 0.0], dtype=torch.float64).expand(1, 2, 1, 2))[0, 1, 0, 0].item()
print(y.hex(), math.cos(1.0).hex())  # at position 1, angle 1
""",
    "0x1.14a2820000000p-1 0x1.14a280fb5068cp-1\n",
)
TORCHTUNE_FLOAT32_LOSS = Reason(
    "fault",
    "torchtune's CEWithChunkedOutputLoss computes in float32 whatever the logits are: too coarse for float64",
    """\
import torch
from torchtune.modules.loss import CEWithChunkedOutputLoss

logits = torch.zeros(1, 1, 7, dtype=torch.float64)
print(CEWithChunkedOutputLoss()([logits], torch.tensor([[1]])).dtype)
""",
    "torch.float32\n",
)
TORCHTUNE_NO_LABELS = Reason(
    "fault",
    "torchtune's loss of a micro-batch in which every label is ignored is 0/0, and 0 times that in its recipes: the "
    "window's loss is NaN, and where the whole window has no label so are the gradients",
    """\
import torch
from torchtune.modules.loss import CEWithChunkedOutputLoss

labels = torch.tensor([[-100]])
loss = CEWithChunkedOutputLoss()([torch.zeros(1, 1, 7)], labels)
print(loss.item(), (loss * (labels != -100).sum()).item())
""",
    "nan nan\n",
)
TORCHTUNE_MERGED_DORA = Reason(
    "fault",
    "torchtune's DoRALinear scales the bias, and get_merged_lora_ckpt leaves it as it is: merged, the layer answers "
    "differently",
    """\
import torch
from torchtune.modules.peft import DoRALinear, get_merged_lora_ckpt

model = torch.nn.Sequential(DoRALinear(1, 1, rank=1, alpha=1, use_bias=True))
for name, parameter in model.named_parameters():
    torch.nn.init.constant_(parameter, {"0.weight": 1, "0.bias": 1, "0.magnitude": 3}.get(name, 0))
x = torch.ones(1, 1)
merged = get_merged_lora_ckpt(model.state_dict(), rank=1, alpha=1)
print(model(x).item(), torch.nn.functional.linear(x, merged["0.weight"], merged["0.bias"]).item())
""",
    "6.0 4.0\n",
)

KERAS_RSLORA = Reason("absent", "Keras has no rsLoRA")
KERAS_DROPOUT = Reason("absent", "Keras has no dropout inside LoRA")
KERAS_VECTOR = Reason("absent", "Keras' Dense takes no single vector")
KERAS_PADDING = Reason("absent", "Keras' Embedding has no padding_idx")
KERAS_FLOAT32_FACTORS = Reason(
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
KERAS_FLOAT32_DIVISION = Reason(
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
KERAS_MEAN_OF_MEANS = Reason(
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
KERAS_EPSILON = Reason(
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
KERAS_LOST_ALPHA = Reason(
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

MLX_SCALE = Reason(
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
MLX_STORED = Reason("absent", "MLX has no weights stored (in, out)")
MLX_PADDING = Reason("absent", "MLX's embedding has no padding_idx")
MLX_STRETCH = Reason("absent", "mlx-lm's loss counts one stretch of each row")
MLX_SAVES = Reason("absent", "mlx-lm's trainer saves what it has trained, and MLX saves no float64")
MLX_FLOAT32_FUNCTIONS = Reason(
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
MLX_NO_KEY = Reason(
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
MLX_MEAN_OF_MEANS = Reason(
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
MLX_NO_LABELS = Reason(
    "fault",
    "mlx-lm's default_loss divides 0 by 0 when nothing counts: the loss and its gradient are NaN",
    """\
import mlx.core as mx
from mlx_lm.tuner.trainer import default_loss

print(default_loss(lambda tokens: mx.zeros((1, 1, 7)), mx.array([[0, 0]]), mx.array([[1, 0]]))[0].item())
""",
    "nan\n",
)

# library -> pattern of case ids -> (verdict, reason). The first pattern that fits a case counts; a case that none fits
# passes.
KNOWN: dict[str, dict[str, tuple[str, Reason | None]]] = {
    "peft": {
        "cross_entropy/nothing-counts/*": ("fail", NO_LABELS),
        "cross_entropy/*/float64": ("fail", FLOAT32_LOSS),
        "adapter_combine/*rslora*": ("fail", PEFT_INHERITED),
        "adapter_combine/one-svd/*": ("fail", PEFT_NOT_CUT),
        "adapter_combine/one/float64": ("fail", PEFT_FLOAT32_ROOT),
        "lora_conv2d/dilated*": ("fail", PEFT_DILATION),
        "lora_dropout/embedding/*": ("fail", PEFT_NO_DROPOUT),
    },
    "loralib": {
        "lora_init/linear-gaussian/*": ("absent", LORALIB_INIT),
        "lora_dropout/embedding/*": ("absent", LORALIB_DROPOUT),
        "lora_dropout/linear-rslora/*": ("absent", LORALIB_RSLORA),
        "lora_linear/*rslora/*": ("absent", LORALIB_RSLORA),
        "lora_merge/*rslora/*": ("absent", LORALIB_RSLORA),
        "lora_embedding/*rslora/*": ("absent", LORALIB_RSLORA),
        "train_steps/sgd-accumulated/*": ("absent", LORALIB_RSLORA),
    },
    "torchtune": {
        "lora_merge/*fan-in-fan-out*": ("absent", TORCHTUNE_STORED),
        "*-rslora/*": ("absent", TORCHTUNE_RSLORA),
        "lora_merge/*rslora/*": ("absent", TORCHTUNE_RSLORA),
        "train_steps/sgd-accumulated/*": ("absent", TORCHTUNE_RSLORA),
        "dora_linear/square-bias/*": ("fail", TORCHTUNE_DORA_BIAS),
        "lora_attention/bidirectional/float64": ("pass", None),
        "lora_attention/exact-*": ("pass", None),
        "lora_attention/*/float64": ("fail", TORCHTUNE_ROTARY),
        "cross_entropy/empty-micro-batch/*": ("fail", TORCHTUNE_NO_LABELS),
        "cross_entropy/nothing-counts/*": ("fail", TORCHTUNE_NO_LABELS),
        "cross_entropy/*/float64": ("fail", TORCHTUNE_FLOAT32_LOSS),
    },
    "keras": {
        "lora_linear/one-token-rslora/*": ("absent", KERAS_VECTOR),
        "lora_linear/*rslora/*": ("absent", KERAS_RSLORA),
        "lora_merge/*rslora/*": ("absent", KERAS_RSLORA),
        "lora_linear/*dropout/*": ("absent", KERAS_DROPOUT),
        "lora_embedding/*padding-*": ("absent", KERAS_PADDING),
        "train_steps/sgd-accumulated/*": ("absent", KERAS_RSLORA),
        "train_steps/adamw*": ("fail", KERAS_EPSILON),
        "cross_entropy/accumulated/*": ("fail", KERAS_MEAN_OF_MEANS),
        "cross_entropy/empty-micro-batch/*": ("fail", KERAS_MEAN_OF_MEANS),
        "cross_entropy/ignored/float64": ("fail", KERAS_FLOAT32_DIVISION),
        "lora_*/float64": ("fail", KERAS_FLOAT32_FACTORS),
        "train_steps/*/float64": ("fail", KERAS_FLOAT32_FACTORS),
    },
    "mlx": {
        "lora_merge/*fan-in-fan-out*": ("absent", MLX_STORED),
        "lora_embedding/*padding-*": ("absent", MLX_PADDING),
        "cross_entropy/ignored/*": ("absent", MLX_STRETCH),
        "cross_entropy/empty-micro-batch/*": ("absent", MLX_STRETCH),
        "cross_entropy/*/float64": ("absent", MLX_SAVES),
        "train_steps/*/float64": ("absent", MLX_SAVES),
        "cross_entropy/accumulated/*": ("fail", MLX_MEAN_OF_MEANS),
        "cross_entropy/nothing-counts/*": ("fail", MLX_NO_LABELS),
        "lora_attention/left-padded/*": ("fail", MLX_NO_KEY),
        "lora_attention/exact-one-key/*": ("fail", MLX_NO_KEY),
        "lora_attention/*/float64": ("fail", MLX_FLOAT32_FUNCTIONS),
        "lora_mlp/gelu-tanh/float64": ("pass", MLX_SCALE),
        "lora_mlp/*/float64": ("fail", MLX_FLOAT32_FUNCTIONS),
        "lora_*": ("pass", MLX_SCALE),
        "dora_linear/*": ("pass", MLX_SCALE),
        "train_steps/*": ("pass", MLX_SCALE),
    },
    "torch-compiled": {},
}

# What is wrong in a library and no case asks for.
BEYOND: dict[str, tuple[Reason, ...]] = {
    "torchtune": (TORCHTUNE_DORA_BIAS, TORCHTUNE_MERGED_DORA),
    "keras": (KERAS_LOST_ALPHA,),
}


def known(library: str, case: str) -> tuple[str, Reason | None]:
    """The verdict that is recorded for a case, and its reason if there is one: "pass" and None where nothing is."""
    for pattern, entry in KNOWN.get(library, {}).items():
        if fnmatchcase(case, pattern):
            return entry
    return "pass", None
