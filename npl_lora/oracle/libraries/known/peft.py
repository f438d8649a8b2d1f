"""What is known of PEFT 0.21.2 and transformers 5.23.0, with torch 2.13.0, on a CPU."""

from ..library import Reason, Verdicts

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
INHERITED = Reason(
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
NOT_CUT = Reason(
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
FLOAT32_ROOT = Reason(
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
DILATION = Reason(
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
NO_DROPOUT = Reason(
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
FLOAT32_NORM = Reason(
    "fault",
    "transformers' LlamaRMSNorm computes in float32 whatever its input is: too coarse for float64",
    """\
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

y = LlamaRMSNorm(2, eps=0.0).double()(torch.tensor([1.0, 2.0], dtype=torch.float64))
print(f"{abs(y[0].item() ** 2 * 2.5 - 1):.0e}")
""",
    "1e-08\n",
)
FLOAT32_ANGLES = Reason(
    "fault",
    "transformers' LlamaRotaryEmbedding computes its angles in float32 whatever its input is: too coarse for float64",
    """\
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

table = LlamaRotaryEmbedding(LlamaConfig(hidden_size=2, num_attention_heads=1, head_dim=2))
cos, sin = table(torch.zeros(1, dtype=torch.float64), torch.tensor([[1]]))
print(f"{abs(cos[0, 0, 0].square() + sin[0, 0, 0].square() - 1).item():.0e}")
""",
    "1e-08\n",
)
HALVES = Reason("absent", "transformers' Llama rotates halves, not neighbours")

VERDICTS: Verdicts = {
    "rms_norm/*/float64": ("fail", FLOAT32_NORM),
    "rope/interleaved*": ("absent", HALVES),
    "rope/*/float64": ("fail", FLOAT32_ANGLES),
    "cross_entropy/nothing-counts/*": ("fail", NO_LABELS),
    "cross_entropy/*/float64": ("fail", FLOAT32_LOSS),
    "adapter_combine/*rslora*": ("fail", INHERITED),
    "adapter_combine/one-svd/*": ("fail", NOT_CUT),
    "adapter_combine/one/float64": ("fail", FLOAT32_ROOT),
    "lora_conv2d/dilated*": ("fail", DILATION),
    "lora_dropout/embedding/*": ("fail", NO_DROPOUT),
}
