"""Run under mpiexec: some steps in a dtype; rank 0 prints the losses, and a digest of every rank's adapter, as JSON."""

import hashlib
import json
import sys

import numpy as np

from npl_lora.adapters import LoRAConfig
from npl_lora.models import load
from npl_lora.support.ranks import join_ranks
from npl_lora.training import data, loop
from npl_lora.training.step import Recipe, State

folder, dtype, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
ranks, rng = join_ranks(), np.random.default_rng(0)
rows = [data.Row(tokens, tokens) for tokens in (rng.integers(0, 13, rng.integers(3, 16)) for _ in range(40))]
model = load(folder, dtype=np.dtype(dtype))
lora = LoRAConfig(r=4, lora_alpha=8, lora_dropout=0.2, target_modules="all-linear")
state, recipe = State(model.attach(lora, rng=1)), Recipe(steps=steps, lr=0.01, seed=3)
how = dict(size=8, micro=2, padding=0)
losses = []
for state, metrics in loop.run(model, state, rows, recipe, **how, ranks=ranks):  # noqa: B007, B020
    losses.append(metrics.loss)
whole = hashlib.sha256(b"".join(p.tobytes() for p in state.adapter.parameters.values())).hexdigest()
digests = ranks.each(lambda _: whole, range(ranks.size))
if ranks.rank == 0:
    print(json.dumps({"size": ranks.size, "losses": losses, "digests": digests}))
