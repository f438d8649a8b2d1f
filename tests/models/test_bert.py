"""BERT classifiers against transformers and PEFT, in float64 throughout: logits, loss, every gradient, and files."""

import contextlib

import numpy as np
import pytest

from npl_lora.adapters import LoRAConfig, files
from npl_lora.models import load_classifier

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from models.float64 import in_float64, islands_in_float64  # noqa: E402
from models.test_training import STEPS, apart, our_losses, their_losses  # noqa: E402
from models.test_transformers import answers, off, safetensors_names, trained  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

CLASSES = ("no", "maybe", "yes")
TINY = dict(vocab_size=61, hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4)
TINY |= dict(max_position_embeddings=64, pad_token_id=0, num_labels=len(CLASSES))
TINY |= dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
LORAS = {
    "usual": dict(r=3, lora_alpha=7, target_modules=["query", "value"]),
    "rslora": dict(r=4, lora_alpha=6, use_rslora=True, target_modules="all-linear"),
    "patterns": dict(
        r=2,
        lora_alpha=5,
        target_modules=r".*\.(key|output\.dense|pooler\.dense)",
        exclude_modules=["layer.0.output.dense"],
        rank_pattern={"attention.self.key": 5, r"layer\.[12]\.output\.dense": 3},
        alpha_pattern={"attention.output.dense": 9},
    ),
    "layers": dict(r=3, lora_alpha=2, target_modules=["query", "intermediate.dense"], layers_to_transform=[1, 2]),
    "embedding": dict(r=3, lora_alpha=4, target_modules=["word_embeddings", "position_embeddings", "value"]),
    "saved": dict(r=3, lora_alpha=4, target_modules=["query"], modules_to_save=["classifier", "pooler"]),
    "norms": dict(r=3, lora_alpha=4, target_modules=["query"], modules_to_save=["LayerNorm", "position_embeddings"]),
    "dora": dict(r=3, lora_alpha=4, target_modules=["query", "intermediate.dense"], use_dora=True),
    "lora_bias": dict(r=3, lora_alpha=4, target_modules=["value", "output.dense"], lora_bias=True),
    "biased": dict(r=3, lora_alpha=4, target_modules=["query", "key", "dense"], bias="all"),
    "biased where adapted": dict(r=3, lora_alpha=4, target_modules=["query", "value"], bias="lora_only"),
}


def theirs(tmp_path, lora, seed=0):
    """A tiny random classifier of transformers, with PEFT's adapter on it, in float64, and both in folders."""
    torch.manual_seed(seed)
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**TINY, attn_implementation="sdpa"))
    for parameter in model.parameters():  # in general position: norms that are not one, biases that are not zero
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path / "model")
    adapted = peft.get_peft_model(in_float64(model), peft.LoraConfig(**lora, task_type="SEQ_CLS")).double()
    for _, parameter in trained(adapted):
        parameter.data = 0.3 * torch.randn_like(parameter)
    adapted.save_pretrained(tmp_path / "adapter")
    return adapted


def texts(seed=0):
    """Padded on the right, one label ignored: tokens, labels, mask. The padding token stands among the others too."""
    rng = np.random.default_rng(seed)
    mask = np.arange(13) < np.array([[13], [9], [4], [1], [11]])
    tokens = np.where(mask, rng.integers(0, TINY["vocab_size"], mask.shape), TINY["pad_token_id"])
    return tokens, np.array([2, 0, 1, -100, 1]), mask


def by_our_names(grads):
    plain = {name.replace(".modules_to_save", ""): gradient for name, gradient in grads.items()}
    return {name.replace("_vector.weight", "_vector"): gradient for name, gradient in plain.items()}


def check_gradients(grads, right):
    """The key's bias moves all of a query's scores alike: its gradient is 0 but for rounding, theirs and ours."""
    assert grads.keys() == right.keys()
    largest = max(np.linalg.norm(gradient) for gradient in right.values())
    for name, expected in right.items():
        if name.endswith("key.bias"):
            assert np.linalg.norm(grads[name]) < 1e-12 * largest, name
        else:
            assert off(grads[name], expected) < 1e-9, name


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("lora", LORAS)
def test_logits_loss_and_gradients(tmp_path, lora, recompute):
    adapted = theirs(tmp_path, LORAS[lora])
    tokens, labels, mask = texts()
    right_logits, right_loss, right_grads = answers(adapted, tokens, labels, mask)

    model = load_classifier(tmp_path / "model", CLASSES, dtype=np.float64)
    adapter = model.load_adapter(tmp_path / "adapter")
    logits, _ = model.scores(tokens, adapter, key_mask=mask)
    loss, pullback = model.loss(tokens, labels, adapter, key_mask=mask, recompute=recompute)
    assert off(logits, right_logits) < 1e-10
    assert abs(float(loss) - right_loss) < 1e-11 * right_loss
    check_gradients(pullback(1.0), by_our_names(right_grads))

    files.save(adapter, tmp_path / "ours")
    again = (".modules_to_save.", ".original_module.")  # what PEFT writes beside the module itself
    names = {name for name in safetensors_names(tmp_path / "adapter") if not any(part in name for part in again)}
    assert safetensors_names(tmp_path / "ours") == names


@pytest.mark.parametrize("lora", LORAS)
def test_our_adapters_load_in_peft(tmp_path, lora):
    """Written here, read by PEFT: the same logits."""
    theirs(tmp_path, LORAS[lora])
    model = load_classifier(tmp_path / "model", CLASSES, dtype=np.float64)
    adapter = model.attach(LoRAConfig(**LORAS[lora], init_lora_weights=False), rng=1)
    rng = np.random.default_rng(2)
    adapter = adapter.with_parameters({n: 0.3 * rng.standard_normal(a.shape) for n, a in adapter.parameters.items()})
    files.save(adapter, tmp_path / "ours", str(tmp_path / "model"))

    tokens, _, mask = texts()
    base = in_float64(transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model"))
    adapted = peft.PeftModel.from_pretrained(base, tmp_path / "ours").double()
    with islands_in_float64(), torch.no_grad():
        right = adapted(input_ids=torch.tensor(tokens), attention_mask=torch.tensor(mask.astype(int))).logits.numpy()
    assert off(model.scores(tokens, adapter, key_mask=mask)[0], right) < 1e-10


def test_full_fine_tuning(tmp_path):
    """Every parameter's gradient, the padding token's row of the table held still as theirs is."""
    theirs(tmp_path, LORAS["usual"])
    whole = in_float64(transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model"))
    tokens, labels, mask = texts()
    _, right_loss, right_grads = answers(whole, tokens, labels, mask)
    model = load_classifier(tmp_path / "model", CLASSES, dtype=np.float64)
    loss, pullback = model.loss(tokens, labels, model.full(), key_mask=mask)
    assert abs(float(loss) - right_loss) < 1e-11 * right_loss
    check_gradients(pullback(1.0), right_grads)


@pytest.mark.parametrize("what", ["lora", "full"])
@pytest.mark.parametrize(("dtype", "bound"), [(np.float32, 1e-5), (np.float64, 1e-8)])
def test_losses_of_fifty_steps_stay_together(tmp_path, what, dtype, bound):
    """An adapter and its head beside PEFT, all of the model beside transformers."""
    their_model = theirs(tmp_path, LORAS["usual"])
    model = load_classifier(tmp_path / "model", CLASSES, dtype=dtype)
    adapter = model.load_adapter(tmp_path / "adapter") if what == "lora" else model.full()
    if what == "full":
        their_model = in_float64(transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model"))
    batches = [texts(seed % 3) for seed in range(STEPS)]
    ours = our_losses(model, adapter, batches, "linear")
    with islands_in_float64() if dtype == np.float64 else contextlib.nullcontext():
        right = their_losses(their_model if dtype == np.float64 else their_model.float(), batches, "linear")
    tokens, labels, mask = batches[-1]
    untrained, _ = model.loss(tokens, labels, adapter, key_mask=mask)
    assert right[-1] < 0.8 * untrained  # they do learn
    assert apart(ours, right) < bound
