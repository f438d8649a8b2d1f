"""Our models against transformers and PEFT, in float64 throughout (see `float64`): logits, loss and every gradient."""

import dataclasses
import json

import numpy as np
import pytest

from npl_lora.adapters import LoRAConfig, files
from npl_lora.adapters.config import check_names
from npl_lora.models import load

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from models.float64 import in_float64, islands_in_float64  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]

TINY = dict(vocab_size=61, hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4)
TINY |= dict(num_key_value_heads=2, max_position_embeddings=64, rope_theta=500.0, pad_token_id=None)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
MODELS = {
    "llama": ("Llama", dict(tie_word_embeddings=False)),
    "llama-tied": ("Llama", dict(tie_word_embeddings=True, head_dim=8)),
    "llama-3.1": ("Llama", dict(rope_scaling={**LLAMA3, "original_max_position_embeddings": 32})),
    "llama-biased": ("Llama", dict(attention_bias=True, mlp_bias=True)),
    "mistral": ("Mistral", dict(sliding_window=5)),
    "mistral-full": ("Mistral", dict(sliding_window=None, head_dim=10)),
    "qwen2": ("Qwen2", dict(use_sliding_window=False)),
    "qwen2-window": ("Qwen2", dict(use_sliding_window=True, sliding_window=4, max_window_layers=1)),
    "qwen3": ("Qwen3", dict(head_dim=8)),
}
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16)
ROPES = {
    "linear": ("Llama", dict(rope_scaling=dict(rope_type="linear", factor=3.0))),
    "yarn": ("Qwen2", dict(rope_scaling=YARN, head_dim=8)),
    "yarn-fast": ("Llama", dict(rope_scaling={**YARN, "beta_fast": 8.0, "beta_slow": 0.5, "truncate": False})),
    "yarn-scaled": ("Qwen3", dict(rope_scaling={**YARN, "attention_factor": 1.3}, head_dim=12)),
    "yarn-mscale": ("Llama", dict(rope_scaling={**YARN, "mscale": 0.7, "mscale_all_dim": 1.2})),
    "dynamic": ("Llama", dict(rope_scaling=dict(rope_type="dynamic", factor=3.0), max_position_embeddings=8)),
    "dynamic-short": ("Llama", dict(rope_scaling=dict(rope_type="dynamic", factor=3.0), max_position_embeddings=32)),
}
GEMMA = dict(hidden_size=36, head_dim=8, hidden_activation="gelu_pytorch_tanh")  # the root of the width is exact
LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]
GEMMAS = {
    "gemma": ("Gemma", dict(hidden_size=36, head_dim=8, rope_theta=500.0)),
    "gemma-untied": ("Gemma", dict(hidden_size=36, head_dim=6, tie_word_embeddings=False)),
    "gemma2": (
        "Gemma2",
        {**GEMMA, "sliding_window": 4, "query_pre_attn_scalar": 11}
        | dict(attn_logit_softcapping=1.5, final_logit_softcapping=2.5, attn_implementation="eager"),
    ),
    "gemma2-uncapped": (
        "Gemma2",
        {**GEMMA, "sliding_window": 3, "attn_implementation": "eager"}
        | dict(attn_logit_softcapping=None, final_logit_softcapping=None),
    ),
    "gemma3-capped": ("Gemma3Text", {**GEMMA, "sliding_window": 4, "final_logit_softcapping": 2.0}),
    "gemma3": ("Gemma3Text", {**GEMMA, "layer_types": LAYERS, "sliding_window": 4, "query_pre_attn_scalar": 11}),
    "gemma3-linear": (
        "Gemma3Text",
        {**GEMMA, "sliding_window": 3, "sliding_window_pattern": 2, "rope_local_base_freq": 30.0}
        | dict(rope_scaling=dict(rope_type="linear", factor=8.0), attention_bias=True),
    ),
}
FACTORS = dict(short_factor=[1.0, 1.2, 1.5, 2.0], long_factor=[1.1, 2.0, 4.0, 8.0])
LONG = dict(rope_scaling=dict(rope_type="longrope", **FACTORS), hidden_size=32)
PHIS = {
    "phi3": ("Phi3", dict(sliding_window=5)),
    "phi3-short": ("Phi3", {**LONG, "original_max_position_embeddings": 32}),
    "phi3-long": ("Phi3", {**LONG, "original_max_position_embeddings": 8}),
}
PHI3_LORAS = {
    "usual": dict(r=3, lora_alpha=7, target_modules=["qkv_proj"]),
    "everywhere": dict(r=3, lora_alpha=5, use_rslora=True, target_modules="all-linear"),
}
GPT2 = dict(vocab_size=61, n_embd=24, n_inner=40, n_layer=3, n_head=4, n_positions=64, activation_function="gelu_new")
GPT2 |= dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, pad_token_id=None)
GPT2_LORAS = {
    "usual": dict(r=3, lora_alpha=7, target_modules=["c_attn"], fan_in_fan_out=True),
    "everywhere": dict(r=3, lora_alpha=5, use_rslora=True, target_modules="all-linear", fan_in_fan_out=True),
    "embedding": dict(r=3, lora_alpha=5, target_modules=["wte", "wpe", "c_fc"], bias="all", fan_in_fan_out=True),
}
LORAS = {
    "usual": dict(r=3, lora_alpha=7, target_modules=["q_proj", "v_proj"]),
    "rslora": dict(r=4, lora_alpha=6, use_rslora=True, target_modules="all-linear"),
    "patterns": dict(
        r=2,
        lora_alpha=5,
        target_modules=r".*\.(k_proj|down_proj|o_proj)",
        exclude_modules=["layers.0.mlp.down_proj"],
        rank_pattern={"self_attn.k_proj": 5, r"layers\.[12]\.mlp\.down_proj": 3},
        alpha_pattern={"o_proj": 9},
    ),
    "layers": dict(r=3, lora_alpha=2, target_modules=["up_proj", "q_proj"], layers_to_transform=[1, 2]),
    "embedding": dict(r=3, lora_alpha=4, target_modules=["embed_tokens", "gate_proj"]),
}


def theirs(tmp_path, name, lora, seed=0):
    """A tiny random model of transformers, with PEFT's adapter on it, in float64, and both in folders."""
    torch.manual_seed(seed)
    if name == "gpt2":
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2, attn_implementation="sdpa"))
    else:
        kind, config = (MODELS | ROPES | GEMMAS | PHIS)[name]
        config = getattr(transformers, f"{kind}Config")(**{"attn_implementation": "sdpa", **TINY, **config})
        model = getattr(transformers, f"{kind.removesuffix('Text')}ForCausalLM")(config)
    for parameter in model.parameters():  # in general position: norms that are not one, biases that are not zero
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path / "model")
    adapted = peft.get_peft_model(in_float64(model), peft.LoraConfig(**lora, task_type="CAUSAL_LM")).double()
    for _, parameter in trained(adapted):
        parameter.data = 0.3 * torch.randn_like(parameter)
    adapted.save_pretrained(tmp_path / "adapter")
    return adapted


def trained(adapted):
    return [(name, p) for name, p in adapted.named_parameters() if p.requires_grad]


def batch(vocabulary, seed=0):
    """Padded on the right, with ignored labels: tokens, labels, mask."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, vocabulary, (3, 13))
    mask = np.arange(13) < np.array([[13], [9], [4]])
    labels = np.where(mask & (rng.random(tokens.shape) < 0.8), tokens, -100)
    return tokens, labels, mask


def answers(adapted, tokens, labels, mask):
    """Logits, loss and gradients by our names."""
    with islands_in_float64():
        out = adapted(
            input_ids=torch.tensor(tokens), attention_mask=torch.tensor(mask.astype(int)), labels=torch.tensor(labels)
        )
        out.loss.backward()
    grads = {ours(name): parameter.grad.numpy() for name, parameter in trained(adapted)}
    return out.logits.detach().numpy(), out.loss.item(), grads


def ours(name):
    return name.removeprefix("base_model.model.").replace(".default", "").replace(".base_layer", "")


def off(got, right):
    return np.linalg.norm(got - right) / np.linalg.norm(right)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("lora", LORAS)
def test_logits_loss_and_gradients(tmp_path, name, lora, recompute):
    check_agreement(tmp_path, name, LORAS[lora], recompute)


@pytest.mark.parametrize("name", ROPES)
def test_stretched_rope(tmp_path, name):
    check_agreement(tmp_path, name, LORAS["usual"], recompute=False)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", GEMMAS)
@pytest.mark.parametrize("lora", LORAS)
def test_gemma(tmp_path, name, lora, recompute):
    check_agreement(tmp_path, name, LORAS[lora], recompute)


@pytest.mark.parametrize("name", PHIS)
@pytest.mark.parametrize("lora", PHI3_LORAS)
def test_phi3(tmp_path, name, lora):
    check_agreement(tmp_path, name, PHI3_LORAS[lora], recompute=True)


@pytest.mark.parametrize("lora", GPT2_LORAS)
def test_gpt2(tmp_path, lora):
    check_agreement(tmp_path, "gpt2", GPT2_LORAS[lora], recompute=False)


def check_agreement(tmp_path, name, lora, recompute):
    adapted = theirs(tmp_path, name, lora)
    tokens, labels, mask = batch(TINY["vocab_size"])
    right_logits, right_loss, right_grads = answers(adapted, tokens, labels, mask)

    model = load(tmp_path / "model", dtype=np.float64)
    adapter = model.load_adapter(tmp_path / "adapter")
    logits, _ = model.logits(tokens, adapter, key_mask=mask)
    loss, pullback = model.loss(tokens, labels, adapter, key_mask=mask, recompute=recompute)
    grads = pullback(1.0)

    assert off(logits[mask], right_logits[mask]) < 1e-10
    assert abs(float(loss) - right_loss) < 1e-11 * right_loss
    assert grads.keys() == right_grads.keys()
    for parameter, right in right_grads.items():
        if parameter.endswith("c_attn.bias"):  # q.b_k does not change a softmax: its gradient is 0 but for rounding
            gradient, right = (np.delete(g, np.s_[24:48]) for g in (grads[parameter], right))
            assert off(gradient, right) < 1e-9, parameter
        else:
            assert off(grads[parameter], right) < 1e-9, parameter


@pytest.mark.parametrize("lora", LORAS)
def test_our_adapters_load_in_peft(tmp_path, lora):
    """Written here, read by PEFT: the same logits."""
    theirs(tmp_path, "llama", LORAS[lora])
    model = load(tmp_path / "model", dtype=np.float64)
    adapter = model.attach(LoRAConfig(**LORAS[lora], init_lora_weights=False), rng=1)
    files.save(adapter, tmp_path / "ours", str(tmp_path / "model"))

    tokens, _, mask = batch(TINY["vocab_size"])
    base = in_float64(transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model"))
    adapted = peft.PeftModel.from_pretrained(base, tmp_path / "ours").double()
    with islands_in_float64(), torch.no_grad():
        right = adapted(input_ids=torch.tensor(tokens), attention_mask=torch.tensor(mask.astype(int))).logits.numpy()
    logits, _ = model.logits(tokens, adapter, key_mask=mask)
    assert off(logits[mask], right[mask]) < 1e-10


@pytest.mark.parametrize("lora", [dict(modules_to_save=["embed_tokens"]), dict(bias="all")])
def test_the_head_of_a_tied_model_keeps_its_table(tmp_path, lora):
    adapted = theirs(tmp_path, "llama-tied", dict(r=3, lora_alpha=7, target_modules=["q_proj"], **lora))
    tokens, labels, mask = batch(TINY["vocab_size"])
    right_logits, _, right_grads = answers(adapted, tokens, labels, mask)
    model = load(tmp_path / "model", dtype=np.float64)
    adapter = model.load_adapter(tmp_path / "adapter")
    assert off(model.logits(tokens, adapter, key_mask=mask)[0][mask], right_logits[mask]) < 1e-10
    grads = model.loss(tokens, labels, adapter, key_mask=mask)[1](1.0)
    for name, right in right_grads.items():
        assert off(grads[name.replace(".modules_to_save", "")], right) < 1e-9, name


@pytest.mark.parametrize("bias", ["none", "all", "lora_only"])
def test_biases_and_whole_modules_are_trained_and_saved_as_peft_does(tmp_path, bias):
    lora = dict(r=3, lora_alpha=7, target_modules=["q_proj", "down_proj"], bias=bias, modules_to_save=["lm_head"])
    adapted = theirs(tmp_path, "llama-biased", lora)
    tokens, labels, mask = batch(TINY["vocab_size"])
    _, right_loss, right_grads = answers(adapted, tokens, labels, mask)
    model = load(tmp_path / "model", dtype=np.float64)
    adapter = model.load_adapter(tmp_path / "adapter")
    loss, pullback = model.loss(tokens, labels, adapter, key_mask=mask)
    assert abs(float(loss) - right_loss) < 1e-11 * right_loss
    renamed = {n.replace(".base_layer", "").replace("modules_to_save.", ""): g for n, g in right_grads.items()}
    renamed = {n.replace("lm_head.default.", "lm_head."): g for n, g in renamed.items()}
    grads = pullback(1.0)
    assert grads.keys() == renamed.keys()
    for parameter, right in renamed.items():
        assert off(grads[parameter], right) < 1e-9, parameter

    files.save(adapter, tmp_path / "ours")
    names = [set(safetensors_names(tmp_path / folder)) for folder in ("ours", "adapter")]
    assert names[0] == names[1]


def safetensors_names(folder):
    raw = (folder / "adapter_model.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length]).keys() - {"__metadata__"}


def test_every_field_of_peft_is_known():
    """A field that somebody wrote by hand and PEFT does not have is refused; one that it has is not."""
    check_names(dict.fromkeys(field.name for field in dataclasses.fields(peft.LoraConfig)))
