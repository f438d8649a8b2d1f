"""The same step in PyTorch + PEFT, on transformers' model. Only the worker process imports this."""

import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import peft
import torch
import transformers

from .settings import ALPHA, CLIP, LR, Settings

# PEFT refuses to adapt any layer if an older torchao is installed. None makes torchao look absent.
sys.modules.setdefault("torchao", None)  # type: ignore[arg-type]


class Side:
    """about: versions, the number of trained parameters, and the number of threads."""

    def __init__(self, settings: Settings) -> None:
        model = _disable_dropout(_load(Path(settings.model)))
        if settings.recompute:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        names = settings.target_modules
        adapted = names if names is None or isinstance(names, str) else list(names)
        torch.manual_seed(settings.seed)
        config = peft.LoraConfig(r=settings.rank, lora_alpha=ALPHA, target_modules=adapted, task_type="CAUSAL_LM")
        self._model: Any = peft.get_peft_model(model, config).train()
        self._trained = [p for p in self._model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(self._trained, lr=LR, weight_decay=0.0)
        self._settings, self._vocabulary = settings, settings.vocabulary or model.config.vocab_size
        self.about = {
            "versions": {name: metadata.version(name) for name in ("torch", "peft", "transformers")},
            "trained": sum(p.numel() for p in self._trained),
            "threads": torch.get_num_threads(),
        }

    def step(self, step: int) -> float:
        """Take a step. Returns the loss before it."""
        tokens = torch.from_numpy(self._settings.tokens(step, self._vocabulary))
        loss = self._model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._trained, CLIP)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return float(loss.detach())


def _load(path: Path) -> Any:
    folder, file = (path, None) if path.is_dir() else (path.parent, path.name)
    options: Any = dict(dtype=torch.float32, attn_implementation="sdpa", local_files_only=True)
    return transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, **options)


def _disable_dropout(model: Any) -> Any:
    """Set every dropout to 0, as on the other side. Training mode is needed for gradient checkpointing alone."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0
    return model
