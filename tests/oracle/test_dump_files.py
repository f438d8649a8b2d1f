"""Files that are no dumps, or lie: one sentence, no memory, no traceback."""

import json
import os
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle.dump_files import LORA, metadata, step, write

from npl_lora.oracle.dumps import judge_dump


def raw(path, header, body=b""):
    """A file with this header, whatever it is."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


ABOUT = {"__metadata__": metadata()}

LIES = {
    "empty": (b"", "header has 0 bytes"),
    "short prefix": (b"\x10\x00", "header has 0 bytes"),
    "a header of 2^63 bytes": (struct.pack("<Q", 1 << 63) + b"{}", "expected 2 to"),
    "truncated header": (struct.pack("<Q", 1000) + b'{"x": ', "is truncated"),
}

HEADERS = {
    "not JSON": (b"{nonsense", "the header is not JSON in UTF-8"),
    "not UTF-8": (b'{"\xff": 1}', "the header is not JSON in UTF-8"),
    "nested without end": (b'{"x":' + b"[" * 100_000, "the header is not JSON in UTF-8"),
    "a number of many digits": (b'{"x": 1' + b"0" * 10_000 + b"}", "the header is not JSON in UTF-8"),
    "a list": (b"[1, 2]", "the header is list in JSON"),
    "a name twice": (b'{"x": 1, "x": 2}', "the header has a name twice"),
    "no metadata": ({}, "has no __metadata__"),
    "metadata that is a list": ({"__metadata__": []}, "has no __metadata__"),
    "metadata with numbers": ({"__metadata__": {**metadata(), "dtype": 3}}, "has no __metadata__"),
    "protocol 2": ({"__metadata__": metadata() | {"protocol": "2"}}, "has protocol '2', expected '1'"),
    "unknown contract": ({"__metadata__": metadata(contract="lora_nothing")}, "contract is 'lora_nothing'"),
    "unknown dtype": ({"__metadata__": metadata(dtype="int3")}, "dtype is 'int3'"),
    "config that is garbage": ({"__metadata__": metadata() | {"config": "}{"}}, "config is not JSON"),
    "config that is a list": ({"__metadata__": metadata() | {"config": "[]"}}, "config is list"),
    "no entry": ({**ABOUT, "x": 7}, "'x' has no dtype, shape and data_offsets"),
    "a key too many": ({**ABOUT, "x": {**entry(), "z": 1}}, "'x' has no dtype, shape and data_offsets"),
    "a dtype of its own": ({**ABOUT, "x": entry("F4")}, "'x' has dtype 'F4'"),
    "a dtype that is a list": ({**ABOUT, "x": entry(["F32"])}, "'x' has dtype"),
    "a negative shape": ({**ABOUT, "x": entry(shape=(-1,))}, "not lists of natural numbers"),
    "a shape of true": ({**ABOUT, "x": entry(shape=(True,))}, "not lists of natural numbers"),
    "a shape of half": ({**ABOUT, "x": entry(shape=(0.5,))}, "not lists of natural numbers"),
    "a huge shape": ({**ABOUT, "x": entry(shape=(1 << 40, 1 << 40))}, "'x' has 4 bytes, its shape declares"),
    "three offsets": ({**ABOUT, "x": entry(offsets=(0, 4, 8))}, "not lists of natural numbers"),
    "offsets that run back": ({**ABOUT, "x": entry(offsets=(4, 0))}, "'x' has -4 bytes"),
    "overlapping arrays": ({**ABOUT, "x": entry(), "y": entry()}, "begins at byte 0, expected 4"),
    "a gap": ({**ABOUT, "x": entry(), "y": entry(offsets=(8, 12))}, "'y' begins at byte 8, expected 4"),
    "bytes that nobody declared": (ABOUT, "has 4 bytes of arrays, its header declares 0"),
    "arrays beyond the end": ({**ABOUT, "x": entry(shape=(9,), offsets=(0, 36))}, "its header declares 36"),
    "an unknown name": ({**ABOUT, "C": entry()}, "has 'C', expected some of"),
    "no factors": ({**ABOUT, "x": entry()}, "has no A"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_file_without_a_header_is_one_sentence(lie, tmp_path):
    data, sentence = LIES[lie]
    (tmp_path / "dump.safetensors").write_bytes(data)
    assert sentence in problem(tmp_path / "dump.safetensors")


@pytest.mark.parametrize("lie", HEADERS)
def test_a_header_that_lies_is_one_sentence(lie, tmp_path):
    header, sentence = HEADERS[lie]
    body = (
        b"" if "metadata" in lie or sentence.startswith(("has protocol", "contract", "dtype", "config")) else b"\0" * 4
    )
    assert sentence in problem(raw(tmp_path / "dump.safetensors", header, body))


def problem(path):
    """Why there is nothing to judge; found without memory to speak of."""
    tracemalloc.start()
    try:
        report = judge_dump(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert report.verdict == "error"
    assert peak < 1 << 24, f"{peak:,} bytes"
    assert len(report.problem) < 300
    assert "\n" not in report.problem
    return report.problem


BAD_STEPS = {
    "B of rank 3": (lambda a: {**a, "B": a["B"][None]}, {}, "B has shape (1, 50, 3), expected (out, r)"),
    "B of another rank r": (
        lambda a: {**a, "B": a["B"][:, :2]},
        {},
        "B has shape (50, 2), expected (out, r) = (50, 3)",
    ),
    "x of another width": (lambda a: {**a, "x": a["x"][..., :9]}, {}, "x has shape (4, 16, 9), expected (..., in)"),
    "dy of other rows": (lambda a: {**a, "dy": a["dy"][:3]}, {}, "dy has shape (3, 16, 50), expected (..., out)"),
    "A of integers": (lambda a: {**a, "A": a["A"].astype(np.int64)}, {}, "A has dtype int64"),
    "an x without rows": (
        lambda a: {**a, "x": a["x"][:0], "dy": a["dy"][:0]},
        {},
        "x has shape (0, 16, 40): it is empty",
    ),
    "a scalar x": (lambda a: {**a, "x": np.float32(1)}, {}, "x has shape (), expected (..., in)"),
    "an infinite x": (lambda a: {**a, "x": a["x"] + np.inf}, {}, "x is not finite at [0, 0, 0]: inf"),
    "NaN in W": (lambda a: {**a, "W": a["W"] * np.nan}, {}, "W is not finite at [0, 0]: nan"),
    "r in the configuration": (lambda a: a, {"r": 4}, "config has r = 4, but A has 3 rows"),
    "r is text": (lambda a: a, {"r": "3"}, "config has r = '3'"),
    "no alpha": (lambda a: a, {"alpha": None}, "config has alpha = None"),
    "alpha is NaN": (lambda a: a, {"alpha": float("nan")}, "config has alpha = nan"),
    "alpha is 0": (lambda a: a, {"alpha": 0}, "config has alpha = 0, expected a number that is not 0"),
    "use_rslora is 1": (lambda a: a, {"use_rslora": 1}, "config has use_rslora = 1"),
}


@pytest.mark.parametrize("bad", BAD_STEPS)
def test_inputs_that_do_not_fit_are_one_sentence(bad, tmp_path):
    change, config, sentence = BAD_STEPS[bad]
    path = write(tmp_path / "dump.safetensors", change(step()), config={**LORA, **config})
    assert sentence in problem(path)


def test_cases_of_other_contracts_that_do_not_fit_are_one_sentence(tmp_path):
    def of(contract, arrays, config):
        return problem(write(tmp_path / "dump.safetensors", arrays, contract=contract, config=config))

    W = np.ones((3, 4), np.float32)
    assert "is not a case of lora_merge" in of("lora_merge", {"W": W}, {})
    assert "is not a case of lora_merge" in of("lora_merge", {"W": W, "A": W, "B": W}, {**LORA, "fan_in_fan_out": 5})
    large = {"W": np.zeros((2000, 1000), np.float16)}
    assert "has 2,000,000 numbers, expected at most" in of("lora_merge", large, LORA)


def test_what_is_no_file(tmp_path):
    assert "No such file" in problem(tmp_path / "nothing.safetensors")
    assert "is not a regular file" in problem(tmp_path)
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    assert "No such file" in problem(tmp_path / "dangling")
    (tmp_path / "round").symlink_to(tmp_path / "round")
    assert "symbolic links" in problem(tmp_path / "round")
    os.mkfifo(tmp_path / "fifo")
    assert "is not a regular file" in problem(tmp_path / "fifo")


def test_a_link_to_a_dump_is_a_dump(tmp_path):
    write(tmp_path / "real.safetensors", step())
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "real.safetensors")
    assert judge_dump(tmp_path / "link.safetensors").verdict == "pass"


def test_a_note_is_passed_on_as_one_line(tmp_path):
    path = write(tmp_path / "dump.safetensors", step(), note="seen twice\nand \x1b[31mred")
    assert judge_dump(path).contracts[0].cases[0].message == "seen twice"


@settings(max_examples=300, deadline=None)
@given(data=st.data())
@pytest.mark.slow
def test_a_dump_with_some_bytes_changed_never_raises(data, tmp_path_factory):
    """Judged, or refused in one sentence."""
    path = write(tmp_path_factory.mktemp("dump") / "dump.safetensors", step(leading=(2,), in_=4, out=5))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)) | st.just(len(content)))
    path.write_bytes(content[:cut])
    report = judge_dump(path)
    assert report.verdict in ("pass", "fail", "error")
    assert "\n" not in report.problem
