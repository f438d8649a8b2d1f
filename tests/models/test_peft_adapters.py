"""Adapters as PEFT writes them, beyond A and B on linear layers: they give PEFT's logits and gradients here, merged
too, and what is written here again gives PEFT the same."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from npl_lora.adapters import files
from npl_lora.models import load

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from models.float64 import in_float64, islands_in_float64  # noqa: E402
from models.test_transformers import TINY, answers, batch, off, theirs, trained  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

CASES = {
    "norms": ("llama", dict(target_modules=["q_proj"], modules_to_save=["norm", "up_proj"])),
    "norms-qwen3": ("qwen3", dict(target_modules=["k_proj"], modules_to_save=["q_norm", "input_layernorm"])),
    "norms-qwen2": ("qwen2", dict(target_modules=["v_proj"], modules_to_save=["self_attn.q_proj", "model.norm"])),
    "longlora": ("llama", dict(target_modules=["q_proj", "o_proj"], modules_to_save=["embed_tokens", "norm"])),
    "a-whole-mlp": ("llama", dict(target_modules=["q_proj"], modules_to_save=["layers.1.mlp"])),
    "gpt2-norms": ("gpt2", dict(target_modules=["c_attn"], modules_to_save=["ln_1", "ln_f"], fan_in_fan_out=True)),
    "gpt2-tables": ("gpt2", dict(target_modules=["c_attn"], modules_to_save=["wpe", "lm_head"], fan_in_fan_out=True)),
    "gpt2-head": ("gpt2", dict(target_modules=["lm_head", "wte", "c_fc"])),
    "tied-embedding": ("llama-tied", dict(target_modules=["embed_tokens", "q_proj"])),
    "tied-head": ("llama-tied", dict(target_modules=["lm_head", "q_proj"], rank_pattern={"lm_head": 2})),
    "tied-both": ("llama-tied", dict(target_modules=["lm_head", "embed_tokens", "up_proj"], use_rslora=True)),
    "tied-saved-head": ("llama-tied", dict(target_modules=["q_proj"], modules_to_save=["lm_head"])),
    "tied-saved-both": ("llama-tied", dict(target_modules=["q_proj"], modules_to_save=["lm_head", "embed_tokens"])),
    "tied-saved-one": ("llama-tied", dict(target_modules=["lm_head"], modules_to_save=["embed_tokens"])),
    "dora": ("llama", dict(target_modules=["q_proj", "down_proj"], use_dora=True)),
    "dora-everywhere": ("qwen2", dict(target_modules="all-linear", use_dora=True, use_rslora=True, bias="all")),
    "dora-tied-head": ("llama-tied", dict(target_modules=["lm_head", "v_proj"], use_dora=True)),
    "dora-biased": ("llama-biased", dict(target_modules=["o_proj", "up_proj"], use_dora=True, bias="lora_only")),
    "dora-gpt2": ("gpt2", dict(target_modules=["c_attn", "c_proj"], use_dora=True, fan_in_fan_out=True)),
    "lora-bias": ("llama-biased", dict(target_modules=["q_proj", "down_proj"], lora_bias=True)),
    "lora-bias-all": ("qwen2", dict(target_modules=["k_proj", "v_proj"], lora_bias=True, bias="lora_only")),
    "lora-bias-gpt2": ("gpt2", dict(target_modules=["c_fc"], lora_bias=True, use_rslora=True, fan_in_fan_out=True)),
    "tokens": ("llama", dict(target_modules=["q_proj"], trainable_token_indices=[38, 60, 16])),
    "tokens-tied": ("llama-tied", dict(target_modules=["q_proj"], trainable_token_indices=[5, 2, 40])),
    "tokens-head": (
        "llama",
        dict(target_modules=["v_proj"], trainable_token_indices={"lm_head": [7, 1], "embed_tokens": [2, 9, 31]}),
    ),
    "tokens-gpt2": ("gpt2", dict(target_modules=["c_attn"], trainable_token_indices={"wte": [4, 8], "wpe": [1, 4]})),
    "tokens-dora": ("qwen2", dict(target_modules=["q_proj"], use_dora=True, trainable_token_indices=[18, 12, 2])),
    "untied-both": ("llama", dict(target_modules=["lm_head", "embed_tokens"])),
}


def adapted_by_peft(folder, adapter):
    """A fresh model of transformers from a folder, with PEFT's adapter from another, in float64."""
    base = in_float64(transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa"))
    return peft.PeftModel.from_pretrained(base, adapter).double().eval()


def logits_of(model, tokens, mask):
    with islands_in_float64(), torch.no_grad():
        return model(input_ids=torch.tensor(tokens), attention_mask=torch.tensor(mask.astype(int))).logits.numpy()


@pytest.mark.parametrize("case", CASES)
def test_logits_gradients_merged_and_written_again(tmp_path, case):
    kind, lora = CASES[case]
    adapted = theirs(tmp_path, kind, dict(r=3, lora_alpha=7, **lora))
    tokens, labels, mask = batch(TINY["vocab_size"])
    right_logits, right_loss, right_grads = answers(adapted, tokens, labels, mask)

    model = load(tmp_path / "model", dtype=np.float64)
    adapter = model.load_adapter(tmp_path / "adapter")
    loss, pullback = model.loss(tokens, labels, adapter, key_mask=mask)
    grads = pullback(1.0)
    assert off(model.logits(tokens, adapter, key_mask=mask)[0][mask], right_logits[mask]) < 1e-10
    assert abs(float(loss) - right_loss) < 1e-11 * right_loss
    renamed = {name.replace(".modules_to_save", ""): right for name, right in right_grads.items()}
    renamed = {name.replace("_vector.weight", "_vector"): right for name, right in renamed.items()}
    assert grads.keys() == renamed.keys()
    for name, right in renamed.items():
        assert off(grads[name], right) < 1e-9, name
    assert off(model.merged(adapter).logits(tokens, key_mask=mask)[0][mask], right_logits[mask]) < 1e-10

    files.save(adapter, tmp_path / "again", str(tmp_path / "model"))
    again = logits_of(adapted_by_peft(tmp_path / "model", tmp_path / "again"), tokens, mask)
    assert off(again[mask], right_logits[mask]) < 1e-10


@pytest.mark.parametrize(
    "lora",
    [
        dict(target_modules=["embed_tokens", "q_proj"]),
        dict(target_modules=["lm_head", "q_proj"], use_rslora=True),
        dict(target_modules=["lm_head", "embed_tokens", "down_proj"]),
        dict(target_modules=["q_proj"], modules_to_save=["embed_tokens"]),
        dict(target_modules=["q_proj"], modules_to_save=["lm_head", "norm"]),
    ],
)
def test_an_adapter_that_keeps_the_two_tied(tmp_path, lora):
    theirs(tmp_path, "llama-tied", dict(r=3, lora_alpha=7, target_modules=["q_proj"]))
    base = in_float64(transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model"))
    config = peft.LoraConfig(r=3, lora_alpha=7, ensure_weight_tying=True, task_type="CAUSAL_LM", **lora)
    adapted = peft.get_peft_model(base, config)
    torch.manual_seed(3)
    for _, parameter in trained(adapted):
        parameter.data.add_(0.3 * torch.randn_like(parameter))  # in place: the two share their memory
    adapted.save_pretrained(tmp_path / "adapter")
    check_from_files(tmp_path)


@pytest.mark.parametrize("kind", ["llama", "llama-tied", "qwen3", "gpt2"])
def test_the_model_s_own_tensors_beside_a_and_b(tmp_path, kind):
    """Norms and tables that mergekit or save_embedding_layers wrote; and the base layer of one that is adapted."""
    targets = ["c_attn", "wte"] if kind == "gpt2" else ["q_proj", "embed_tokens"]
    theirs(tmp_path, kind, dict(r=3, lora_alpha=7, target_modules=targets))
    rng, tensors = np.random.default_rng(5), load_file(tmp_path / "adapter" / files.TENSORS)
    tables = [name for name in tensors if name.endswith("base_layer.weight")]
    for name, array in load_file(tmp_path / "model" / "model.safetensors").items():
        if name.endswith(("norm.weight", "ln_1.weight", "ln_f.bias", "up_proj.weight", "c_fc.bias", "lm_head.weight")):
            tensors[f"base_model.model.{name}"] = array + 0.3 * rng.standard_normal(array.shape)
    for name in tables:
        tensors[name] = tensors[name] + 0.3 * rng.standard_normal(tensors[name].shape)
    save_file(tensors, tmp_path / "adapter" / files.TENSORS)
    check_from_files(tmp_path)


def test_a_tied_output_layer_brings_the_table_of_both(tmp_path):
    theirs(tmp_path, "llama-tied", dict(r=3, lora_alpha=7, target_modules=["q_proj"]))
    tensors = load_file(tmp_path / "adapter" / files.TENSORS)
    table = load_file(tmp_path / "model" / "model.safetensors")["model.embed_tokens.weight"]
    for name, shift in (("model.embed_tokens.weight", 0.2), ("lm_head.weight", 0.4)):
        tensors[f"base_model.model.{name}"] = table[::-1] + shift
    save_file(tensors, tmp_path / "adapter" / files.TENSORS)
    check_from_files(tmp_path)


@pytest.mark.parametrize("kind", ["llama", "llama-tied", "gpt2"])
@pytest.mark.parametrize("rows", [50, 67])
@pytest.mark.parametrize("way", ["saved", "targeted", "carried", "tokens"])
def test_a_resized_vocabulary(tmp_path, kind, rows, way):
    theirs(tmp_path, kind, dict(r=3, lora_alpha=7, target_modules=["c_attn" if kind == "gpt2" else "q_proj"]))
    table = "wte" if kind == "gpt2" else "embed_tokens"
    lora = dict(target_modules=["c_attn" if kind == "gpt2" else "q_proj"])
    if way == "saved":
        lora["modules_to_save"] = [table, "lm_head"]
    elif way == "targeted":
        lora["target_modules"] += [table, "lm_head"]
    elif way == "tokens":
        lora["trainable_token_indices"] = {table: [rows - 1, 38, 2]}

    def grown():
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", attn_implementation="sdpa")
        model.resize_token_embeddings(rows, mean_resizing=False)
        return in_float64(model)

    adapted = peft.get_peft_model(grown(), peft.LoraConfig(r=3, lora_alpha=7, task_type="CAUSAL_LM", **lora)).double()
    torch.manual_seed(3)
    for _, parameter in trained(adapted):
        parameter.data = 0.3 * torch.randn_like(parameter)
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=way != "saved")
    tokens, _, mask = batch(50)
    right = logits_of(adapted.eval(), tokens, mask)

    model = load(tmp_path / "model", dtype=np.float64)
    adapter = model.load_adapter(tmp_path / "adapter")
    merged = model.merged(adapter)
    assert merged.config.vocabulary == rows
    for logits in (model.logits(tokens, adapter, key_mask=mask)[0], merged.logits(tokens, key_mask=mask)[0]):
        assert off(logits[mask], right[mask]) < 1e-10


def check_from_files(tmp_path):
    """The adapter in a folder here and in PEFT, which reads both from files: logits, merged, and written again."""
    tokens, _, mask = batch(TINY["vocab_size"])
    right = logits_of(adapted_by_peft(tmp_path / "model", tmp_path / "adapter"), tokens, mask)
    model = load(tmp_path / "model", dtype=np.float64)
    adapter = model.load_adapter(tmp_path / "adapter")
    assert off(model.logits(tokens, adapter, key_mask=mask)[0][mask], right[mask]) < 1e-10
    assert off(model.merged(adapter).logits(tokens, key_mask=mask)[0][mask], right[mask]) < 1e-10
    files.save(adapter, tmp_path / "again", str(tmp_path / "model"))
    again = logits_of(adapted_by_peft(tmp_path / "model", tmp_path / "again"), tokens, mask)
    assert off(again[mask], right[mask]) < 1e-10
