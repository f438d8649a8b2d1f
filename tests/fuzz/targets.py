"""What reads files and pipes of strangers, each as a function of bytes that may do one thing alone: to judge them, or
to say in one sentence why not. Whatever else it raises is a fault.

A target has a few inputs to begin with, which are right, for bytes drawn at random seldom come past the first check.
"""

import io
import json
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from oracle.dump_files import metadata, step
from oracle.variants import right_of

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

WORDS = (
    b'{"', b'":', b"[", b"]", b"}", b",", b"[" * 2000, b"null", b"NaN", b"Infinity", b"-1", b"1e999", b"0.5", b"true",
    b"9" * 30, b"9" * 5000, b"4294967296", b"\xff", b"\0", b"\\u0000", b'"\\ud800"', b"..", b"/", b"\n", b"\x1b[31m",
    b"__metadata__", b"data_offsets", b"shape", b"dtype", b"BF16", b"F8_E4M3", b"F64", b"I64", b"BOOL", b"bfloat16",
    b"config", b"alpha", b"use_rslora", b'"r": 0', b"arrays", b"vectors", b"protocol", b"id", b"files",
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
        "deviations": Target(_deviations, (json.dumps(reasons).encode(), b'S3 = "no rsLoRA"\n')),
    }


_TEMPORARY = tempfile.TemporaryDirectory()
_FOLDER = Path(_TEMPORARY.name)
TARGETS = _targets()
