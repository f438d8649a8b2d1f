"""Several adapters as one: cat is the exact sum, svd the nearest of its rank, linear PEFT's; files and loaded ones."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from models import tiny
from safetensors.numpy import load_file, save_file

from npl_lora import ops
from npl_lora.adapters import AdapterError, LoRA, LoRAConfig, files
from npl_lora.adapters.combination import WAYS, combine, combine_loaded, error, read_layers
from npl_lora.cli import main
from npl_lora.lora.low_rank import amplification
from npl_lora.models import load

FIRST = LoRAConfig(r=3, lora_alpha=5, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
OTHER = LoRAConfig(
    r=2,
    lora_alpha=7,
    use_rslora=True,
    target_modules=["v_proj", "down_proj", "embed_tokens"],
    alpha_pattern={"down_proj": 3},
    init_lora_weights=False,
)
WEIGHTS = (0.7, -1.5)


@pytest.fixture
def model(tmp_path):
    return load(tiny.with_tokenizer(tiny.folder(tmp_path / "model")), np.float64)


@pytest.fixture
def folders(model, tmp_path):
    for name, config, seed in (("a", FIRST, 0), ("b", OTHER, 1)):
        files.save(model.attach(config, rng=seed), tmp_path / name)
    return [tmp_path / "a", tmp_path / "b"]


def exact(model, folders, weights=WEIGHTS):
    """{path: delta}, by the op."""
    adapters = [model.load_adapter(folder) for folder in folders]
    deltas = {}
    for path in {path for adapter in adapters for path in adapter.places}:
        having = [(a, w) for a, w in zip(adapters, weights, strict=True) if path in a.places]
        factors = {}
        for i, (a, _) in enumerate(having, 1):
            factors |= {f"A_{i}": a.parameters[a.places[path].A], f"B_{i}": a.parameters[a.places[path].B]}
        scales = [a.places[path].scale for a, _ in having]
        deltas[path], _ = ops.combine(weights=[w for _, w in having], scales=scales, **factors)
    return deltas


def change(adapter, path):
    place = adapter.places[path]
    A, B = (adapter.parameters[name].astype(np.float64) for name in (place.A, place.B))
    return place.scale * B @ A


def test_cat_is_the_sum_that_the_op_computes(model, folders, tmp_path):
    layers = read_layers(folders, WEIGHTS)
    files.save(combine(layers, "cat", FIRST), tmp_path / "new")
    new, deltas = model.load_adapter(tmp_path / "new"), exact(model, folders)
    assert set(new.places) == set(deltas)
    for path, delta in deltas.items():
        # A and B were rounded to float32, each product by 2 u of its terms, of which there are at most 5
        np.testing.assert_allclose(change(new, path), delta, rtol=0, atol=2**-22 * 5 * 3 * np.abs(delta).max())
    assert {path: new.parameters[place.A].shape[0] for path, place in new.places.items()} == {
        path: 5 if "v_proj" in path else 3 if "q_proj" in path else 2 for path in deltas
    }


@pytest.mark.parametrize("rank", [None, 1, 4])
def test_svd_leaves_out_the_smallest_singular_values(model, folders, rank):
    layers = read_layers(folders, WEIGHTS)
    new, off, total = combine(layers, "svd", FIRST, rank), 0.0, 0.0
    for path, delta in exact(model, folders).items():
        kept = new.parameters[new.places[path].A].shape[0]
        S = np.linalg.svd(delta, compute_uv=False)
        off, total = off + np.sum(S[kept:] ** 2), total + np.sum(S**2)
        assert kept == (min(rank, 5 if "v_proj" in path else 3 if "q_proj" in path else 2) if rank else min(3, kept))
    assert np.isclose(error(layers, new), np.sqrt(off / total), rtol=1e-6)


def test_the_error_is_that_of_the_whole_matrices(model, folders):
    same = [folders[0], folders[0]]
    layers = read_layers(same, WEIGHTS)
    for way in WAYS:
        new, deltas = combine(layers, way, FIRST, 2), exact(model, same)
        off = sum(np.sum((change(new, path) - delta) ** 2) for path, delta in deltas.items())
        total = sum(np.sum(delta**2) for delta in deltas.values())
        assert np.isclose(error(layers, new), np.sqrt(off / total), rtol=1e-6, atol=1e-15), way


def test_linear_needs_equal_ranks_and_has_the_cross_terms(model, folders, tmp_path):
    with pytest.raises(AdapterError, match=r"linear needs equal ranks, and .*v_proj has 3, 2: take cat or svd"):
        combine(read_layers(folders, WEIGHTS), "linear", FIRST)
    files.save(model.attach(FIRST, rng=5), tmp_path / "c")
    new = combine(read_layers([folders[0], tmp_path / "c"], WEIGHTS), "linear", FIRST)
    a, c = (model.load_adapter(tmp_path / name).parameters for name in "ac")
    s = [abs(w) * 5 / 3 for w in WEIGHTS]
    for place in new.places.values():
        A = s[0] ** 0.5 * a[place.A] - s[1] ** 0.5 * c[place.A]
        B = s[0] ** 0.5 * a[place.B] + s[1] ** 0.5 * c[place.B]
        np.testing.assert_allclose(new.parameters[place.A], A, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(new.parameters[place.B], B, rtol=1e-6, atol=1e-7)


def test_a_sum_of_loaded_adapters_merges_as_their_changes_do(model, folders, tmp_path):
    """Also of biases and modules that are trained in full: their changes are added up."""
    in_full = replace(FIRST, modules_to_save=("lm_head",))
    full = model.attach(in_full, rng=3)
    name = "lm_head.weight"
    full = full.with_parameters({**full.parameters, name: full.parameters[name] + 1.0})
    adapters = [model.load_adapter(folder) for folder in folders] + [full]
    new = combine_loaded(adapters, [*WEIGHTS, 0.25], model.base)
    merged = model.merged(new)
    for tensor in model.base:
        delta = sum(
            w * (model.merged(a).base[tensor] - model.base[tensor])
            for a, w in zip(adapters, [*WEIGHTS, 0.25], strict=True)
        )
        np.testing.assert_allclose(merged.base[tensor], model.base[tensor] + delta, rtol=0, atol=1e-13)


def test_what_is_no_sum_is_refused(model, folders):
    plain = model.load_adapter(folders[0])
    trained = plain.with_parameters({**plain.parameters, "score.weight": np.ones((2, 6))})
    large = plain.with_parameters({**plain.parameters, "lm_head.weight": np.ones((14, 6))})
    frozen = LoRA(FIRST, plain.parameters, plain.places, {"model.norm.weight": np.ones(6)})
    dora = model.attach(replace(FIRST, use_dora=True), rng=0)
    for other, says in (
        (trained, r"score\.weight is the adapter's own, and cannot be added up"),
        (frozen, r"model\.norm\.weight is the adapter's own, and cannot be added up"),
        (large, r"lm_head\.weight has another shape than the model's"),
        (dora, r"q_proj has .*lora_magnitude_vector.* beside A and B, and cannot be added up"),
    ):
        with pytest.raises(AdapterError, match=says):
            combine_loaded([plain, other], WEIGHTS, model.base)


def test_the_command_prints_all_errors_and_writes_one(folders, tmp_path, capsys):
    words = ["combine", f"{folders[0]}:0.7", f"{folders[1]}:-1.5", "--out"]
    assert main([*words, str(tmp_path / "new"), "--way", "svd", "--svd-rank", "2"]) == 0
    out = capsys.readouterr().out
    layers = read_layers(folders, WEIGHTS)
    assert f"svd     rank 2     error {error(layers, combine(layers, 'svd', FIRST, 2)):.2g}\n" in out
    assert "linear  linear needs equal ranks, and" in out
    assert json.loads((tmp_path / "new" / files.CONFIG).read_text())["r"] == 2
    assert main([*words, str(tmp_path / "new")]) == 2
    assert "is there already, and is not written over" in capsys.readouterr().err


def test_generate_eval_and_merge_take_several(model, folders, tmp_path, capsys):
    both = ["--adapter", f"{folders[0]}:0.7", "--adapter", f"{folders[1]}:-1.5"]
    assert main(["combine", f"{folders[0]}:0.7", f"{folders[1]}:-1.5", "--out", str(tmp_path / "new")]) == 0
    (tmp_path / "text.txt").write_text("1 2 3 4 5 6 7 8 9 0 1 2 3")
    shown = {}
    for name, chosen in (("sum", both), ("file", ["--adapter", str(tmp_path / "new")]), ("none", [])):
        figures, merged = tmp_path / f"{name}.json", tmp_path / f"{name}.merged"
        folder, text = str(tmp_path / "model"), str(tmp_path / "text.txt")
        assert main(["eval", folder, text, "--length", "6", "--json", str(figures), *chosen]) == 0
        capsys.readouterr()
        assert main(["generate", folder, "1 2", "--tokens", "5", *chosen]) == 0
        shown[name] = (json.loads(figures.read_text())["loss"], capsys.readouterr().out)
        if chosen:
            assert main(["merge", folder, "--out", str(merged), *chosen]) == 0
    assert np.isclose(shown["sum"][0], shown["file"][0], rtol=1e-5)  # float32
    assert shown["sum"][1] == shown["file"][1]
    assert not np.isclose(shown["sum"][0], shown["none"][0], rtol=1e-3)
    one, other = (load_file(tmp_path / f"{name}.merged" / "model.safetensors") for name in ("sum", "file"))
    for name, array in one.items():
        np.testing.assert_allclose(array, other[name], rtol=0, atol=1e-5)
    assert json.loads((tmp_path / "sum.json").read_text())["adapter"] == f"{folders[0]}:0.7 {folders[1]}:-1.5"


def test_a_folder_whose_name_ends_like_a_weight_is_taken_as_it_is(model, tmp_path, capsys):
    files.save(model.attach(FIRST, rng=0), tmp_path / "run:2")
    assert main(["combine", str(tmp_path / "run:2"), "--out", str(tmp_path / "new")]) == 0
    assert read_layers([tmp_path / "run:2"], [1.0]).keys() == read_layers([tmp_path / "new"], [1.0]).keys()


def test_factors_of_a_changed_base_are_refused(folders):
    path = folders[1] / files.CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), "init_lora_weights": "pissa_niter_4"}))
    with pytest.raises(AdapterError, match=r"b/adapter_config\.json: init_lora_weights is 'pissa_niter_4', which also"):
        read_layers(folders, WEIGHTS)


def test_a_pattern_that_is_no_regular_expression_is_named_with_its_file(folders):
    path = folders[0] / files.CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), "rank_pattern": {"(v": 2}}))
    with pytest.raises(AdapterError, match=r"a/adapter_config\.json: .* is no regular expression"):
        read_layers(folders, WEIGHTS)


def broken(folder, **more):
    save_file({**load_file(folder / files.TENSORS), **more}, folder / files.TENSORS)


Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({f"{Q}.lora_A.weight": np.full((3, 6), np.inf)}, "q_proj.lora_A.weight is not finite at [0, 0]: inf"),
        ({f"{Q}.lora_A.weight": np.ones((4, 6))}, "has A (4, 6) and B (16, 3), expected (r, in) and (out, r)"),
        ({f"{Q}.lora_A.weight": np.ones((3, 6), int)}, "q_proj has dtype int64, expected a floating dtype"),
        ({f"{Q}.lora_A.weight": np.full((3, 6), 3e38)}, "nothing is written: model.layers.0.self_attn.q_proj.lora_A"),
        ({"base_model.model.model.norm.weight": np.ones(6)}, "has model.norm.weight, and only A and B can be combined"),
        ({f"{Q}.lora_magnitude_vector": np.ones(16)}, "lora_magnitude_vector, and only A and B can be combined"),
    ],
)
def test_what_has_no_sum_is_refused(folders, more, says, tmp_path, capsys):
    broken(folders[0], **more)
    assert main(["combine", *map(str, folders), "--out", str(tmp_path / "new")]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_adapters_of_different_models_are_refused(model, folders, tmp_path):
    wide = load(tiny.folder(tmp_path / "wide", "qwen2"))
    other = wide.attach(FIRST, rng=0)
    place = other.places["model.layers.0.self_attn.q_proj"]
    files.save(other.with_parameters({**other.parameters, place.A: np.ones((3, 7))}), tmp_path / "other")
    with pytest.raises(AdapterError, match=r"other model: .*q_proj is \(16, 7\) there, \(16, 6\) in the first"):
        read_layers([folders[0], tmp_path / "other"], WEIGHTS)
    tensors = load_file(tmp_path / "other" / files.TENSORS)
    save_file({k: v for k, v in tensors.items() if "lora_B" not in k}, tmp_path / "other" / files.TENSORS)
    with pytest.raises(AdapterError, match="lacks B of"):
        read_layers([tmp_path / "other"], [1.0])


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("way", WAYS)
def test_peft_combines_and_loads_the_same(kind, way, tmp_path, monkeypatch):
    """PEFT keeps weights in float32, and so do the files written here."""
    monkeypatch.setitem(sys.modules, "torchao", None)  # see models/conftest.py
    import peft
    import torch
    import transformers

    folder = tiny.folder(
        tmp_path / "model", kind, **({"num_attention_heads": 2} if kind == "gpt2" else {"hidden_size": 8})
    )
    targets = ["c_attn", "c_fc"] if kind == "gpt2" else ["q_proj", "down_proj"]
    about = transformers.AutoConfig.from_pretrained(folder)
    torch.manual_seed(0)
    base = transformers.AutoModelForCausalLM.from_config(about)
    for name, alpha in (("a", 5), ("b", 2)):
        made = transformers.AutoModelForCausalLM.from_config(about)
        lora = dict(r=3, lora_alpha=alpha, target_modules=targets, fan_in_fan_out=kind == "gpt2")
        peft.get_peft_model(made, peft.LoraConfig(**lora, init_lora_weights=False)).save_pretrained(tmp_path / name)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "a", adapter_name="a")
    theirs.load_adapter(tmp_path / "b", adapter_name="b")
    theirs.add_weighted_adapter(["a", "b"], list(WEIGHTS), "sum", combination_type=way, svd_rank=2)
    words = ["combine", f"{tmp_path / 'a'}:{WEIGHTS[0]}", f"{tmp_path / 'b'}:{WEIGHTS[1]}", "--svd-rank", "2"]
    assert main([*words, "--way", way, "--out", str(tmp_path / "new")]) == 0
    theirs.load_adapter(tmp_path / "new", adapter_name="ours")
    layers = [m for m in theirs.base_model.model.modules() if hasattr(m, "get_delta_weight")]
    assert len(layers) == 4
    for layer in layers:
        delta = {name: layer.get_delta_weight(name).detach().double().numpy() for name in ("a", "b", "sum", "ours")}
        roots = {name: abs(w * layer.scaling[name]) ** 0.5 for name, w in zip("ab", WEIGHTS, strict=True)}
        A, B = (
            sum(root * float(getattr(layer, which)[name].weight.norm()) for name, root in roots.items())
            for which in ("lora_A", "lora_B")
        )
        exact = WEIGHTS[0] * delta["a"] + WEIGHTS[1] * delta["b"]
        moved = amplification(np.linalg.svd(exact, compute_uv=False), 2) if way == "svd" else 1.0
        # Both sides round two factors, weights and one product to float32, and PEFT decomposes in float32: each is off
        # by u = 2^-24 times the size of the terms, the decomposition by the order of the matrix, at most 18, times u.
        np.testing.assert_allclose(delta["ours"], delta["sum"], rtol=0, atol=(8 + 18) * 2**-24 * A * B * moved)
        assert np.abs(delta["ours"] - delta["a"]).max() > 1e-2 * A * B
