"""Tables of labelled texts as spreadsheets write them, and what a file's name and first bytes say it holds."""

import bz2
import csv
import gzip
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import tiny

from npl_lora.cli import main
from npl_lora.cli._data import description
from npl_lora.models import load_tokenizer
from npl_lora.training.data import DataError, is_classified, read


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("tables")


@pytest.fixture(scope="module")
def tokenizer(place):
    return load_tokenizer(tiny.with_tokenizer(tiny.folder(place / "model")))


def table(place, tokenizer, *rows, name="a.csv", head="text,label", **options):
    path = place / name
    path.write_text("\n".join([head, *rows]), newline="")
    return read(path, tokenizer, 9, **options)


@pytest.mark.parametrize(
    ("labels", "warned"),
    [
        (["1", "1.0", "0", "1"], ["'1' (2) and '1.0' (1) are different classes"]),
        (["0", "-0", "0.0", "1"], ["'-0' (1) and '0' (1) and '0.0' (1) are different classes"]),
        (["01", "1", "2"], ["'01' (1) and '1' (1) are different classes"]),
        (["1,0", "1", "2"], ["'1' (1) and '1,0' (1) are different classes"]),
        (["1e1", "10", "2"], ["'10' (1) and '1e1' (1) are different classes"]),
        (["yes", "Yes", "no", "NO"], ["'NO' (1) and 'no' (1) are", "'Yes' (1) and 'yes' (1) are different classes"]),
        (["true", "True", "TRUE"], ["'TRUE' (1) and 'True' (1) and 'true' (1) are different classes"]),
        (["a  b", "a b", "c"], ["'a  b' (1) and 'a b' (1) are different classes"]),
        (["ﬁne", "fine", "c"], ["'fine' (1) and 'ﬁne' (1) are different classes"]),
        (["a", "b ", "b"], ["1 label has blanks around it, as 'b ' does; they are left out"]),
        (["\u00a0a", " b", "b"], ["2 labels have blanks around them, as '\\xa0a' does; they are left out"]),
        (["a", "b", "b"], []),
        (["1", "10", "100"], []),
        (["nan", "none", "null"], []),
    ],
)
def test_labels_that_may_be_one_class_are_warned_of(place, tokenizer, labels, warned):
    notes = table(place, tokenizer, *(f'1 2,"{label}"' for label in labels)).notes
    assert len(notes) == len(warned)
    assert all(note.startswith(f"warning: {start}") for note, start in zip(sorted(notes), sorted(warned), strict=True))


def test_the_classes_are_told_with_their_counts(place, tokenizer):
    data = table(place, tokenizer, *(f"{i} 3,{label}" for i, label in enumerate(("b", "\x1b", "b", "a"))))
    assert description(data, 9) == "4 rows; classes: '\\x1b' (1), a (1), b (2)"
    data = table(place, tokenizer, *(f"1,{i:02}" for i in range(25)))
    assert description(data, 9).endswith("18 (1), 19 (1) and 5 more")


def test_a_label_that_looks_like_a_class_of_the_adapter(place, tokenizer):
    with pytest.raises(DataError, match=r"line 3: label '1\.0' is not one of 0, 1; it looks like '1'$"):
        table(place, tokenizer, "1,0", "2,1.0", classes=("0", "1"))


def test_blanks_around_labels_make_no_class(place, tokenizer):
    data = table(place, tokenizer, "1,a", "2, a ", "3,b")
    assert data.classes == ("a", "b")
    assert [int(row.labels) for row in data.rows] == [0, 0, 1]


CELLS = st.text(st.sampled_from("123 ,;\t\"'\nxyz"), min_size=1).filter(str.strip)


@settings(max_examples=8)
@given(
    cells=st.lists(st.tuples(CELLS, st.sampled_from(["a", "b"])), min_size=2, max_size=5),
    separator=st.sampled_from(",;\t"),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    bom=st.booleans(),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    name=st.sampled_from(["a.csv", "a.tsv", "A.CSV"]),
)
def test_however_a_spreadsheet_writes_it(place, tokenizer, cells, separator, quoting, bom, end, name):
    cells = [*cells, ("1", "a"), ("2", "b")]
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=separator, quoting=quoting, lineterminator=end)
    writer.writerows([("id", "text", "label"), *((i, *cell) for i, cell in enumerate(cells))])
    path = place / name
    path.write_bytes(out.getvalue().encode("utf-8-sig" if bom else "utf-8"))
    data = read(path, tokenizer, 99)
    assert [data.classes[int(row.labels)] for row in data.rows] == [label for _, label in cells]
    assert [row.tokens.tolist() for row in data.rows] == [tokenizer.encode(text) for text, _ in cells]
    assert "columns that are not read: id" in data.notes
    assert is_classified(path)


def test_a_cell_may_have_any_length(place, tokenizer):
    before = csv.field_size_limit()
    data = table(place, tokenizer, f"{'1' * 140_000} {'1 ' * 9},a", "2,b")
    assert [row.tokens.size for row in data.rows] == [9, 1]
    assert (data.cut, csv.field_size_limit()) == (1, before)


@pytest.mark.parametrize(
    ("name", "head", "rows", "sentence"),
    [
        ("a.tsv", "text\tkind", ["1\ta"], "line 1: the columns are text, kind, expected exactly one named 'label'"),
        ("a.csv", "text;label", ["1;a", "2"], "line 3 has 1 columns, expected 2"),
        (
            "a.csv",
            "text,label,weight",
            ["1,a,1", "2,b,0"],
            "line 3 has weight = '0': a row counts once",
        ),
        ("a.csv", "text,label,sample_weight", ["1,a,0.5", "2,b,1"], "line 2 has sample_weight = '0.5'"),
        ("a.csv", '{"text": "1",', ['"label": "2"}'], "begins with an object in JSON: name it .jsonl"),
        ("a.csv", '[{"text": "1"}]', [], "begins with an object in JSON: name it .jsonl"),
    ],
)
def test_what_a_table_gets_wrong(place, tokenizer, name, head, rows, sentence):
    with pytest.raises(DataError) as caught:
        table(place, tokenizer, *rows, name=name, head=head)
    assert sentence in str(caught.value)


def test_a_column_that_is_named_weight_may_be_the_label(place, tokenizer):
    data = table(place, tokenizer, "1,7", "2,9", head="text,weight", label_column="weight")
    assert data.classes == ("7", "9")


JSON = json.dumps([{"prompt": "1", "completion": "2"}] * 2)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.parquet", b"PAR1\x15\x04", "is a Parquet file: write it as .jsonl"),
        ("a.csv", b"PK\x03\x04\x14", "is a ZIP archive or a spreadsheet"),
        ("a.jsonl.gz", gzip.compress(b"{}"), "is packed with gzip: unpack it"),
        ("a.txt", b"\xfd7zXZ\0", "is packed with xz: unpack it"),
        ("a.jsonl", bz2.compress(b"{}"), "is packed with bzip2: let its name end in .bz2"),
        ("a.txt", b"%PDF-1.7", "is a PDF file: save it as .txt"),
        ("a.csv", "text,label\n1,a".encode("utf-16"), "is text in UTF-16: save it in UTF-8"),
        ("a.gguf", b"GGUF\x03\0\0\0", "is a model, expected data"),
        ("a.txt", "1\n\xe9".encode("latin-1"), "is not text in UTF-8: byte 2 is 0xe9, in line 2"),
        ("corpus", "1 2 3", "its name has no ending, expected one of .txt, .md, .jsonl"),
        (
            "a.py",
            "1 2 3",
            "ends in .py, expected one of .txt, .md, .jsonl, .ndjson, .json, .csv, .tsv; --text",
        ),
        ("a.xml.bz2", bz2.compress(b"<a/>"), "its name ends in .xml, expected one of"),
        ("a.txt", JSON, "begins with an object in JSON: name it .jsonl, or read it as one text with --text"),
        ("a.md", '\n {"prompt": "1"}\n', "begins with an object in JSON"),
        (
            "a.txt",
            'text,"label"\n1,a\n2,b',
            "begins with columns named text and label: name it .csv, or read",
        ),
        (
            "a.txt",
            "\n<!DOCTYPE html>\n<p>1 2",
            "begins as HTML does: take the text out, or read it as one text with --text",
        ),
        ("a.txt", '<?xml version="1.0"?><a/>', "begins as XML does"),
        ("a.txt", "{\\rtf1 1 2}", "begins as a document in RTF does"),
        ("a.md", "id\ttext\tlabel\r\n1\t2\ta", "begins with columns named text and label"),
    ],
)
def test_no_file_is_learned_as_text_because_nothing_else_fits(place, tokenizer, name, content, sentence):
    path = place / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as caught:
        read(path, tokenizer, 9)
    assert str(caught.value).startswith(str(path))
    assert sentence in str(caught.value)


@pytest.mark.parametrize("name", ["a.py", "corpus", "a.jsonl", "a.csv", "a.json", "a.txt"])
def test_any_file_is_one_text_for_those_who_say_so(place, tokenizer, name):
    path = place / name
    path.write_text('{"text": "1 2", "label": "3"}')
    data = read(path, tokenizer, 99, as_text=True)
    assert [row.tokens.tolist() for row in data.rows] == [tokenizer.encode(path.read_text())]
    assert not is_classified(path, as_text=True)


@pytest.mark.parametrize("content", ["[1] 2 3", "{x} 1 2", "text label 1", "1, 2\ntext,label", '{"a": 1 2'])
def test_a_text_that_only_looks_a_little_like_something_else(place, tokenizer, content):
    path = place / "b.txt"
    path.write_text(content)
    (row,) = read(path, tokenizer, 99).rows
    assert np.array_equal(row.tokens, tokenizer.encode(content))


@pytest.mark.slow
def test_train_and_eval_say_the_classes_and_what_they_leave_out(tmp_path, capsys):
    model = tiny.with_tokenizer(tiny.folder(tmp_path / "bert", "bert", dtype="float32"))
    path, out = tmp_path / "a.csv", tmp_path / "out"
    path.write_text("\n".join(["id;text;label", *(f"{i};{i} 3;{('0', '1', '1.0')[i % 3]}" for i in range(10))]))
    train = ["train", str(model), str(path), "--out", str(out), "--length", "8", "--steps", "1"]
    assert main(train) == 0
    lines = capsys.readouterr().err.splitlines()
    at = lines.index("10 rows; classes: 0 (4), 1 (3), 1.0 (3)")
    assert lines[at + 1 : at + 4] == [
        "columns are separated by semicolons",
        "columns that are not read: id",
        "warning: '1' (3) and '1.0' (3) are different classes; if they are one, write them alike",
    ]
    assert next(i for i, line in enumerate(lines) if line.startswith("step 0")) > at  # before the first step
    assert main(["eval", str(model), str(path), "--adapter", str(out), "--length", "8"]) == 0
    assert "10 rows; classes: 0 (4), 1 (3), 1.0 (3)\n" in capsys.readouterr().err


def test_text_is_an_option_of_train_and_eval(tmp_path, capsys):
    model = tiny.with_tokenizer(tiny.folder(tmp_path / "model", dtype="float32"))
    path = tmp_path / "words.log"
    path.write_text("1 2 3 4 5 6 7 8 9 x y z " * 3)
    evaluate = ["eval", str(model), str(path), "--length", "8"]
    assert main(evaluate) == 2
    assert "its name ends in .log, expected one of" in capsys.readouterr().err
    assert main([*evaluate, "--text"]) == 0
    assert "5 rows" in capsys.readouterr().err
