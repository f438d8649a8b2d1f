"""Adapters: trained beside a frozen model, one member of the family a file: LoRA; and full fine-tuning, to
be compared with.

    from npl_lora.adapters import LoRAConfig
    adapter = model.attach(LoRAConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"]), rng=0)

Reading order: config, targets, lora, full, files.
"""

from .config import ConfigError, LoRAConfig
from .files import AdapterError
from .full import Full
from .lora import LoRA
from .modules import Module

__all__ = ["AdapterError", "ConfigError", "Full", "LoRA", "LoRAConfig", "Module"]
