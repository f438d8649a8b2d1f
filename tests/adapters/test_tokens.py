"""trainable_token_indices: the model with these rows in its table gives the same."""

import json

import numpy as np
import pytest
from models import tiny

from npl_lora.adapters import AdapterError, ConfigError, LoRAConfig, files
from npl_lora.models import load

IDS, LABELS, MASK = tiny.tokens()
TABLE = "model.embed_tokens"
CASES = {
    "listed": ("llama", [12, int(IDS[0, 0]), 3]),
    "tied": ("llama-tied", [int(IDS[0, 0]), 7]),
    "both": ("llama", {"embed_tokens": [int(IDS[0, 0])], "lm_head": [2, 9]}),
    "tied-both": ("llama-tied", {"embed_tokens": [5, 6], "lm_head": [5, 6]}),
    "tied-head": ("llama-tied", {"lm_head": [5, 6]}),
    "gpt2": ("gpt2", {"wte": [int(IDS[0, 0]), 1], "wpe": [3, 0]}),
}


def attached(folder, kind, indices, **config):
    """A model and a random adapter on it, in float64."""
    model = load(tiny.folder(folder / "model", kind), dtype=np.float64)
    targets = ["c_attn"] if kind == "gpt2" else ["q_proj"]
    config = {"r": 2, "target_modules": targets, "other": {"trainable_token_indices": indices}, **config}
    adapter = model.attach(LoRAConfig(**config), rng=1)
    rng = np.random.default_rng(3)
    drawn = {name: rng.standard_normal(array.shape) for name, array in adapter.parameters.items()}
    return model, adapter.with_parameters(drawn)


@pytest.mark.parametrize("case", CASES)
def test_the_table_that_it_makes(tmp_path, case):
    kind, indices = CASES[case]
    model, adapter = attached(tmp_path, kind, indices)
    by_path = indices if isinstance(indices, dict) else {"embed_tokens": indices}
    written = {}
    for name, rows in by_path.items():
        path = next(path for path in model.modules if path.endswith(name))
        drawn = adapter.parameters.get(f"{path}.token_adapter.trainable_tokens_delta")
        if drawn is not None:
            table = np.array(model.base[model.modules[path].shares or f"{path}.weight"])
            for row, token in zip(
                adapter.parameters[f"{path}.token_adapter.trainable_tokens_delta"], rows, strict=True
            ):
                table[token] = row
            written[f"{path}.weight"] = table
    apart = dict(kind="llama") if case == "tied-head" else dict(kind=kind)
    prefix, tensors = "transformer." if kind == "gpt2" else "", dict(model.base) | written
    tensors = {name.removeprefix(prefix): array for name, array in tensors.items()}
    other = load(tiny.folder(tmp_path / "other", change=lambda found: found.update(tensors), **apart), dtype=np.float64)
    bare = adapter.with_parameters({n: a for n, a in adapter.parameters.items() if "lora" in n})
    bare.rows.clear()
    right, _ = other.logits(IDS, bare)
    np.testing.assert_allclose(model.logits(IDS, adapter)[0], right, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(model.merged(adapter).logits(IDS)[0], right, rtol=1e-12, atol=1e-12)
    files.save(adapter, tmp_path / "adapter")
    read = model.load_adapter(tmp_path / "adapter")
    assert read.rows == adapter.rows
    np.testing.assert_array_equal(model.logits(IDS, read)[0], model.logits(IDS, adapter)[0])


@pytest.mark.parametrize("case", CASES)
def test_gradients_of_the_rows(tmp_path, case):
    """Those of the whole table, trained in full in both of its places, at these rows."""
    kind, indices = CASES[case]
    model, adapter = attached(tmp_path, kind, indices)
    names = [name for name in adapter.parameters if "token_adapter" in name]
    grads = model.loss(IDS, LABELS, adapter, key_mask=MASK)[1](1.0)
    assert grads.keys() == adapter.parameters.keys()
    rng, h = np.random.default_rng(0), 6e-6
    direction = {name: rng.standard_normal(adapter.parameters[name].shape) for name in names}

    def loss(step):
        moved = {name: adapter.parameters[name] + step * direction[name] for name in names}
        return float(model.loss(IDS, LABELS, adapter.with_parameters(adapter.parameters | moved), key_mask=MASK)[0])

    slope = sum(float(np.sum(grads[name] * direction[name])) for name in names)
    assert abs(slope) > 1e-3
    assert abs((loss(h) - loss(-h)) / (2 * h) - slope) < 1e-7 * max(1.0, abs(slope))


def test_a_new_one_changes_nothing(tmp_path):
    model = load(tiny.folder(tmp_path, "llama-tied"), dtype=np.float64)
    adapter = model.attach(LoRAConfig(target_modules=["q_proj"], other={"trainable_token_indices": [4, 2]}), rng=0)
    np.testing.assert_array_equal(model.logits(IDS, adapter)[0], model.logits(IDS)[0])


@pytest.mark.parametrize(
    ("indices", "targets", "sentence"),
    [
        ([13], ["q_proj"], r"has \[13\], expected different tokens from 0 to 12"),
        ([-1], ["q_proj"], "expected different tokens"),
        ([2, 2], ["q_proj"], "expected different tokens"),
        ([True], ["q_proj"], "expected different tokens"),
        ("12", ["q_proj"], "expected different tokens"),
        ({"wte": [1]}, ["q_proj"], "'wte', which is the name of no embedding"),
        ({"q_proj": [1]}, ["k_proj"], "'q_proj', which is the name of no embedding or output layer"),
        ([1], ["embed_tokens"], "trainable_token_indices and target_modules both have model.embed_tokens"),
        ([1], ["lm_head"], "target_modules has lm_head, and trainable_token_indices the table that it shares"),
        ({"embed_tokens": [1], "lm_head": [2]}, ["q_proj"], "has other tokens for lm_head than for model.embed_tokens"),
    ],
)
def test_what_is_refused(tmp_path, indices, targets, sentence):
    model, adapter = attached(tmp_path, "llama-tied", [1])
    with pytest.raises(ConfigError, match=sentence):
        model.attach(LoRAConfig(target_modules=targets, other={"trainable_token_indices": indices}))
    files.save(adapter, tmp_path / "adapter")
    path = tmp_path / "adapter" / files.CONFIG
    fields = json.loads(path.read_text()) | {"trainable_token_indices": indices, "target_modules": targets}
    path.write_text(json.dumps(fields))
    with pytest.raises(AdapterError, match=sentence):
        model.load_adapter(tmp_path / "adapter")
