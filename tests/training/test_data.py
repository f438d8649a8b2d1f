"""Data of every kind: what is learned of it, how it is cut and split, and what a file gets wrong, by the line."""

import bz2
import json

import numpy as np
import pytest
from models import tiny

from npl_lora.models import load_tokenizer
from npl_lora.training.data import DataError, read

X, Y, Z = 10, 11, 12


@pytest.fixture
def tokenizer(tmp_path):
    return load_tokenizer(tiny.with_tokenizer(tiny.folder(tmp_path / "model", eos_token_id=Z)))


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def said(*turns):
    names = {"x": "user", "y": "assistant"}
    return json.dumps({"messages": [{"role": names.get(who, who), "content": text} for who, text in turns]})


def test_of_a_prompt_only_the_completion_and_its_end_are_learned(tokenizer, write):
    (row,) = read(write("a.jsonl", '\n{"prompt": "1 2", "completion": "3 4"}\n'), tokenizer, 9).rows
    assert row.tokens.tolist() == [1, 2, 3, 4, Z]
    assert row.labels.tolist() == [-100, -100, 3, 4, Z]


def test_of_a_conversation_only_the_answers_are_learned(tokenizer, write):
    (row,) = read(write("a.jsonl", said(("x", "1 2"), ("y", "3"), ("x", "4"), ("y", "5 6"))), tokenizer, 99).rows
    assert row.tokens.tolist() == [X, 1, 2, Z, Y, 3, Z, X, 4, Z, Y, 5, 6, Z]
    assert row.labels.tolist() == [-100] * 5 + [3, Z] + [-100] * 4 + [5, 6, Z]


def test_classes_are_the_labels_in_order_and_columns_have_any_names(tokenizer, write):
    path = write("a.csv", 'says,other,kind\n"1, 2",?,b\n"3\n4",?,a\n5 6 7 8,?,b\n')
    data = read(path, tokenizer, 3, text_column="says", label_column="kind")
    assert data.classes == ("a", "b")
    assert [row.labels.tolist() for row in data.rows] == [1, 0, 1]
    assert [row.tokens.tolist() for row in data.rows] == [[1, X, 2], [3, 4], [5, 6, 7]]  # the comma is unknown: x
    assert (data.cut, data.count) == (1, 3)
    known = read(path, tokenizer, 3, text_column="says", label_column="kind", classes=("b", "?", "a"))
    assert [row.labels.tolist() for row in known.rows] == [0, 2, 0]


def test_rows_are_cut_and_those_with_nothing_left_are_left_out(tokenizer, write):
    rows = [("1 2", "3"), ("1 2", "3 4 5 6"), ("1 2 3 4 5", "6")]
    path = write("a.jsonl", "\n".join(json.dumps({"prompt": p, "completion": c}) for p, c in rows))
    data = read(path, tokenizer, 4)
    assert [row.tokens.tolist() for row in data.rows] == [[1, 2, 3, Z], [1, 2, 3, 4]]
    assert (data.cut, data.left_out, data.count) == (2, 1, 4)
    with pytest.raises(DataError, match="truncation to 2 tokens removed every label of every row"):
        read(path, tokenizer, 2)


def test_what_stands_behind_every_text_survives_the_cut(tokenizer):
    from tokenizers.processors import TemplateProcessing

    tokenizer._inner.post_processor = TemplateProcessing(single="y $A z", special_tokens=[("y", Y), ("z", Z)])
    assert tokenizer.encode("1 2 3 4") == [Y, 1, 2, 3, 4, Z]
    assert tokenizer.encode("1 2 3 4", 4) == [Y, 1, 2, Z]
    assert tokenizer.encode("1 2 3 4", bare=True) == [1, 2, 3, 4]


def test_a_sorted_file_is_shuffled_before_it_is_split_and_a_text_is_not(tokenizer, write):
    lines = [f"{i % 10} {i % 7},{'low' if i < 50 else 'high'}" for i in range(100)]
    data = read(write("a.csv", "\n".join(["text,label", *lines])), tokenizer, 9)
    rows, held = data.split(0.2)
    assert (len(rows), len(held)) == (80, 20)
    assert {int(row.labels) for row in held} == {0, 1}
    again = data.split(0.2)[1]
    assert all(np.array_equal(a.tokens, b.tokens) for a, b in zip(held, again, strict=True))
    text = read(write("a.txt", "1 2 3 4 5 6"), tokenizer, 2)
    assert [row.tokens.tolist() for row in text.split(0.4)[1]] == [[5, 6]]


def test_a_packed_file(tokenizer, write):
    packed = read(write("a.csv.bz2", bz2.compress(b"text,label\n1,a\n2,b\n")), tokenizer, 9)
    assert packed.classes == ("a", "b")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.jsonl", "", "is empty"),
        ("a.jsonl", b"\x80abc", "is not text in UTF-8: byte 0 is 0x80"),
        ("a.txt", b"1\x002", "is not text: it has a character 0"),
        ("a.txt", "1", "has fewer than two tokens"),
        ("a.txt.bz2", b"1 2 3", "Invalid data stream"),
        ("a.csv.bz2", bz2.compress(b"text,label\n1,a\n2,b\n")[:20], "ended before the end-of-stream"),
        (
            "a.jsonl",
            '{"prompt": "1", "completion": "2"}\n{"prompt"',
            "line 2, column 10: not JSON: expecting ':' delimiter",
        ),
        ("a.jsonl", "\n[1]", "line 2 is int in JSON, expected an object"),
        ("a.jsonl", "1\n", "line 1 is int in JSON, expected an object"),
        ("a.jsonl", '{"prompt": "1"}', "line 1 has prompt, expected prompt and completion, or messages"),
        ("a.jsonl", '{"prompt": "1", "completion": 2}', "line 1: completion is '2', expected a text"),
        ("a.jsonl", '{"prompt": "\\ud800", "completion": "2"}', "line 1: prompt has half of a surrogate pair"),
        ("a.jsonl", '{"messages": {}}', "line 1 has messages, expected a list of objects with role and content"),
        ("a.jsonl", '{"messages": [{"role": "user"}]}', "line 1: content of message 1 is 'None', expected a text"),
        ("a.jsonl", said(("x", "1")), "line 1 has no message with the role assistant: nothing can be learned"),
        ("a.jsonl", said(("y", "1")), "line 1 starts with the assistant: there is nothing to answer"),
        ("a.csv", "text,kind\n1,a", "line 1: the columns are text, kind, expected exactly one named 'label'"),
        ("a.csv", "text,label\n", "has a header line and no rows"),
        ("a.csv", "text,label\n1,a\n2,a", "has the label 'a' in every row"),
        ("a.csv", "text,label\n1,a\n2", "line 3 has 1 columns, expected 2"),
        ("a.csv", "text,label\n1,a,b\n2,b", "line 2 has 3 columns, expected 2"),
        ("a.csv", "text,label\n1,a\n2,", "line 3: label is empty"),
        ("a.csv", "text,label\n ,a\n2,b", "line 2: text is empty"),
        ("a.csv", 'text,label\n1,a\n"2,b', "line 3: unexpected end of data"),
    ],
)
def test_what_a_file_gets_wrong_is_one_sentence(tokenizer, write, name, content, sentence):
    path = write(name, content)
    with pytest.raises(DataError) as caught:
        read(path, tokenizer, 9)
    assert str(caught.value).startswith(str(path))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_label_that_the_adapter_does_not_know(tokenizer, write):
    with pytest.raises(DataError, match="line 3: label 'c' is not one of a, b"):
        read(write("a.csv", "text,label\n1,a\n2,c"), tokenizer, 9, classes=("a", "b"))


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        (
            "{{ messages[-1]['content'] }}",
            "line 1: message 1, of the role user, is not shown by the chat template",
        ),
        ("{{ raise_exception('no ' ~ messages[0]['role']) }}", "line 1: the chat template fails: no user"),
        ("{{ messages[0].nothing.more }}", "line 1: the chat template fails: "),
        ("{% if %}", "line 1: the chat template fails: "),
        ("{{ messages.__class__.__mro__[1].__subclasses__() }}", "line 1: the chat template fails: "),
        (None, "line 1 is a conversation, but the model has no chat template"),
    ],
)
def test_a_template_that_cannot_be_used(tmp_path, write, template, sentence):
    folder = tiny.with_tokenizer(tiny.folder(tmp_path / "model"), chat_template=template)
    path = write("a.jsonl", said(("x", "1"), ("y", "2"), ("x", "3"), ("y", "4")))
    with pytest.raises(DataError) as caught:
        read(path, load_tokenizer(folder), 9)
    assert sentence in str(caught.value)


def test_a_template_marks_its_answers_and_stands_in_a_file_of_its_own(tmp_path):
    folder = tiny.with_tokenizer(tiny.folder(tmp_path / "model"))
    source = "{% for m in messages %}{% generation %}{{ m | tojson }}{% endgeneration %}{% if loop.last %}{% break %}"
    (folder / "chat_template.jinja").write_text(source + "{% endif %}{% endfor %}")
    rendered = load_tokenizer(folder).template.render([{"role": "user", "content": "<é>"}])
    assert rendered == '{"role": "user", "content": "<é>"}'
