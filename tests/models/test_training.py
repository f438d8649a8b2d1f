"""Fifty AdamW steps beside PyTorch and PEFT, in float32 with the same data: the losses stay together."""

import numpy as np
import pytest
from models.golden import STEPS, apart, our_losses

from npl_lora.models import load

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from models.float64 import islands_in_float64  # noqa: E402
from models.test_transformers import LORAS, TINY, batch, theirs, trained  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]


def their_losses(adapted, batches, schedule, lr=5e-3, clip=1.0):
    """transformers' and torch's own parts: AdamW, the scheduler of that name, clipping."""
    optimizer = torch.optim.AdamW([p for _, p in trained(adapted)], lr=lr, weight_decay=0.01)
    rates = transformers.get_scheduler(schedule, optimizer, num_warmup_steps=5, num_training_steps=STEPS)
    losses = []
    for tokens, labels, mask in batches:
        optimizer.zero_grad()
        given = dict(input_ids=torch.tensor(tokens), attention_mask=torch.tensor(mask.astype(int)))
        loss = adapted(**given, labels=torch.tensor(labels)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for _, p in trained(adapted)], clip)
        optimizer.step()
        rates.step()
        losses.append(loss.item())
    return losses


def losses_of_both(tmp_path, lora, schedule, dtype):
    adapted = theirs(tmp_path, "llama", LORAS[lora])
    model = load(tmp_path / "model", dtype=dtype)
    batches = [batch(TINY["vocab_size"], seed) for seed in range(STEPS)]
    ours = our_losses(model, model.load_adapter(tmp_path / "adapter"), batches, schedule)
    if dtype == np.float32:
        return ours, their_losses(adapted.float(), batches, schedule)
    with islands_in_float64():
        return ours, their_losses(adapted, batches, schedule)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_losses_stay_together(tmp_path, schedule):
    assert apart(*losses_of_both(tmp_path, "usual", schedule, np.float32)) < 1e-5


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("lora", ["usual", "rslora"])
def test_losses_stay_together_in_float64(tmp_path, lora, schedule):
    """With rsLoRA everywhere, at this rate, fifty steps make a rounding error 10^6 times what it was, theirs and ours:
    in float32 both are some 1e-2 from the truth by then. What is computed is the same."""
    assert apart(*losses_of_both(tmp_path, lora, schedule, np.float64)) < 1e-8
