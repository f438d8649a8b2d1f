"""NaN and infinities in what is read, and in what is about to be written: refused at every door, with their place."""

import json

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes
from light import light
from models import tiny, tiny_gguf
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from npl_lora.adapters import LoRAConfig, files
from npl_lora.cli import main
from npl_lora.lora.optimizers import AdamWState
from npl_lora.models import ModelError, load
from npl_lora.support.finite import describe_first_nonfinite, describe_nonfinite, is_finite
from npl_lora.training import checkpoint
from npl_lora.training.step import State

UP, NORM = "model.layers.1.mlp.up_proj.weight", "model.norm.weight"
A, B = (f"model.layers.0.self_attn.q_proj.lora_{name}.weight" for name in "AB")
DOORS = ("train", "generate", "eval", "merge")
LATER = "model.layers.1.self_attn.v_proj.lora_B.weight"


@pytest.fixture
def place(tmp_path):
    """A folder with a model, an adapter and a text."""
    model = tiny.with_tokenizer(tiny.folder(tmp_path / "model", dtype="float32", eos_token_id=12))
    config = LoRAConfig(r=2, lora_alpha=3, init_lora_weights=False, modules_to_save=["lm_head"])
    files.save(load(model).attach(config, rng=0), tmp_path / "adapter")
    (tmp_path / "text.txt").write_text("1 2 3 4 5 6 7 8 9 x y z " * 6)
    return tmp_path


def words(door, place, adapter=True, model="model"):
    """The command line of a door."""
    at = {name: str(place / name) for name in ("adapter", "text.txt", "out")}
    more = ["--adapter", at["adapter"]] if adapter else []
    return {
        "generate": ["generate", str(place / model), "1 2", "--tokens", "2", *more],
        "eval": ["eval", str(place / model), at["text.txt"], "--length", "8", *more],
        "merge": ["merge", str(place / model), "--adapter", at["adapter"], "--out", at["out"]],
        "train": ["train", str(place / model), at["text.txt"], "--out", at["out"], "--length", "8", "--steps", "2"],
    }[door]


def change(path, name, where, value, dtype=None):
    """Put a value into a tensor of a file, where None means everywhere."""
    with safe_open(path, "np") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    tensors[name] = np.array(tensors[name], dtype)
    tensors[name][... if where is None else where] = value
    save_file(tensors, path, metadata)


@pytest.mark.parametrize(("door", "coded"), light([*((d, False) for d in DOORS), *((d, True) for d in DOORS)], 5))
def test_a_base_is_refused_before_anything_is_done(place, capsys, door, coded):
    change(place / "model" / "model.safetensors", UP, (2, 3), -np.inf)
    change(place / "model" / "model.safetensors", NORM, None, np.nan)
    more = ["--coded"] if coded and door != "merge" else []
    assert main([*words(door, place), *more]) == 2
    found = capsys.readouterr()
    file = place / "model" / "model.safetensors"
    sentence = f"npl-lora: {file}: {UP} is not finite at [2, 3]: -inf (1 of 60 numbers); so is 1 more tensor"
    assert found.err.splitlines()[-1] == sentence
    assert not found.out
    assert not (place / "out").exists()


@pytest.mark.parametrize("value", light([np.nan, -np.inf]))
@pytest.mark.parametrize("door", DOORS[1:])
def test_a_factor_is_refused(place, capsys, door, value):
    path = place / "adapter" / files.TENSORS
    change(path, f"base_model.model.{B}", (3, 1), value)
    change(path, f"base_model.model.{LATER}", None, value)
    change(path, "base_model.model.lm_head.weight", None, value)
    assert main(words(door, place)) == 2
    found = capsys.readouterr()
    assert f"{path}: {B} is not finite at [3, 1]: {value} (1 of 32 numbers); so are 2 more tensors" in found.err
    assert not found.out
    assert not (place / "out").exists()


def test_a_module_that_was_trained_in_full(place, capsys):
    change(place / "adapter" / files.TENSORS, "base_model.model.lm_head.weight", (12, 5), np.inf)
    assert main(words("eval", place)) == 2
    assert "lm_head.weight is not finite at [12, 5]: inf (1 of 78 numbers)" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["parameter", "m", "v"])
def test_a_checkpoint_is_refused(place, part):
    adapter, path = load(place / "model").attach(LoRAConfig(r=2), rng=0), place / "checkpoint"
    means = {n: AdamWState(p, p, 4) for n, p in adapter.parameters.items()}
    checkpoint.save(path, State(adapter, means, 4, 8), {})
    assert checkpoint.load(path, adapter, {}).step == 4
    change(path, f"{part} {B}", (5, 1), np.inf)
    with pytest.raises(checkpoint.CheckpointError) as caught:
        checkpoint.load(path, adapter, {})
    sentence = f"{path} cannot be used: it is broken: {part} {B} is not finite at [5, 1]: inf (1 of 32 numbers)"
    assert str(caught.value) == sentence
    assert checkpoint.load(path, adapter, {}, allow_nonfinite=True).step == 4


@pytest.mark.slow
@pytest.mark.parametrize("part", ["parameter", "m", "v"])
def test_resume_refuses_a_checkpoint(place, capsys, part):
    train = [*words("train", place), "--every", "1", "--lr", "0.1"]
    assert main(train) == 0
    path = place / "out" / "checkpoint.safetensors"
    change(path, f"{part} {A}", (1, 4), np.nan)
    before = path.read_bytes()
    assert main([*train, "--resume"]) == 2
    sentence = f"cannot be used: it is broken: {part} {A} is not finite at [1, 4]: nan (1 of 48 numbers)"
    assert sentence in capsys.readouterr().err
    assert path.read_bytes() == before
    assert main([*train, "--resume", "--allow-nonfinite"]) == (1 if part == "parameter" else 0)  # all steps are taken


@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16, "float64"])
def test_other_dtypes(place, dtype):
    def broken(arrays):
        arrays[NORM][4] = np.nan

    model = load(tiny.folder(place / "other", dtype=dtype, change=broken))
    with pytest.raises(ModelError, match=rf"{NORM} is not finite at \[4\]: nan \(1 of 6 numbers\)"):
        model.decode()


def test_numbers_that_only_their_own_dtype_can_hold(place, capsys):
    def large(arrays):
        arrays[UP][7, 1:3] = 1e300, -1e200

    tiny.folder(place / "model", dtype="float64", change=large)
    assert main(words("eval", place, adapter=False)) == 2
    assert f"{UP} is too large for float32 at [7, 1]: 1e+300 (2 of 60 numbers)" in capsys.readouterr().err
    assert is_finite(load(place / "model", np.float64).base[UP])
    tiny.folder(place / "model", dtype="float32")
    change(place / "adapter" / files.TENSORS, f"base_model.model.{B}", (0, 1), 1e40, np.float64)
    assert main(words("eval", place)) == 2
    assert f"{B} is too large for float32 at [0, 1]: 1e+40 (1 of 32 numbers)" in capsys.readouterr().err
    assert load(place / "model", np.float64).load_adapter(place / "adapter").parameters[B][0, 1] == 1e40


@pytest.mark.parametrize(
    ("kind", "stored", "name"),
    [
        ("gpt2", "h.1.mlp.c_fc.weight", "transformer.h.1.mlp.c_fc.weight (h.1.mlp.c_fc.weight in the file)"),
        ("llama", UP, UP),
    ],
)
def test_a_tensor_has_its_name_in_the_model_and_in_the_file(tmp_path, kind, stored, name):
    model = load(tiny.folder(tmp_path, kind, change=lambda arrays: arrays[stored].fill(np.inf)))
    with pytest.raises(ModelError) as caught:
        model.check()
    assert f": {name} is not finite at [0, 0]: inf (60 of 60 numbers)" in str(caught.value)


def test_a_shard_is_named(tmp_path):
    arrays = tiny.tensors("llama", "float32")
    arrays[UP][9, 5] = np.nan
    tiny.folder(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    shards = {name: f"model-{i % 2}.safetensors" for i, name in enumerate(arrays)}
    for shard in set(shards.values()):
        save_file({name: arrays[name] for name in arrays if shards[name] == shard}, tmp_path / shard)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(ModelError) as caught:
        load(tmp_path).decode()
    assert str(caught.value).startswith(f"{tmp_path / shards[UP]}: {UP} is not finite at [9, 5]: nan")


@pytest.mark.parametrize("door", light(["eval", "generate", "train"]))
def test_a_gguf_file(place, capsys, door):
    tiny_gguf.written(place / "model.gguf", lambda arrays: arrays[UP].__setitem__((0, 2), np.nan))
    assert main(words(door, place, adapter=False, model="model.gguf")) == 2
    name = f"{UP} (blk.1.ffn_up.weight in the file)"
    assert f"model.gguf: {name} is not finite at [0, 2]: nan (1 of 60 numbers)" in capsys.readouterr().err


def test_a_tensor_that_the_model_does_not_use_may_be_anything(place):
    tensors = load_file(place / "model" / "model.safetensors")
    save_file({**tensors, "model.layers.0.mask": np.full(3, -np.inf)}, place / "model" / "model.safetensors")
    assert main(words("eval", place)) == 0


@pytest.mark.parametrize("door", light([*DOORS[::-1]], 2))
def test_those_who_insist(place, door):
    """A row of the embedding that no text here has."""
    change(place / "model" / "model.safetensors", "model.embed_tokens.weight", (0, 2), np.nan)
    assert main(words(door, place, adapter=False)) == 2
    assert main([*words(door, place, adapter=False), "--allow-nonfinite"]) == 0
    if door == "merge":
        merged = load_file(place / "out" / "model.safetensors")
        assert [n for n, array in merged.items() if not is_finite(array)] == ["model.embed_tokens.weight"]


@pytest.mark.parametrize(
    ("dtype", "factor", "problem"),
    [
        ("float32", 1e25, "not finite at [0, 0]: inf (96 of 96 numbers)"),
        ("float16", 1e3, "too large for float16 at [0, 0]: 3e+06 (96 of 96 numbers)"),
        ("bfloat16", 1e25, "not finite at [0, 0]: inf (96 of 96 numbers)"),
    ],
)
def test_merge_refuses_a_weight_that_came_out_not_finite(place, capsys, dtype, factor, problem):
    """W + s B A with s = 1.5, r = 2 and W = 0: finite factors, and a product that is not, or is too large."""
    path, words_ = place / "adapter" / files.TENSORS, [*words("merge", place), "--dtype", dtype]
    with np.errstate(over="ignore"):
        change(place / "model" / "model.safetensors", "model.layers.0.self_attn.q_proj.weight", None, 0)
        for name in (A, B):
            change(path, f"base_model.model.{name}", None, factor)
    if dtype == "float16":
        change(path, f"base_model.model.{A}", None, 1e3)
    assert main([*words_]) == 2
    assert f"nothing is written: model.layers.0.self_attn.q_proj.weight is {problem}" in capsys.readouterr().err
    assert not (place / "out").exists()
    assert not list(place.glob(".*"))
    assert main([*words_, "--allow-nonfinite"]) == 0
    found = load_file(place / "out" / "model.safetensors")["model.layers.0.self_attn.q_proj.weight"]
    assert np.isinf(found.astype(np.float32)).all()


@pytest.mark.parametrize("temperature", ["0", "1"])
def test_generate_ends_where_the_logits_are_not_finite(place, capsys, temperature):
    """All factors are finite, but their products are not: no token can be chosen."""
    for name in (A, B):
        change(place / "adapter" / files.TENSORS, f"base_model.model.{name}", None, 1e30)
    assert main([*words("generate", place), "--temperature", temperature]) == 1
    found = capsys.readouterr()
    where = "first in lora_linear at model.layers.0.self_attn.q_proj"
    assert found.err == f"npl-lora: the logits of new token 1 are not finite: {where}\n"
    assert not found.out


@settings(max_examples=15)
@given(data=st.data(), shape=array_shapes(min_dims=0, max_dims=3, max_side=4))
def test_the_first_place_and_the_count_are_right(data, shape):
    rng, size = np.random.default_rng(0), int(np.prod(shape))
    array = rng.standard_normal(shape)
    places = sorted(data.draw(st.sets(st.integers(0, size - 1), min_size=1)))
    values = [data.draw(st.sampled_from([np.nan, np.inf, -np.inf])) for _ in places]
    broken = array.copy()
    broken.reshape(-1)[places] = values
    where = [int(i) for i in np.unravel_index(places[0], shape)]
    right = f"x is not finite at {where}: {values[0]:g} ({len(places)} of {size} numbers)"
    assert describe_nonfinite("x", broken, broken) == right
    assert describe_first_nonfinite({"a": array, "x": broken}, {"a": array, "x": broken}) == right
    assert describe_first_nonfinite({"a": array}, {"a": array}) == ""
    assert is_finite(array)
