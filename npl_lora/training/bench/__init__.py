"""What a LoRA training step costs, in seconds and memory, here and in PyTorch + PEFT.

    from npl_lora.training.bench import Settings, measure

    found = measure(Settings("SmolLM2.gguf", batch=2, length=512), sides=("npl-lora", "torch"))
    found["sides"]["npl-lora"]["seconds"], found["ratio"]

Each side is a process of its own, so that its memory is its own, and takes a step when it is told to. The steps
alternate, so that what else the machine does falls on both alike; the first of each is not counted. Both sides have the
same model, tokens, rank, target modules and optimiser, and B = 0 in the first step: its losses must agree.

Reading order: settings, worker, own_side, torch_side, memory, child, measure, table.
"""

from .measure import measure
from .settings import SIDES, BenchError, Settings

__all__ = ["SIDES", "BenchError", "Settings", "measure"]
