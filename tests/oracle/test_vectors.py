"""Golden vectors: the same bytes everywhere, right answers, and a judge that nothing in a folder can upset."""

import json
import os
import re
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from light import light
from oracle.record_vectors import RECORD, digest, written
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from npl_lora.oracle import CONTRACTS, DTYPES, Case, vectors
from npl_lora.oracle.faults import FAULTS
from npl_lora.oracle.subjects.injected import Injected
from npl_lora.oracle.tolerance.judge import Right, right_answer
from npl_lora.oracle.vectors import VectorsError, judge_vectors, write_vectors
from npl_lora.oracle.vectors.safetensors import encode
from npl_lora.oracle.vectors.writing import coarse

SMALL = {"contract": "lora_merge", "dtypes": ("float32",)}
WHOLE = ("float16",)
ID = "lora_merge/plain/float32"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Every contract's vectors in one dtype, but for the flags, which take as long again."""
    folder = tmp_path_factory.mktemp("vectors")
    write_vectors(folder, dtypes=WHOLE, caught_by=lambda case: [])
    return folder


@pytest.fixture
def small(tmp_path):
    write_vectors(tmp_path / "vectors", **SMALL)
    return tmp_path / "vectors"


@pytest.fixture
def answered(small, tmp_path):
    """The small folder, and right answers to it."""
    shutil.copytree(small / "answers", tmp_path / "results")
    return small, tmp_path / "results"


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


def case_in(folder, entry):
    """A case read as another program would read it."""
    with safe_open(folder / entry["files"]["case"], "np") as file:
        about = file.metadata()
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return Case(about["contract"], about["id"], about["dtype"], json.loads(about["config"]), arrays)


def answer_all(folder, results, subject):
    """Have a subject answer every vector."""
    for entry in manifest_of(folder)["vectors"]:
        answer = subject.ask(case_in(folder, entry))
        path = results / f"{entry['id']}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: np.ascontiguousarray(a) if a.ndim else a for name, a in answer.outputs[0].items()}, path)


# The bytes


@pytest.mark.parametrize("contract", light(sorted(CONTRACTS, key=lambda c: c != "lora_merge")))
def test_the_bytes_are_those_that_were_recorded(contract):
    assert written(contract) == json.loads(RECORD.read_text())[contract]


def test_two_writes_give_the_same_bytes(small, tmp_path):
    write_vectors(tmp_path / "again", **SMALL)
    assert digest(small) == digest(tmp_path / "again")


def test_the_safetensors_library_reads_what_is_written(tmp_path):
    arrays = {
        "b": np.array([[1.5, -2.0]], np.float16),
        "a": np.array(3.0),
        "z": np.zeros((0, 4)),
        "ids": np.array([[1, -2], [3, 4]]),
        "mask": np.array([True, False, True]),
        "t": np.arange(6.0, dtype=np.float32).reshape(2, 3).T,
    }
    path = tmp_path / "file.safetensors"
    path.write_bytes(encode(arrays, {"id": "ü", "config": "{}"}))
    read = load_file(path)
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array, strict=True)
    with safe_open(path, "np") as file:
        assert file.metadata() == {"id": "ü", "config": "{}"}


def test_bfloat16_is_written_as_such(tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    array = np.array([1.0, -0.5, 3.0], ml_dtypes.bfloat16)
    (tmp_path / "file").write_bytes(encode({"x": array}))
    np.testing.assert_array_equal(load_file(tmp_path / "file")["x"], array, strict=True)


def test_what_is_allowed_is_the_same_whatever_its_last_digits_are():
    """No number of any case lies within 10^-10 of a step, and rounding up is by at most 1/32."""
    for contract in CONTRACTS.values():
        for case in (case for dtype in DTYPES for case in contract.cases(dtype)):
            shown = contract.settle(case, {}) if contract.settle else case
            for one in right_answer(shown, contract.answer).values():
                if isinstance(one, Right):
                    up, down = coarse(one.allowed * (1 + 1e-10)), coarse(one.allowed * (1 - 1e-10))
                    np.testing.assert_array_equal(up, down)
                    assert np.all((one.allowed <= up) & (up <= one.allowed * (1 + 2.0**-5 + 2.0**-19)))


# The manifest


def check_schema(value, schema, at="manifest"):
    """As much of JSON Schema as the manifest's has."""
    known = {"$schema", "title", "description", "type", "required", "properties", "additionalProperties", "items"}
    assert schema.keys() <= known | {"const", "enum", "pattern", "minimum", "exclusiveMinimum"}, at
    types = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float)}
    assert isinstance(value, types[schema["type"]]) if "type" in schema else True, at
    assert value == schema.get("const", value), at
    assert value in schema.get("enum", [value]), at
    assert re.search(schema.get("pattern", ""), value) if isinstance(value, str) else True, at
    assert value >= schema["minimum"] if "minimum" in schema else True, at
    assert value > schema["exclusiveMinimum"] if "exclusiveMinimum" in schema else True, at
    for one in value if isinstance(value, list) else []:
        check_schema(one, schema.get("items", {}), f"{at}[]")
    if isinstance(value, dict):
        assert set(schema.get("required", [])) <= value.keys(), at
        for name, one in value.items():
            rest = schema.get("additionalProperties", True)
            assert name in schema.get("properties", {}) or rest is not False, f"{at}.{name}"
            check_schema(one, schema.get("properties", {}).get(name, rest if rest is not True else {}), f"{at}.{name}")


@pytest.mark.slow
def test_the_manifest_is_as_its_schema_says(whole, small):
    for folder in (whole, small):
        manifest = manifest_of(folder)
        schema = json.loads((folder / manifest["schema"]).read_text())
        check_schema(manifest, schema)
        for wrong in ({**manifest, "protocol": 2}, {**manifest, "more": 1}, {**manifest, "vectors": [{}]}):
            with pytest.raises(AssertionError):
                check_schema(wrong, schema)


@pytest.mark.slow
def test_every_case_is_there_with_its_answers(whole):
    manifest = manifest_of(whole)
    cases = {case.id: case for c in CONTRACTS.values() for dtype in WHOLE for case in c.cases(dtype)}
    assert [entry["id"] for entry in manifest["vectors"]] == [
        case.id for c in CONTRACTS.values() for dtype in WHOLE for case in c.cases(dtype)
    ]
    for entry in manifest["vectors"]:
        case, read = cases[entry["id"]], case_in(whole, entry)
        assert (read.contract, read.id, read.dtype, read.config) == (case.contract, case.id, case.dtype, case.config)
        assert entry["config"] == case.config
        for name in case.arrays:
            np.testing.assert_array_equal(read[name], case[name], strict=True)
        answers, allowed = (load_file(whole / entry["files"][kind]) for kind in ("answers", "allowed"))
        by_number = {name for name, output in entry["outputs"].items() if output["judged"] == "by number"}
        assert answers.keys() == allowed.keys() == by_number
        for name in by_number:
            assert list(answers[name].shape) == list(allowed[name].shape) == entry["outputs"][name]["shape"]
            assert answers[name].dtype == allowed[name].dtype == np.float64
            assert np.all(np.isfinite(answers[name]) & (allowed[name] >= 0))


@pytest.mark.slow
def test_only_what_is_drawn_has_no_answer(whole):
    judged = {}
    for entry in manifest_of(whole)["vectors"]:
        for name, output in entry["outputs"].items():
            judged.setdefault((entry["contract"], output["judged"]), set()).add(name)
    assert judged.pop(("lora_init", "by distribution")) == {"A", "B"}
    assert judged.pop(("lora_dropout", "by what was drawn")) == {"y", "y_again", "dx", "dA", "dB"}
    assert judged[("lora_dropout", "by number")] == {"y_eval"}
    assert {how for _, how in judged} == {"by number"}


def test_flags_name_the_faults_that_a_vector_catches(small):
    manifest = manifest_of(small)
    flags = {entry["id"].split("/")[1]: entry["flags"] for entry in manifest["vectors"]}
    assert "S1" in flags["plain"]
    assert "S3" in flags["rslora"]
    assert "S3" not in flags["plain"]
    assert manifest["notes"].keys() == set().union(*flags.values())
    fault = next(fault for fault in FAULTS if fault.name == "S1")
    assert manifest["notes"]["S1"]["says"] == fault.says


# Judging


@pytest.mark.slow
def test_right_answers_pass_every_contract(whole, tmp_path):
    answer_all(whole, tmp_path, Injected())
    report = judge_vectors(whole, tmp_path)
    assert {contract.contract: contract.verdict for contract in report.contracts} == dict.fromkeys(CONTRACTS, "pass")
    assert sum(len(contract.cases) for contract in report.contracts) == len(manifest_of(whole)["vectors"])


def test_the_written_answers_are_right(answered):
    assert judge_vectors(*answered).verdict == "pass"


@pytest.mark.slow
def test_what_passes_by_number_is_within_what_is_allowed(whole):
    """The plain comparison that another program makes, on the answers of a right one."""
    subject = Injected()
    for entry in manifest_of(whole)["vectors"]:
        if all(output["judged"] == "by number" for output in entry["outputs"].values()):
            outputs = subject.ask(case_in(whole, entry)).outputs[0]
            answers, allowed = (load_file(whole / entry["files"][kind]) for kind in ("answers", "allowed"))
            for name, got in outputs.items():
                assert np.all(np.abs(got - answers[name]) <= allowed[name]), (entry["id"], name)


@pytest.mark.parametrize("name", ["S1", "M4"])
def test_wrong_answers_fail_and_are_diagnosed(small, tmp_path, name):
    fault = next(fault for fault in FAULTS if fault.name == name)
    answer_all(small, tmp_path / "results", Injected(fault))
    report = judge_vectors(small, tmp_path / "results")
    assert report.verdict == "fail"
    assert fault.id in report.diagnosis


def test_a_contract_without_answers_is_absent_and_a_vector_without_one_fails(small, tmp_path):
    (tmp_path / "none").mkdir()
    report = judge_vectors(small, tmp_path / "none")
    assert report.verdict == "error"
    assert {case.message for case in report.contracts[0].cases} == {"no answers to this contract"}
    path = tmp_path / "none" / f"{ID}.safetensors"
    path.parent.mkdir(parents=True)
    shutil.copy(small / "answers" / f"{ID}.safetensors", path)
    report = judge_vectors(small, tmp_path / "none")
    assert {case.id: case.verdict for case in report.contracts[0].cases}[ID] == "pass"
    assert report.verdict == "fail"
    assert all("is missing" in case.message for case in report.contracts[0].cases if case.id != ID)


# Hostile folders of answers


def lying_header(path):
    header = json.dumps({"W_merged": {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 8]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))


def a_link(path):
    real = path.with_name("elsewhere")
    path.rename(real)
    path.symlink_to(real)


def a_pipe(path):
    path.unlink()
    os.mkfifo(path)


HOSTILE_ANSWERS = [
    (lambda path: path.write_bytes(path.read_bytes()[:-3]), "not a valid safetensors file"),
    (lambda path: path.write_bytes(b""), "not a valid safetensors file"),
    (lambda path: path.write_bytes(struct.pack("<Q", 1 << 60) + b"{}"), "not a valid safetensors file"),
    (lying_header, "not a valid safetensors file"),
    (a_link, "not a regular file"),
    (a_pipe, "not a regular file"),
    (lambda path: path.unlink(), "is missing"),
    (lambda path: save_file({"W_merged": np.zeros(3, np.int64)}, path), "dtype int64, expected a floating dtype"),
]


@pytest.mark.parametrize(("change", "sentence"), light(HOSTILE_ANSWERS, 3))
def test_a_file_that_is_no_answer_fails_with_a_sentence(answered, change, sentence):
    folder, results = answered
    change(results / f"{ID}.safetensors")
    report = judge_vectors(folder, results)
    cases = {case.id: case for case in report.contracts[0].cases}
    assert cases.pop(ID).verdict == "fail"
    assert {case.verdict for case in cases.values()} == {"pass"}
    message = next(case.message for case in report.contracts[0].cases if case.id == ID)
    assert sentence in message
    assert "\n" not in message


def test_answers_beyond_a_symlink_are_not_read(answered, tmp_path):
    folder, results = answered
    (results / "lora_merge" / "plain").rename(tmp_path / "outside")
    (results / "lora_merge" / "plain").symlink_to(tmp_path / "outside")
    (case,) = (case for case in judge_vectors(folder, results).contracts[0].cases if case.id == ID)
    assert case.verdict == "fail"
    assert "is not inside" in case.message


# Hostile folders of vectors


def changed(folder, **changes):
    """Change the manifest's entry of ID."""
    manifest = manifest_of(folder)
    for entry in manifest["vectors"]:
        if entry["id"] == ID:
            entry.update(changes)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def files(case):
    return {"case": case, "answers": f"answers/{ID}.safetensors", "allowed": f"allowed/{ID}.safetensors"}


def another_question(folder):
    path = folder / "cases" / f"{ID}.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


HOSTILE_VECTORS = [
    (lambda f: changed(f, files=files("../../etc/passwd")), "the manifest gives it files"),
    (lambda f: changed(f, files=files("/etc/passwd")), "the manifest gives it files"),
    (lambda f: changed(f, files=None), "the manifest gives it files None"),
    (lambda f: changed(f, config={"r": 10**9}), "the manifest gives it config"),
    (lambda f: changed(f, dtype="float8"), "the manifest gives it dtype 'float8'"),
    (lambda f: changed(f, contract=["lora_merge"]), "the manifest gives it contract"),
    (another_question, "is not what this version of npl-lora writes"),
    (lambda f: (f / "cases" / f"{ID}.safetensors").write_bytes(b""), "is not what this version of npl-lora writes"),
    (lambda f: (f / "cases" / f"{ID}.safetensors").unlink(), "No such file"),
    (lambda f: a_link(f / "cases" / f"{ID}.safetensors"), "is not a regular file"),
    (lambda f: a_pipe(f / "cases" / f"{ID}.safetensors"), "is not a regular file"),
    (lambda f: changed(f, id="lora_merge/other/float32"), "this version of npl-lora has no such case"),
]


@pytest.mark.parametrize(("change", "sentence"), light(HOSTILE_VECTORS, 9))
def test_a_vector_that_was_changed_fails_with_a_sentence(answered, change, sentence):
    folder, results = answered
    change(folder)
    report = judge_vectors(folder, results)
    failed = [case for case in report.contracts[0].cases if case.verdict == "fail"]
    assert len(failed) == 1
    assert sentence in failed[0].message
    assert "\n" not in failed[0].message
    assert report.verdict == "fail"


def test_vectors_beyond_a_symlink_are_not_read(answered, tmp_path):
    folder, results = answered
    (folder / "cases").rename(tmp_path / "outside")
    (folder / "cases").symlink_to(tmp_path / "outside")
    cases = judge_vectors(folder, results).contracts[0].cases
    assert all(case.verdict == "fail" and "is not inside" in case.message for case in cases)


HOSTILE_MANIFESTS = [
    ("", "is not JSON"),
    ("[" * 100_000, "is not JSON"),
    ("[]", "is not a manifest"),
    ('{"protocol": 2}', "is not a manifest"),
    ('{"protocol": 1}', "has no vectors"),
    ('{"protocol": 1, "vectors": []}', "has no vectors"),
    ('{"protocol": 1, "vectors": [3]}', "has a vector with the id None"),
    ('{"protocol": 1, "vectors": [{"id": "../../x/y"}]}', "has a vector with the id '../../x/y'"),
    ('{"protocol": 1, "vectors": [{"id": "/a/b"}]}', "has a vector with the id '/a/b'"),
    ('{"protocol": 1, "vectors": [{"id": "a/b/c\\n"}]}', "has a vector with the id 'a/b/c\\n'"),
    ('{"protocol": 1, "vectors": [{"id": "a/b/\\ud800"}]}', "has a vector with the id"),
    ('{"protocol": 1, "vectors": [{"id": "a/b/c"}, {"id": "a/b/c"}]}', "has a/b/c twice"),
    (b"\xff\xfe", "is not JSON"),
]


@pytest.mark.parametrize(("text", "sentence"), HOSTILE_MANIFESTS)
def test_a_manifest_that_is_none_is_an_error_with_a_sentence(tmp_path, text, sentence):
    (tmp_path / "manifest.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    report = judge_vectors(tmp_path, tmp_path)
    assert report.verdict == "error"
    assert sentence in report.problem
    assert "\n" not in report.problem


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir, os.mkfifo, lambda p: p.symlink_to("/etc/passwd")])
def test_a_manifest_that_is_no_file_is_an_error(tmp_path, make):
    make(tmp_path / "manifest.json")
    report = judge_vectors(tmp_path, tmp_path)
    assert report.verdict == "error"
    assert "cannot be read" in report.problem or "is not a regular file" in report.problem


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(VectorsError, match="is not empty"):
        write_vectors(tmp_path, **SMALL)
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(VectorsError, match="Not a directory"):
        write_vectors(tmp_path / "file" / "vectors", **SMALL)


def test_the_package_says_where_to_begin():
    assert vectors.__all__ == ["VectorsError", "judge_vectors", "write_vectors"]
