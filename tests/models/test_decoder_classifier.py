"""Language models that classify texts, against transformers and PEFT in float64: logits, loss, every gradient."""

import numpy as np
import pytest

from npl_lora.adapters import LoRAConfig, files
from npl_lora.models import load_classifier

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from models.float64 import in_float64, islands_in_float64  # noqa: E402
from models.test_bert import CLASSES, by_our_names, check_gradients  # noqa: E402
from models.test_transformers import TINY, answers, off, trained  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

PAD = 0
MODELS = {
    "llama": ("Llama", {}),
    "qwen2": ("Qwen2", dict(use_sliding_window=True, sliding_window=4, max_window_layers=1)),
    "gemma": ("Gemma", dict(hidden_size=36, head_dim=8)),
    "phi3": ("Phi3", {}),
}
LORAS = {
    "usual": dict(r=3, lora_alpha=7),
    "everywhere": dict(r=2, lora_alpha=5, use_rslora=True, target_modules="all-linear"),
    "saved": dict(r=3, lora_alpha=4, target_modules=["o_proj", "embed_tokens"], modules_to_save=["score"]),
}


def theirs(tmp_path, name, lora):
    torch.manual_seed(0)
    kind, more = MODELS[name]
    fields = {**TINY, **more, "pad_token_id": PAD, "num_labels": len(CLASSES)}
    model = getattr(transformers, f"{kind}ForSequenceClassification")(getattr(transformers, f"{kind}Config")(**fields))
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path / "model")
    targets = {} if lora.get("target_modules") else {"target_modules": ["qkv_proj" if name == "phi3" else "q_proj"]}
    adapted = peft.get_peft_model(in_float64(model), peft.LoraConfig(**lora, **targets, task_type="SEQ_CLS")).double()
    for _, parameter in trained(adapted):
        parameter.data = 0.3 * torch.randn_like(parameter)
    adapted.save_pretrained(tmp_path / "adapter")
    return adapted


def texts():
    rng = np.random.default_rng(0)
    mask = np.arange(13) < np.array([[13], [9], [4], [1], [11]])
    return np.where(mask, rng.integers(1, TINY["vocab_size"], mask.shape), PAD), np.array([2, 0, 1, -100, 1]), mask


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("lora", LORAS)
def test_logits_loss_and_gradients(tmp_path, name, lora):
    adapted = theirs(tmp_path, name, LORAS[lora])
    tokens, labels, mask = texts()
    right_logits, right_loss, right_grads = answers(adapted, tokens, labels, mask)
    model = load_classifier(tmp_path / "model", CLASSES, dtype=np.float64)
    assert (model.pooling, model.head) == ("last", "score")
    adapter = model.load_adapter(tmp_path / "adapter")
    logits, _ = model.scores(tokens, adapter, key_mask=mask)
    loss, pullback = model.loss(tokens, labels, adapter, key_mask=mask)
    assert off(logits, right_logits) < 1e-10
    assert abs(float(loss) - right_loss) < 1e-11 * right_loss
    check_gradients(pullback(1.0), by_our_names(right_grads))
    merged, _ = model.merged(adapter).scores(tokens, key_mask=mask)
    assert off(merged, right_logits) < 1e-10


@pytest.mark.parametrize("name", MODELS)
def test_our_adapters_load_in_peft(tmp_path, name):
    theirs(tmp_path, name, LORAS["everywhere"])
    model = load_classifier(tmp_path / "model", CLASSES, dtype=np.float64)
    adapter = model.attach(LoRAConfig(r=2, target_modules="all-linear", init_lora_weights=False), rng=1)
    files.save(adapter, tmp_path / "ours", str(tmp_path / "model"))
    tokens, _, mask = texts()
    base = in_float64(transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model"))
    adapted = peft.PeftModel.from_pretrained(base, tmp_path / "ours").double()
    with islands_in_float64(), torch.no_grad():
        right = adapted(input_ids=torch.tensor(tokens), attention_mask=torch.tensor(mask.astype(int))).logits.numpy()
    assert off(model.scores(tokens, adapter, key_mask=mask)[0], right) < 1e-10
