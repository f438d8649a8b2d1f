"""What reads files and pipes of strangers, each as a function of bytes that may do one thing alone: to judge them, or
to say in one sentence why not. Whatever else it raises is a fault.

A target has a few inputs to begin with, which are right, for bytes drawn at random seldom come past the first check.
"""

import io
import json
import re
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from models import tiny, tiny_gguf
from models.four_bits import all_packed
from oracle.dump_files import metadata, step
from oracle.variants import right_of
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save

from npl_lora.adapters import AdapterError, LoRAConfig, files
from npl_lora.adapters.combination import combine, error, read_layers
from npl_lora.adapters.inspection import as_json, inspect
from npl_lora.lora.optimizers import AdamWState
from npl_lora.models import ModelError, load, load_tokenizer, plan
from npl_lora.oracle import CONTRACTS
from npl_lora.oracle.check import check_case
from npl_lora.oracle.deviations import DeviationsError, read_deviations
from npl_lora.oracle.dumps import judge_dump
from npl_lora.oracle.subjects import Answer
from npl_lora.oracle.subjects.convert import AnswerError
from npl_lora.oracle.subjects.frames import FrameError, read_frame, write_frame
from npl_lora.oracle.subjects.result_file import read_arrays
from npl_lora.oracle.vectors import judging
from npl_lora.oracle.vectors.safetensors import encode
from npl_lora.training import checkpoint
from npl_lora.training.budget import budget
from npl_lora.training.data import DataError, read
from npl_lora.training.step import State

WORDS = (
    b'{"', b'":', b"[", b"]", b"}", b",", b"[" * 2000, b"null", b"NaN", b"Infinity", b"-1", b"1e999", b"0.5", b"true",
    b"9" * 30, b"9" * 5000, b"4294967296", b"\xff", b"\0", b"\\u0000", b'"\\ud800"', b"..", b"/", b"\n", b"\x1b[31m",
    b"__metadata__", b"data_offsets", b"shape", b"dtype", b"BF16", b"F8_E4M3", b"F64", b"I64", b"BOOL", b"bfloat16",
    b"q_proj", b"lora_A", b"model.layers.", b".*", b"(", b"[[a", b"null", b"GGUF", b"general.alignment", b"\x09\0\0\0",
    b"\xff" * 8, b"weight_map", b"config", b"alpha", b"use_rslora", b'"r": 0', b"arrays",
    b"vectors", b"protocol", b"id", b"files", b'"use_dora": true', b'"lora_bias": true', b"lora_magnitude_vector",
    b'"trainable_token_indices": [1]', b'"ensure_weight_tying": true', b"lm_head", b"embed_tokens", b".base_layer",
)  # fmt: skip
CASE = next(case for case in CONTRACTS["lora_merge"].cases("float32") if case.id == "lora_merge/plain/float32")
RIGHT = {name: right.value.astype("float32") for name, right in right_of(CASE).items()}


@dataclass(frozen=True)
class Target:
    """A reader: read(bytes), and inputs that it accepts."""

    read: Callable[[bytes], None]
    seeds: tuple[bytes, ...]


def _written(data: bytes, name: str) -> Path:
    path = _FOLDER / name
    path.write_bytes(data)
    return path


def _whole_header(data: bytes) -> bytes:
    """With a length of the header that is right, if there is a header at all: else most inputs end there."""
    if data[:1] != b"+":
        return data
    head, found, body = data[1:].partition(b"}}")
    length = len(head + found) + len(body) - len(body.lstrip(b" "))  # padded with spaces
    return struct.pack("<Q", length) + data[1:]


def _dump(data: bytes) -> None:
    report = judge_dump(_written(_whole_header(data), "dump.safetensors"))
    assert report.verdict in ("pass", "fail", "error")
    _one_line(report.problem)


def _answers(data: bytes) -> None:
    try:
        arrays = read_arrays(_written(_whole_header(data), "answers.safetensors"))
    except AnswerError as error:
        _one_line(str(error))
        return
    report = check_case(CASE, Answer(outputs=(arrays,)))
    assert report.verdict in ("pass", "fail")
    _one_line(report.message)


def _frame(data: bytes) -> None:
    try:
        header, arrays = read_frame(io.BytesIO(data))
    except FrameError:
        return
    assert isinstance(header, dict)
    assert all(isinstance(array, np.ndarray) for array in arrays.values())


def _manifest(data: bytes) -> None:
    _written(data, "manifest.json")
    try:
        entries = judging._entries(_FOLDER)
    except judging._Unusable as error:
        _one_line(str(error))
        return
    for id_, entry in entries.items():
        judged, _, _ = judging._judge(_FOLDER, entry, CASE if id_ == CASE.id else None, _FOLDER)
        assert judged.verdict == "fail"  # there are no vectors
        _one_line(judged.message)


def _deviations(data: bytes) -> None:
    for name in ("known.json", "known.toml"):
        try:
            reasons = read_deviations(_written(data, name))
        except DeviationsError as error:
            _one_line(str(error))
        else:
            assert all(isinstance(reason, str) for reason in reasons.values())


def _adapter_config(data: bytes) -> None:
    _read_adapter(files.CONFIG, data)


def _adapter_tensors(data: bytes) -> None:
    _read_adapter(files.TENSORS, _whole_header(data))


def _read_adapter(name: str, data: bytes) -> None:
    """One of the two files is strange, the other right. A repetition within a repetition is let be: it may take
    hours, which is known and said where it is run."""
    right = {files.CONFIG: RIGHT_ADAPTER[0], files.TENSORS: RIGHT_ADAPTER[1]}
    for other, raw in {**right, name: data}.items():
        _written(raw, other)
    if name == files.CONFIG and len(re.findall(rb"[*+{]", data)) > 3:
        return
    try:
        adapter = MODEL.load_adapter(_FOLDER)
    except AdapterError as error:
        _one_line(str(error))
    else:
        assert adapter.places
    _read_alone()


def _read_alone() -> None:
    """The same files without the model: `inspect` and `combine`."""
    try:
        found = inspect(_FOLDER)
        json.dumps(as_json(found), allow_nan=False)
        for finding in found.findings:
            _one_line(finding.says)
        layers = read_layers([_FOLDER, _FOLDER], [0.5, -2.0])
        assert error(layers, combine(layers, "svd", LoRAConfig())) >= 0.0
    except AdapterError as problem:
        _one_line(str(problem))


def _checkpoint(data: bytes) -> None:
    try:
        state = checkpoint.load(_written(_whole_header(data), "checkpoint.safetensors"), ADAPTER, {"seed": 3})
    except checkpoint.CheckpointError as error:
        _one_line(str(error))
    else:
        assert state.step >= 0
        assert state.adapter.parameters.keys() == ADAPTER.parameters.keys()


def _model_config(data: bytes) -> None:
    _read_model({"config.json": data, "model.safetensors": RIGHT_MODEL})


def _plan(data: bytes) -> None:
    folder = _FOLDER / "plan"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_bytes(data)
    try:
        planned = plan(folder)
    except ModelError as problem:
        _one_line(str(problem))
    else:
        assert budget(planned, None, 1, 1).peak > 0


def _model_tensors(data: bytes) -> None:
    _read_model({"config.json": RIGHT_CONFIG, "model.safetensors": _whole_header(data)})


def _model_index(data: bytes) -> None:
    _read_model({"config.json": RIGHT_CONFIG, "model.safetensors.index.json": data, "shard.safetensors": RIGHT_MODEL})


def _read_model(whole: dict[str, bytes]) -> None:
    folder = _FOLDER / "model"
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for name, data in whole.items():
        (folder / name).write_bytes(data)
    _load(folder)


def _load(path: Path) -> None:
    try:
        model = load(path)
    except ModelError as error:
        _one_line(str(error))
    else:
        assert model.modules


def _gguf(data: bytes) -> None:
    path = _written(data, "model.gguf")
    _load(path)
    for door in (load_tokenizer, plan):
        try:
            door(path)
        except ModelError as problem:
            _one_line(str(problem))


def _rows(data: bytes) -> None:
    _read_data(data, "rows.jsonl", "rows.txt")


def _table(data: bytes) -> None:
    _read_data(data, "table.csv", "table.tsv")


def _read_data(data: bytes, *names: str) -> None:
    for name in names:
        try:
            found = read(_written(data, name), TOKENIZER, 16)
        except DataError as error:
            _one_line(str(error))
        else:
            assert found.rows
            for note in found.notes:
                _one_line(note)


def _one_line(text: str) -> None:
    assert "\n" not in text
    assert "\x1b" not in text
    assert len(text) < 5000


def _framed(arrays: dict[str, np.ndarray]) -> bytes:
    pipe = io.BytesIO()
    write_frame(pipe, {"answer": "outputs"}, arrays)
    return pipe.getvalue()


def _seeds_of_a_dump() -> tuple[bytes, ...]:
    step_ = step(leading=(2,), in_=4, out=5)
    whole = encode(step_, metadata())
    merge = encode({**CASE.arrays, **RIGHT}, metadata("lora_merge", config=CASE.config))
    return whole, b"+" + whole[8:], merge


def _entry_of(case: object) -> dict[str, object]:
    return {"files": {"case": "cases/x.safetensors"}, **judging.described(CASE), "id": CASE.id}


def _targets() -> dict[str, Target]:
    right = encode(RIGHT)
    manifest = {"protocol": 1, "vectors": [_entry_of(CASE)]}
    reasons = {CASE.id: "we round once more", "S3": "no rsLoRA"}
    return {
        "dump": Target(_dump, _seeds_of_a_dump()),
        "answers": Target(_answers, (right, b"+" + right[8:])),
        "frame": Target(_frame, (_framed(RIGHT),)),
        "manifest": Target(_manifest, (json.dumps(manifest).encode(),)),
        "config": Target(_adapter_config, (RIGHT_ADAPTER[0], _OF_PATTERNS)),
        "adapter": Target(_adapter_tensors, (RIGHT_ADAPTER[1], b"+" + RIGHT_ADAPTER[1][8:])),
        "checkpoint": Target(_checkpoint, (RIGHT_CHECKPOINT, b"+" + RIGHT_CHECKPOINT[8:])),
        "model": Target(_model_config, _configs()),
        "plan": Target(_plan, _configs()),
        "weights": Target(_model_tensors, (RIGHT_MODEL, RIGHT_FOUR_BITS, b"+" + RIGHT_MODEL[8:])),
        "index": Target(_model_index, (b'{"weight_map": {"lm_head.weight": "shard.safetensors"}}',)),
        "gguf": Target(_gguf, (RIGHT_GGUF,)),
        "rows": Target(_rows, _seeds_of_rows()),
        "table": Target(_table, (b"text,label\n1 2,1\n3,1.0\n", b'id;text;label\n1;"2 ""3""";a\n2;4;b\n')),
        "deviations": Target(_deviations, (json.dumps(reasons).encode(), b'S3 = "no rsLoRA"\n')),
    }


def _seeds_of_rows() -> tuple[bytes, ...]:
    call = {"type": "function", "function": {"name": "1", "arguments": {}}}
    said = [{"role": "user", "content": [{"type": "text", "text": "1"}]}, {"role": "assistant", "tool_calls": [call]}]
    more = [{"from": "human", "value": "1"}, {"from": "gpt", "value": "2", "weight": 0}, {"from": "gpt", "value": "3"}]
    rows = [
        {"messages": said, "tools": [call], "chat_template_kwargs": {"a": 1}},
        {"conversations": more, "system": "1", "id": 3},
        {"prompt": "1", "completion": "2", "weight": 1},
        {"instruction": "1", "input": "2", "output": "3"},
        {"text": "1 2"},
    ]
    return "\n".join(map(json.dumps, rows)).encode(), json.dumps(rows, indent=1).encode()


_TEMPLATE = """{% for t in tools %}{{ t | tojson }}{% endfor %}{% for m in messages %}{{ m.role }} {{ m.content }}
{% for c in m.tool_calls %}{{ c.function.name }}{% endfor %} z {% endfor %}"""
_OF_PATTERNS = b"""{"target_modules": "model.layers.0.*(q|v)_proj", "exclude_modules": ["v_proj"], "alpha_pattern":
{"0.self_attn": 3}, "rank_pattern": {"q_proj": 2}, "layers_to_transform": [0], "layers_pattern": "layers",
"modules_to_save": ["lm_head"], "bias": "all"}"""


def _configs() -> tuple[bytes, ...]:
    return tuple(json.dumps({**tiny.CONFIG, **kind}).encode() for kind in tiny.KINDS.values())


_TEMPORARY = tempfile.TemporaryDirectory()
_FOLDER = Path(_TEMPORARY.name)
_LLAMA = tiny.folder(_FOLDER / "right", dtype="float32")
MODEL = load(_LLAMA)
TOKENIZER = load_tokenizer(tiny.with_tokenizer(_LLAMA, chat_template=_TEMPLATE))
RIGHT_CONFIG, RIGHT_MODEL = ((_LLAMA / name).read_bytes() for name in ("config.json", "model.safetensors"))
RIGHT_FOUR_BITS = save(all_packed(load_arrays(RIGHT_MODEL), nested=True)[0])
ADAPTER = MODEL.attach(LoRAConfig(r=1, target_modules=["q_proj"]), rng=0)
files.save(ADAPTER, _LLAMA)
RIGHT_ADAPTER = tuple((_LLAMA / name).read_bytes() for name in (files.CONFIG, files.TENSORS))
checkpoint.save(
    _LLAMA / "c", State(ADAPTER, {n: AdamWState(p, p, 4) for n, p in ADAPTER.parameters.items()}, 4, 8), {"seed": 3}
)
RIGHT_CHECKPOINT = (_LLAMA / "c").read_bytes()
RIGHT_GGUF = tiny_gguf.written(_LLAMA / "model.gguf").read_bytes()
TARGETS = _targets()
