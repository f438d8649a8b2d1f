"""Training: schedules, the step on a batch, data, the loop, checkpoints, and complete runs.

    from npl_lora.adapters import LoRAConfig
    from npl_lora.models import load, load_tokenizer
    from npl_lora.training import Recipe, Run, read

    model, tokenizer = load(MODEL), load_tokenizer(MODEL)
    rows, held_out = read("hamlet.txt", tokenizer, length=256).split(0.1)
    adapter = model.attach(LoRAConfig(r=8, lora_alpha=16), rng=0)
    run = Run(model, adapter, rows, held_out, Recipe(steps=100, lr=1e-3), out="hamlet")
    for event in run.go():
        print(event.step, event.metrics, event.held_out)
    run.state.adapter                                       # trained; the folder "hamlet" has its PEFT files

The optimisers are in npl_lora.lora. Reading order: schedule, step, data, loop, checkpoint, metrics, run, curve.
"""

from .data import read
from .run import Run
from .step import Recipe

__all__ = ["Recipe", "Run", "read"]
