"""Adapters, which are trained while the model stays frozen: LoRA, and full fine-tuning to compare it with.

    from npl_lora.adapters import LoRAConfig
    adapter = model.attach(LoRAConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"]), rng=0)

Reading order: config, _targets, _tokens, _adapter, lora, full, _folder, files.
"""

from ._adapter import Adapter
from ._modules import Module
from .config import ConfigError, LoRAConfig
from .files import AdapterError
from .full import Full
from .lora import LoRA

__all__ = ["Adapter", "AdapterError", "ConfigError", "Full", "LoRA", "LoRAConfig", "Module"]
