"""What is known of torchtune 0.6.1, with torch 2.13.0 and torchao 0.10.0, on a CPU."""

from ..library import Reason, Verdicts

RSLORA = Reason("absent", "torchtune has no rsLoRA")
STORED = Reason("absent", "torchtune has no weights stored (in, out)")
DORA_BIAS = Reason(
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
ROTARY = Reason(
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
FLOAT32_LOSS = Reason(
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
NO_LABELS = Reason(
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
MERGED_DORA = Reason(
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
FLOAT32_NORM = Reason(
    "fault",
    "torchtune's RMSNorm computes in float32 whatever its input is: too coarse for float64",
    """\
import torch
from torchtune.modules import RMSNorm

y = RMSNorm(2, eps=0.0).double()(torch.tensor([1.0, 2.0], dtype=torch.float64))
print(f"{abs(y[0].item() ** 2 * 2.5 - 1):.0e}")
""",
    "1e-08\n",
)

VERDICTS: Verdicts = {
    "rms_norm/*/float64": ("fail", FLOAT32_NORM),
    "rope/*/float64": ("fail", ROTARY),
    "lora_merge/*fan-in-fan-out*": ("absent", STORED),
    "*-rslora/*": ("absent", RSLORA),
    "lora_merge/*rslora/*": ("absent", RSLORA),
    "train_steps/sgd-accumulated/*": ("absent", RSLORA),
    "dora_linear/square-bias/*": ("fail", DORA_BIAS),
    "lora_attention/bidirectional/float64": ("pass", None),
    "lora_attention/exact-*": ("pass", None),
    "lora_attention/*/float64": ("fail", ROTARY),
    "cross_entropy/empty-micro-batch/*": ("fail", NO_LABELS),
    "cross_entropy/nothing-counts/*": ("fail", NO_LABELS),
    "cross_entropy/*/float64": ("fail", FLOAT32_LOSS),
}

BEYOND = (DORA_BIAS, MERGED_DORA)
