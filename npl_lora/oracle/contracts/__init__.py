"""Contracts: what an implementation can be asked to do, one a file.

Each file holds a contract's cases and its right answer. The answer is a composition of ops, so it runs on NumPy arrays
(the right values), on complex ones (derivatives) and on error-carrying ones (how far a right answer may be off).
"""

from . import (
    adapter_combine,
    cross_entropy,
    dora_linear,
    lora_attention,
    lora_attention_projections,
    lora_batched,
    lora_conv2d,
    lora_dropout,
    lora_embedding,
    lora_init,
    lora_linear,
    lora_merge,
    lora_mlp,
    lora_mlp_projections,
    lora_scaled_embedding,
    rms_norm,
    rope,
    train_steps,
)
from .contract import Contract

CONTRACTS: dict[str, Contract] = {
    contract.name: contract
    for contract in (
        lora_linear.CONTRACT,
        lora_merge.CONTRACT,
        lora_embedding.CONTRACT,
        dora_linear.CONTRACT,
        lora_attention.CONTRACT,
        lora_mlp.CONTRACT,
        lora_conv2d.CONTRACT,
        cross_entropy.CONTRACT,
        adapter_combine.CONTRACT,
        train_steps.CONTRACT,
        lora_init.CONTRACT,
        lora_dropout.CONTRACT,
        lora_batched.CONTRACT,
        lora_attention_projections.CONTRACT,
        lora_mlp_projections.CONTRACT,
        lora_scaled_embedding.CONTRACT,
        rms_norm.CONTRACT,
        rope.CONTRACT,
    )
}

__all__ = ["CONTRACTS", "Contract"]
