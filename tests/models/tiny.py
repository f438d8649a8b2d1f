"""Tiny models with random tensors, as folders: each kind's peculiarities, and everything in general position."""

import json

import numpy as np
from safetensors.numpy import save_file

CONFIG = dict(vocab_size=13, hidden_size=6, intermediate_size=10, num_hidden_layers=2, num_attention_heads=4)
CONFIG |= dict(num_key_value_heads=2, head_dim=4, max_position_embeddings=16, rope_theta=100.0, rms_norm_eps=1e-5)
LLAMA3 = dict(rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0)
YARN = dict(rope_type="yarn", factor=2.0, beta_fast=2.0)
KINDS = {
    "llama": dict(model_type="llama"),
    "llama-tied": dict(model_type="llama", tie_word_embeddings=True),
    "llama-3.1": dict(model_type="llama", rope_scaling={**LLAMA3, "original_max_position_embeddings": 8}),
    "mistral": dict(model_type="mistral", sliding_window=3),
    "qwen2": dict(model_type="qwen2", use_sliding_window=True, sliding_window=2, max_window_layers=1),
    "qwen3": dict(model_type="qwen3"),
    "llama-yarn": dict(model_type="llama", rope_scaling={**YARN, "original_max_position_embeddings": 8}),
    "gemma": dict(model_type="gemma", tie_word_embeddings=True),
    "gemma2": dict(
        model_type="gemma2",
        tie_word_embeddings=True,
        sliding_window=2,
        query_pre_attn_scalar=5,
        attn_logit_softcapping=1.0,
    ),
    "gemma3": dict(
        model_type="gemma3_text",
        tie_word_embeddings=True,
        sliding_window=2,
        sliding_window_pattern=2,
        query_pre_attn_scalar=7,
    ),
    "phi3": dict(model_type="phi3", sliding_window=3),
    "gpt2": dict(model_type="gpt2", n_layer=2, n_embd=6, n_head=2, n_positions=16, layer_norm_epsilon=1e-5, n_inner=10),
}

BERT = dict(model_type="bert", num_attention_heads=2, layer_norm_eps=1e-5, pad_token_id=None)
ENCODERS = {"bert": BERT, "bert-old": BERT, "bert-bare": BERT}
WORDS = "0123456789xyz"
TEMPLATE = """\
{% for message in messages %}
{{ 'x' if message['role'] == 'user' else 'y' }} {{ message['content'] }} {{ eos_token }}
{% endfor %}
{% if add_generation_prompt %}
y {% endif %}"""
CLASSES = ("no", "maybe", "yes")


def tensors(kind, dtype="float64", seed=0):
    """{name: array} of a random checkpoint."""
    config, rng = {**CONFIG, **(KINDS | ENCODERS)[kind]}, np.random.default_rng(seed)
    if kind == "gpt2" or kind in ENCODERS:
        shapes = _gpt2(config) if kind == "gpt2" else _bert(config, kind)
        return {n: (0.5 * rng.standard_normal(shape)).astype(dtype) for n, shape in shapes.items()}
    C, F, V = (config[name] for name in ("hidden_size", "intermediate_size", "vocab_size"))
    H, G = (config[name] * config["head_dim"] for name in ("num_attention_heads", "num_key_value_heads"))
    linear = {"self_attn.q_proj": (H, C), "self_attn.k_proj": (G, C), "self_attn.v_proj": (G, C)}
    linear |= {"mlp.gate_proj": (F, C), "mlp.up_proj": (F, C)}
    if kind == "phi3":
        linear = {"self_attn.qkv_proj": (H + 2 * G, C), "mlp.gate_up_proj": (2 * F, C)}
    linear |= {"self_attn.o_proj": (C, H), "mlp.down_proj": (C, F)}
    shapes = {"model.embed_tokens.weight": (V, C), "model.norm.weight": (C,)}
    shapes |= {} if config.get("tie_word_embeddings") else {"lm_head.weight": (V, C)}
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}."
        shapes |= {f"{at}{name}.weight": shape for name, shape in linear.items()}
        shapes |= {f"{at}{name}.weight": (C,) for name in ("input_layernorm", "post_attention_layernorm")}
        if kind == "qwen2":
            shapes |= {f"{at}self_attn.{name}_proj.bias": linear[f"self_attn.{name}_proj"][:1] for name in "qkv"}
        if kind in ("gemma2", "gemma3"):
            shapes |= {f"{at}{name}_feedforward_layernorm.weight": (C,) for name in ("pre", "post")}
        if kind in ("qwen3", "gemma3"):
            shapes |= {f"{at}self_attn.{name}_norm.weight": (config["head_dim"],) for name in "qk"}
    return {name: (0.5 * rng.standard_normal(shape)).astype(dtype) for name, shape in shapes.items()}


def _gpt2(config):
    """Linear weights are (in, out), and names as in the oldest checkpoints, without "transformer."."""
    C, F, V = config["n_embd"], config["n_inner"], config["vocab_size"]
    linear = {"attn.c_attn": (C, 3 * C), "attn.c_proj": (C, C), "mlp.c_fc": (C, F), "mlp.c_proj": (F, C)}
    shapes = {"wte.weight": (V, C), "wpe.weight": (config["n_positions"], C)}
    for i in range(config["n_layer"]):
        for name, shape in linear.items():
            shapes |= {f"h.{i}.{name}.weight": shape, f"h.{i}.{name}.bias": shape[1:]}
        shapes |= {f"h.{i}.{name}.{part}": (C,) for name in ("ln_1", "ln_2") for part in ("weight", "bias")}
    return shapes | {"ln_f.weight": (C,), "ln_f.bias": (C,)}


def _bert(config, kind):
    """With a head of another task, which is left. Old: with its first names for norms; bare: without "bert."."""
    C, F, V = (config[name] for name in ("hidden_size", "intermediate_size", "vocab_size"))
    linear = {f"attention.self.{name}": (C, C) for name in ("query", "key", "value")}
    linear |= {"attention.output.dense": (C, C), "intermediate.dense": (F, C), "output.dense": (C, F)}
    paths = {f"encoder.layer.{i}.{name}": s for i in range(config["num_hidden_layers"]) for name, s in linear.items()}
    paths["pooler.dense"] = (C, C)
    rows = {"word": V, "position": config["max_position_embeddings"], "token_type": 2}
    shapes = {f"embeddings.{name}_embeddings.weight": (n, C) for name, n in rows.items()}
    for path, shape in paths.items():
        shapes |= {f"{path}.weight": shape, f"{path}.bias": shape[:1]}
    norms = ["embeddings", *(path.removesuffix(".dense") for path in paths if path.endswith("output.dense"))]
    shapes |= {f"{path}.LayerNorm.{name}": (C,) for path in norms for name in _NORM[kind == "bert-old"]}
    return (
        shapes if kind == "bert-bare" else {f"bert.{n}": s for n, s in shapes.items()} | {"cls.predictions.bias": (V,)}
    )


_NORM = ("weight", "bias"), ("gamma", "beta")


def folder(path, kind="llama", dtype="float64", change=None, **config):
    """A model's folder. change: what is done to the tensors first."""
    path.mkdir(parents=True, exist_ok=True)
    arrays = tensors(kind, dtype)
    if change is not None:
        change(arrays)
    save_file(arrays, path / "model.safetensors", {"format": "pt"})
    (path / "config.json").write_text(json.dumps({**CONFIG, **(KINDS | ENCODERS)[kind], **config}))
    return path


def with_tokenizer(path, **about):
    """The folder with a tokenizer of its 13 words, digits and x, y, z, and a template for conversations: the user is x,
    the assistant y, and z ends a turn. about: more for tokenizer_config.json."""
    import tokenizers

    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="x"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE, "eos_token": "z", **about}))
    return path


def tokens(seed=0, T=5):
    """Repeated tokens, padding and ignored labels: (tokens, labels, key_mask)."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, CONFIG["vocab_size"], (2, T))
    ids[0, 1] = ids[0, 0]
    mask = np.arange(T) < np.array([[T], [T - 2]])
    labels = np.where(mask, ids, -100)
    labels[0, 2] = -100
    return ids, labels, mask


def texts(seed=0, T=5):
    """Texts of several lengths and their classes, one of which does not count: (tokens, labels, key_mask)."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, CONFIG["vocab_size"], (4, T))
    ids[0, 1] = ids[0, 0]
    return ids, np.array([2, 0, -100, 1]), np.arange(T) < np.array([[T], [T - 2], [T - 1], [1]])


def pooled_by_mean(path):
    """Say in a model's folder, as sentence-transformers does, that the mean of its tokens is what it gives."""
    (path / "1_Pooling").mkdir()
    (path / "1_Pooling" / "config.json").write_text(
        '{"pooling_mode_cls_token": false, "pooling_mode_mean_tokens": true}'
    )
    return path
