"""Measure a LoRA training step, in seconds and memory, here and in PyTorch + PEFT.

    from npl_lora.training.bench import Settings, measure

    figures = measure(Settings("SmolLM2.gguf", batch=2, length=512), sides=("npl-lora", "torch"))
    figures["sides"]["npl-lora"]["seconds"], figures["ratio"]

Each side is a separate process, so its memory can be measured alone. The two sides take their steps in turns, so other
load on the machine slows both alike. The first step of each is not counted. Both sides have the same model, tokens,
rank, target modules and optimiser. B = 0 in the first step, so the two losses of that step must agree.

Reading order: settings, worker, own_side, torch_side, memory, child, measure, table.
"""

from .measure import measure
from .settings import SIDES, BenchError, Settings

__all__ = ["SIDES", "BenchError", "Settings", "measure"]
