"""Real transformers as pure functions of (tensors, adapter, tokens), keyed by the checkpoint's own names.

    from npl_lora.adapters import LoRAConfig
    from npl_lora.models import load, load_classifier

    model = load("SmolLM2-135M-Instruct.Q4_1.gguf")
    adapter = model.attach(LoRAConfig(r=8, lora_alpha=16), rng=0)
    loss, pullback = model.loss(tokens, labels, adapter)
    grads = pullback(1.0)                                   # {"model.layers.0.self_attn.q_proj.lora_A.weight": ...}

    classifier = load_classifier("all-MiniLM-L6-v2", ["rotten", "fresh"])
    adapter = classifier.attach(LoRAConfig(r=8, lora_alpha=16), rng=0)
    loss, pullback = classifier.loss(tokens, classes, adapter, key_mask=mask)

A model is frozen. Training changes the adapter alone.

Reading order: the mathematics is in llama, gemma, phi3, gpt2 and bert, with _scope and _token_loss below them. Then
_family (what a family offers), _options, _pretrained, _model and _classifier. _weights, _huggingface and _gguf read
files; _generate, _chat, _tokenizer and _export come last.
"""

from ._cache import Cache
from ._chat import ChatTemplate
from ._classifier import Classifier, load_classifier
from ._config import ModelError
from ._export import DTYPES, export, own_dtype
from ._generate import LogitsError, generate
from ._model import Model, load
from ._options import LossOptions
from ._plan import Plan, plan
from ._pretrained import Pretrained
from ._scope import PlacedOps
from ._token_loss import block_rows
from ._tokenizer import Tokenizer, load_tokenizer

__all__ = [
    "DTYPES",
    "Cache",
    "ChatTemplate",
    "Classifier",
    "LogitsError",
    "LossOptions",
    "Model",
    "ModelError",
    "PlacedOps",
    "Plan",
    "Pretrained",
    "Tokenizer",
    "block_rows",
    "export",
    "generate",
    "load",
    "load_classifier",
    "load_tokenizer",
    "own_dtype",
    "plan",
]
