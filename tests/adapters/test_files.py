"""PEFT's two files: read and written whole, and refused with a sentence that lists what does not fit."""

import json
import signal

import numpy as np
import pytest
from models import tiny
from safetensors.numpy import load_file, save_file

from npl_lora.adapters import AdapterError, ConfigError, LoRAConfig, files
from npl_lora.models import load

CONFIG = LoRAConfig(r=2, lora_alpha=5, target_modules=["q_proj", "down_proj"], other={"of_tomorrow": 3})


@pytest.fixture
def model(tmp_path):
    return load(tiny.folder(tmp_path / "model", "qwen2"))


@pytest.fixture
def saved(tmp_path, model):
    files.save(model.attach(CONFIG, rng=1), tmp_path / "adapter", "somewhere/model")
    return tmp_path / "adapter"


def change(folder, edit):
    """Edit the tensors of a saved adapter."""
    tensors = load_file(folder / files.TENSORS)
    edit(tensors)
    save_file(tensors, folder / files.TENSORS)


FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize("bias", ["none", "all", "lora_only"])
def test_a_round_trip(tmp_path, model, bias):
    config = LoRAConfig(r=2, target_modules=["q_proj"], bias=bias, modules_to_save=["lm_head"], init_lora_weights=False)
    adapter = model.attach(config, rng=1)
    files.save(adapter, tmp_path / "adapter")
    read = model.load_adapter(tmp_path / "adapter")
    assert read.config == adapter.config
    assert read.places == adapter.places
    assert read.parameters.keys() == adapter.parameters.keys()
    assert sum(name.endswith(".bias") for name in read.parameters) == {"none": 0, "all": 6, "lora_only": 2}[bias]
    for name, array in adapter.parameters.items():
        np.testing.assert_array_equal(read.parameters[name], array)


def test_what_peft_writes_three_times_is_read_once(tmp_path, model):
    """With all biases, those of a module that is saved are there as its wrapper's too."""
    config = LoRAConfig(r=2, target_modules=["q_proj"], bias="all", modules_to_save=["k_proj"])
    adapter, name = model.attach(config, rng=1), "model.layers.0.self_attn.k_proj"
    files.save(adapter, tmp_path / "adapter")

    def wrapped(tensors):
        for part in ("modules_to_save", "original_module"):
            tensors[f"base_model.model.{name}.{part}.bias"] = np.ones(8)

    change(tmp_path / "adapter", wrapped)
    read = model.load_adapter(tmp_path / "adapter")
    assert read.parameters.keys() == adapter.parameters.keys()
    np.testing.assert_array_equal(read.parameters[f"{name}.bias"], adapter.parameters[f"{name}.bias"])


def test_a_new_adapter_changes_nothing(model):
    ids = tiny.tokens()[0]
    for init in (True, "gaussian"):
        adapter = model.attach(
            LoRAConfig(r=2, target_modules=["q_proj", "embed_tokens"], init_lora_weights=init), rng=1
        )
        np.testing.assert_array_equal(model.logits(ids, adapter)[0], model.logits(ids)[0])


def test_the_files_say_what_peft_s_do(saved):
    about = json.loads((saved / files.CONFIG).read_text())
    assert about["peft_type"] == "LORA"
    assert about["base_model_name_or_path"] == "somewhere/model"
    assert about["of_tomorrow"] == 3
    assert load_file(saved / files.TENSORS)[FIRST].shape == (2, 6)
    assert sorted(path.name for path in saved.iterdir()) == [files.CONFIG, files.TENSORS]  # nothing left behind


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (lambda t: t.update(foreign=t[FIRST]), "has foreign, which belongs to nothing in the model"),
        (lambda t: t.update({"score.original_module.bias": t[FIRST]}), "has score.original_module.bias, which belongs"),
        (lambda t: t.pop(FIRST), "lacks model.layers.0.self_attn.q_proj.lora_A.weight"),
        (lambda t: [t.pop(name) for name in list(t)[:7]], "and 2 more"),
        (lambda t: t.update({FIRST: t[FIRST].T.copy()}), r"has shape \(6, 2\), expected \(2, 6\)"),
        (lambda t: t.update({FIRST: t[FIRST].astype(np.int8)}), "dtype int8, expected a floating dtype"),
        (
            lambda t: t.update({"base_model.model.model.norm.weight": np.ones(5)}),
            r"norm.weight has shape \(5,\), expected \(6",
        ),
        (lambda t: t.update({"base_model.model.model.norm.weight": np.full(6, np.nan)}), "norm.weight is not finite"),
        (
            lambda t: t.update({FIRST.replace("lora_A.", ""): np.ones((16, 6))}),
            "q_proj.weight, which belongs to nothing",
        ),
    ],
)
def test_tensors_that_do_not_fit(model, saved, edit, sentence):
    change(saved, edit)
    with pytest.raises(AdapterError, match=sentence):
        model.load_adapter(saved)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", "list in JSON"),
        (b'{"r": 0}', "r is 0"),
        (b'{"peft_type": "LOKR"}', "peft_type is 'LOKR'"),
        (b'{"target_modules": ["nothing"]}', "the name of no module"),
        (b'{"use_qalora": true}', "use_qalora is True: not supported here"),
        (
            b'{"use_dora": true, "target_modules": ["embed_tokens"]}',
            "use_dora is true, and model.embed_tokens is an emb",
        ),
        (b'{"lora_bias": true, "target_modules": ["embed_tokens"]}', "lora_bias is true, and model.embed_tokens is an"),
        (b'{"r": 1e999}', "r is inf"),
        (b'{"r": true}', "r is True"),
        (b'{"r": 100000000000000000000}', "r is 100000000000000000000"),
        (b'{"lora_alpha": 1' + b"0" * 400 + b"}", r"lora_alpha is 10+\.\.\., expected a number"),
        (b'{"lora_alpha": NaN}', "lora_alpha is nan"),
        (b'{"bias": "' + b"x" * 9000 + b'"}', r"bias is 'x{1,60}\.\.\., expected one of none"),
        (b'{"target_modules": "("}', "is no regular expression: missing"),
        (b'{"target_modules": "[[a]"}', "leaves no module"),  # which Python warns of
        (b'{"target_modules": ["' + b"x" * 9000 + b'"]}', r"target_modules has 'x{1,60}\.\.\., which is the name"),
        (b'{"target_modules": ["\\u001b[31m"]}', r"target_modules has '\\x1b\[31m', which"),
        (b'{"target_modules": ["q_proj"], "layers_to_transform": [0], "layers_pattern": "(a)?.*"}', "is no number in"),
        (
            b'{"init_lora_weights": "pissa"}',
            "'pissa', which also changed the base .* path_initial_model_for_weight",
        ),
        (b'{"init_lora_weights": "PiSSA_niter_16"}', "'PiSSA_niter_16', which also changed the base"),
        (b'{"init_lora_weights": "olora"}', "'olora', which also changed the base model's weights"),
        (b'{"init_lora_weights": "corda"}', "'corda', which also changed the base model's weights"),
        (b'{"init_lora_weights": "lora_ga"}', "'lora_ga', which also changed the base model's weights"),
        (b'{"init_lora_weights": "loftq"}', "'loftq', which also changed .* give the base model that was saved with"),
        (None, "has no adapter_config.json: expected the folder that PEFT's save_pretrained"),
    ],
)
def test_configurations_that_cannot_be_used(model, saved, text, sentence):
    (saved / files.CONFIG).unlink()
    if text is not None:
        (saved / files.CONFIG).write_bytes(text)
    with pytest.raises(AdapterError, match=sentence):
        model.load_adapter(saved)


def configured(folder, **fields):
    """Change fields of a saved adapter's configuration."""
    path = folder / files.CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def same(first, second):
    assert first.parameters.keys() == second.parameters.keys()
    for name, array in first.parameters.items():
        np.testing.assert_array_equal(second.parameters[name], array)


@pytest.mark.parametrize("init", [True, False, None, "Gaussian", "orthogonal", "eva", "mica"])
def test_an_adapter_loads_whatever_it_was_initialised_with(model, saved, init):
    before = model.load_adapter(saved)
    configured(saved, init_lora_weights=init)
    same(before, model.load_adapter(saved))


@pytest.mark.parametrize("init", ["orthogonal", "eva", None, "pissa"])
def test_a_new_adapter_has_the_inits_that_are_here(model, init):
    with pytest.raises(ConfigError, match="expected true, false or 'gaussian' for a new adapter"):
        model.attach(LoRAConfig(init_lora_weights=init), rng=0)


def test_an_alpha_of_0_loads_and_changes_nothing(model, saved):
    """As in PEFT. Nothing could be learned with it."""
    configured(saved, lora_alpha=0)
    ids = tiny.tokens()[0]
    np.testing.assert_array_equal(model.logits(ids, model.load_adapter(saved))[0], model.logits(ids)[0])
    for fields in (dict(lora_alpha=0), dict(alpha_pattern={"q_proj": 0})):
        with pytest.raises(ConfigError, match="lora_alpha is 0, so the adapter would change nothing"):
            model.attach(LoRAConfig(**fields), rng=0)


@pytest.mark.parametrize(
    "rename",
    [
        lambda key: key.replace(".weight", ".default.weight"),
        lambda key: key.removeprefix("base_model.model."),
        lambda key: key.removeprefix("base_model.model.").replace(".weight", ".default.weight"),
    ],
)
@pytest.mark.parametrize("targets", [["q_proj"], ["embed_tokens", "down_proj"]])
def test_keys_with_the_name_of_the_adapter_or_without_a_prefix(tmp_path, model, rename, targets):
    adapter = model.attach(LoRAConfig(r=2, target_modules=targets, init_lora_weights=False), rng=1)
    files.save(adapter, tmp_path)
    tensors = load_file(tmp_path / files.TENSORS)
    save_file({rename(key): array for key, array in tensors.items()}, tmp_path / files.TENSORS)
    same(adapter, model.load_adapter(tmp_path))


@pytest.mark.parametrize("start", ["module.base_model.model.", "base_model.model._orig_mod.", "base_model."])
def test_keys_that_start_otherwise(model, saved, start):
    tensors = load_file(saved / files.TENSORS)
    other = {start + key.removeprefix("base_model.model."): array for key, array in tensors.items()}
    save_file(other, saved / files.TENSORS)
    with pytest.raises(AdapterError, match="keys that start otherwise than PEFT's"):
        model.load_adapter(saved)


def test_no_targets_are_the_model_s_own(tmp_path, model):
    adapter = model.attach(LoRAConfig(r=2, init_lora_weights=False), rng=1)
    files.save(adapter, tmp_path)
    configured(tmp_path, target_modules=None)
    same(adapter, model.load_adapter(tmp_path))


def test_a_byte_order_mark_before_the_configuration(model, saved):
    before = model.load_adapter(saved)
    (saved / files.CONFIG).write_bytes(b"\xef\xbb\xbf" + (saved / files.CONFIG).read_bytes())
    same(before, model.load_adapter(saved))


def test_what_a_process_of_several_saved(model, saved):
    change(saved, lambda t: t.update({FIRST: np.zeros(0, "f4")}))
    with pytest.raises(AdapterError, match=r"q_proj.lora_A.weight is empty; .* gather the parameters"):
        model.load_adapter(saved)
    save_file({}, saved / files.TENSORS)
    with pytest.raises(AdapterError, match="has no tensors: save the adapter again"):
        model.load_adapter(saved)


def test_a_path_that_holds_no_adapter(tmp_path, model, saved):
    """Each with what to do."""

    def refused(path, sentence):
        with pytest.raises(AdapterError, match=sentence):
            model.load_adapter(path)

    refused(saved / files.TENSORS, "is a file, expected the folder")
    refused(tmp_path / "absent", "there is no folder ")
    refused("someone/alpaca-lora", "hf download someone/alpaca-lora --local-dir FOLDER")
    refused("/dev/null", "neither a folder nor a file")
    for step in (9, 80, 700, 1000):
        (tmp_path / f"runs/checkpoint-{step}").mkdir(parents=True)
        (tmp_path / f"runs/checkpoint-{step}" / files.CONFIG).write_text("{}")
    refused(tmp_path / "runs", "its folders have: give .*checkpoint-1000 or .*-700 or .*-80 instead")
    refused(tmp_path / "runs/checkpoint-9", "has adapter_config.json and no adapter_model.safetensors")
    (saved / files.TENSORS).rename(saved / "adapter_model.bin")
    refused(saved, "has adapter_model.bin, a pickle, and no .* never opened here: load it with PEFT")
    refused(saved / "adapter_model.bin", "is a pickle, which can run code and is never opened")
    (tmp_path / "mlx").mkdir()
    (tmp_path / "mlx/adapters.safetensors").touch()
    refused(tmp_path / "mlx", "holds an adapter of mlx-lm, .* mlx_lm.fuse")


@pytest.mark.parametrize("keep", [0, 7, 60, -1])
def test_a_truncated_file(model, saved, keep):
    raw = (saved / files.TENSORS).read_bytes()
    (saved / files.TENSORS).write_bytes(raw[:keep])
    with pytest.raises(AdapterError, match="safetensors"):
        model.load_adapter(saved)


def test_a_save_that_fails_leaves_the_last_one(monkeypatch, model, saved):
    """The disk is full: what was there is there, and nothing else is."""
    before = {path.name: path.read_bytes() for path in saved.iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.save(model.attach(CONFIG, rng=2), saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_whole_modules_that_do_not_exist(model):
    """PEFT names two heads where it classifies: a model has one of them or none."""
    with pytest.raises(ConfigError, match="modules_to_save has 'score'"):
        model.attach(LoRAConfig(target_modules=["q_proj"], modules_to_save=["score"]), rng=0)
    config = LoRAConfig(
        target_modules=["q_proj"], modules_to_save=["classifier", "score"], other={"task_type": "SEQ_CLS"}
    )
    assert not any("score" in name for name in model.attach(config, rng=0).parameters)


def test_an_expression_that_takes_forever_can_be_stopped(model):
    """Python's `re` is run as PEFT runs it. That somebody can stop it is all that is promised."""

    def stop(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt):
            model.attach(LoRAConfig(target_modules=r"([a-z0-9_.]+)+!"), rng=0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
