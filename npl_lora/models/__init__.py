"""Real transformers as pure functions of (tensors, adapter, tokens), keyed by the checkpoint's own names.

    from npl_lora.adapters import LoRAConfig
    from npl_lora.models import load

    model = load("SmolLM2-135M-Instruct.Q4_1.gguf")
    adapter = model.attach(LoRAConfig(r=8, lora_alpha=16), rng=0)
    loss, pullback = model.loss(tokens, labels, adapter)
    grads = pullback(1.0)                                   # {"model.layers.0.self_attn.q_proj.lora_A.weight": ...}

A model is frozen: what training changes is the adapter's. Reading order: _compose, _part, llama, gpt2, _head, _weights,
huggingface, gguf, _model, _generate.
"""

from ._cache import Cache
from ._config import ModelError
from ._generate import generate
from ._model import Model, load
from ._tokenizer import Tokenizer, load_tokenizer

__all__ = ["Cache", "Model", "ModelError", "Tokenizer", "generate", "load", "load_tokenizer"]
