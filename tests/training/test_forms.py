"""The rows of JSON files: each form, what its fields do, and how objects may stand in a file."""

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import tiny

from npl_lora.models import load_tokenizer
from npl_lora.training.data import DataError, read

X, Y, Z = 10, 11, 12
ASKED, SAID = {"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}
CALL = {"type": "function", "function": {"name": "3", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "7", "parameters": {"type": "object"}}}
# Shows tools, documents, calls, reasoning and a word of its own; it would print None for a content that is null.
TELLS = """\
{% for t in tools or [] %}{{ t.function.name }} {% endfor %}{% for d in documents or [] %}{{ d.text }} {% endfor %}
{% for m in messages %}
{{ 'y' if m.role == 'assistant' else 'x' }} {{ m.reasoning_content }} {{ m.content }}
{% for c in m.tool_calls or [] %} {{ c.function.name }}{% endfor %}{{ ' 9' if shouted }} z
{% endfor %}
{% if add_generation_prompt %}y {% endif %}"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("forms")


@pytest.fixture(scope="module")
def plain(place):
    """A tokenizer whose template shows roles and contents alone."""
    return load_tokenizer(tiny.with_tokenizer(tiny.folder(place / "plain", eos_token_id=Z)))


@pytest.fixture(scope="module")
def telling(place):
    folder = tiny.with_tokenizer(tiny.folder(place / "telling", eos_token_id=Z), chat_template=TELLS)
    return load_tokenizer(folder)


def rows_of(place, tokenizer, *rows, name="a.jsonl"):
    path = place / name
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return read(path, tokenizer, 99)


def tokens_and_learned(data):
    """The tokens of the one row, and those that are learned."""
    (row,) = data.rows
    return row.tokens.tolist(), row.labels[row.labels >= 0].tolist()


QUESTION = ([X, 1, Z, Y, 2, Z], [2, Z])


@pytest.mark.parametrize(
    ("row", "right"),
    [
        ({"messages": [ASKED, SAID]}, QUESTION),
        ({"prompt": "1", "completion": "2"}, ([1, 2, Z], [2, Z])),
        ({"prompt": [ASKED], "completion": [SAID]}, QUESTION),
        ({"prompt": [ASKED, SAID, ASKED], "completion": [SAID]}, (2 * QUESTION[0], QUESTION[1])),
        ({"prompt": [ASKED, SAID], "completion": [SAID], "system": "5"}, ([Y, 5, Z, *QUESTION[0], Y, 2, Z], [2, Z])),
        ({"text": "1 2"}, ([1, 2, Z], [1, 2, Z])),
        ({"text": "1 z"}, ([1, Z], [1, Z])),  # it has its end
        ({"conversations": [{"from": "human", "value": "1"}, {"from": "gpt", "value": "2"}]}, QUESTION),
        ({"conversations": [{"from": "user", "value": "1"}, {"from": "assistant", "value": "2"}]}, QUESTION),
        ({"conversations": [ASKED, SAID]}, QUESTION),
        ({"instruction": "1", "input": "", "output": "2"}, QUESTION),
        ({"instruction": "1", "output": "2"}, QUESTION),
        ({"instruction": "1", "input": "5", "output": "2"}, ([X, 1, 5, Z, Y, 2, Z], [2, Z])),
        ({"messages": [{**ASKED, "content": [{"type": "text", "text": "1"}]}, SAID]}, QUESTION),
        ({"messages": [{**ASKED, "content": [{"type": "text", "text": t} for t in ("3 ", "4")]}, SAID]},
         ([X, 3, 4, Z, Y, 2, Z], [2, Z])),
        ({"messages": [ASKED, SAID], "system": "5"}, ([Y, 5, Z, *QUESTION[0]], [2, Z])),  # no user is y there
        ({"conversations": [{"from": "system", "value": "5"}, {"from": "human", "value": "1"},
                            {"from": "gpt", "value": "2"}]}, ([Y, 5, Z, *QUESTION[0]], [2, Z])),
    ],
)  # fmt: skip
def test_every_form(place, plain, row, right):
    assert tokens_and_learned(rows_of(place, plain, row)) == right
    filled = dict.fromkeys(("text", "messages", "prompt", "tools", "weight", "label", "chosen"), None) | row
    assert tokens_and_learned(rows_of(place, plain, filled)) == right  # as a table's export fills it


@pytest.mark.parametrize(
    ("turns", "learned"),
    [
        ([{"weight": 0}, {"weight": 1}], [5, Z]),
        ([{"weight": 0}, {}], [5, Z]),
        ([{}, {"weight": 0.0}], [2, Z]),
        ([{"weight": None}, {"weight": 1}], [2, Z, 5, Z]),
        ([{"train": False}, {"train": True}], [5, Z]),
        ([{"training": True}, {"loss": False}], [2, Z]),
        ([{"masked": True}, {"masked": False}], [5, Z]),
        ([{"weight": 1, "loss": False}, {}], [5, Z]),
    ],
)
def test_a_message_that_says_so_is_not_learned(place, plain, turns, learned):
    """It is shown to the model all the same."""
    first, second = {**SAID, **turns[0]}, {**SAID, "content": "5", **turns[1]}
    data = rows_of(place, plain, {"messages": [{**ASKED, "weight": 0}, first, ASKED, second]})
    assert tokens_and_learned(data) == ([*QUESTION[0], X, 1, Z, Y, 5, Z], learned)
    says = {"user": "human", "assistant": "gpt"}
    names = {"role": "from", "content": "value"}
    turned = [{names.get(n, n): says.get(v, v) if n == "role" else v for n, v in m.items()} for m in (first, second)]
    asked = {"from": "human", "value": "1"}
    assert tokens_and_learned(rows_of(place, plain, {"conversations": [asked, turned[0], asked, turned[1]]})) == (
        [*QUESTION[0], X, 1, Z, Y, 5, Z],
        learned,
    )


@settings(max_examples=8)
@given(weights=st.lists(st.sampled_from([0, 1, None]), min_size=1, max_size=4).filter(lambda w: set(w) != {0}))
def test_weights_of_any_conversation(place, plain, weights):
    messages = [
        m for i, w in enumerate(weights) for m in (ASKED, {"role": "assistant", "content": str(i), "weight": w})
    ]
    tokens, learned = tokens_and_learned(rows_of(place, plain, {"messages": messages}))
    assert learned == [token for i, w in enumerate(weights) if w != 0 for token in (i, Z)]
    assert tokens == [token for i in range(len(weights)) for token in (X, 1, Z, Y, i, Z)]


@pytest.mark.parametrize(
    ("row", "right"),
    [
        ({"messages": [ASKED, SAID], "tools": [TOOL]}, ([7, X, 1, Z, Y, 2, Z], [2, Z])),
        ({"messages": [ASKED, SAID], "tools": json.dumps([TOOL])}, ([7, X, 1, Z, Y, 2, Z], [2, Z])),
        ({"messages": [ASKED, SAID], "tools": []}, QUESTION),
        ({"messages": [ASKED, SAID], "documents": [{"text": "8"}]}, ([8, X, 1, Z, Y, 2, Z], [2, Z])),
        ({"messages": [ASKED, SAID], "chat_template_kwargs": {"shouted": True}}, ([X, 1, 9, Z, Y, 2, 9, Z], [2, 9, Z])),
        ({"messages": [ASKED, {**SAID, "reasoning_content": "6"}]}, ([X, 1, Z, Y, 6, 2, Z], [6, 2, Z])),
        ({"messages": [ASKED, {**SAID, "content": None, "tool_calls": [CALL]}]}, ([X, 1, Z, Y, 3, Z], [3, Z])),
        ({"messages": [ASKED, {"role": "assistant", "tool_calls": [CALL]}]}, ([X, 1, Z, Y, 3, Z], [3, Z])),
        ({"messages": [ASKED, {**SAID, "tool_calls": [CALL]}]}, ([X, 1, Z, Y, 2, 3, Z], [2, 3, Z])),
        ({"conversations": [{"from": "human", "value": "1"}, {"from": "gpt", "value": "2"}], "tools": [TOOL]},
         ([7, X, 1, Z, Y, 2, Z], [2, Z])),
    ],
)  # fmt: skip
def test_what_stands_beside_a_conversation_is_for_the_template(place, telling, row, right):
    assert tokens_and_learned(rows_of(place, telling, row)) == right


HIDES = """\
{% for m in messages %}{% if m.role == 'user' or m.role == 'assistant' %}
{{ 'x' if m.role == 'user' else 'y' }} {{ m.content }} z
{% endif %}{% endfor %}{% if add_generation_prompt %}y {% endif %}"""


@pytest.mark.parametrize("role", ["system", "tool", "developer"])
def test_a_message_that_the_template_never_shows(place, telling, role):
    hiding = load_tokenizer(tiny.with_tokenizer(tiny.folder(place / "hiding"), chat_template=HIDES))
    row = {"messages": [ASKED, {"role": role, "content": "5"}, SAID]}
    with pytest.raises(DataError, match=f"line 1: message 2, of the role {role}, is not shown by the chat template"):
        rows_of(place, hiding, row)
    assert tokens_and_learned(rows_of(place, telling, row)) == ([X, 1, Z, X, 5, Z, Y, 2, Z], [2, Z])
    assert tokens_and_learned(rows_of(place, hiding, {"messages": [ASKED, SAID]})) == QUESTION


@pytest.mark.parametrize("name", ["reasoning_content", "thinking", "reasoning"])
def test_what_a_model_reasoned_has_three_names(place, telling, name):
    row = {"messages": [ASKED, {**SAID, name: "6"}]}
    assert tokens_and_learned(rows_of(place, telling, row)) == ([X, 1, Z, Y, 6, 2, Z], [6, 2, Z])


BESIDE = "which only messages can have"
PREFERENCE = "which is for preference training"


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"prompt": "1", "chosen": "2", "rejected": "3"}, f"has chosen, {PREFERENCE}"),
        ({"messages": [ASKED, SAID], "rejected": [ASKED]}, f"has rejected, {PREFERENCE}"),
        ({"prompt": "1", "completion": "2", "label": False}, f"has label = False, {PREFERENCE}"),
        ({"messages": [ASKED, SAID], "label": True}, f"has label = True, {PREFERENCE}"),
        ({"text": "1", "label": "good"}, "has label, beside text: labelled texts are a .csv"),
        ({"prompt": "1", "completion": "2", "weight": 0}, "has weight = 0: a row counts once, or is left out"),
        ({"text": "1 2", "loss_weight": 0.5}, "has loss_weight = 0.5: a row counts once"),
        ({"messages": [ASKED, SAID], "sample_weight": 2}, "has sample_weight = 2: a row counts once"),
        ({"messages": [ASKED, SAID], "images": ["a.png"]}, "has images, which a language model of texts"),
        ({"messages": [ASKED, SAID], "functions": [{"name": "f"}]}, "has functions, an older form of tools"),
        ({"messages": [ASKED, SAID], "chat_template": "{{ 1 }}"}, "has chat_template, which is for the template"),
        ({"messages": [ASKED, SAID], "enable_thinking": False}, "has enable_thinking, which is for the template"),
        ({"instruction": "1", "output": "2", "history": [["3", "4"]]}, "has history, which is turns before the prompt"),
        ({"instruction": "1", "output": "2", "context": "3"}, "has context, beside an instruction"),
        ({"prompt": "1", "completion": "2", "tools": [TOOL]}, f"has tools, {BESIDE}"),
        ({"prompt": "1", "completion": "2", "system": "3"}, f"has system, {BESIDE}"),
        ({"prompt": "1", "completion": "2", "input": "3"}, "has input, beside a prompt: write it into the prompt"),
        ({"text": "1 2", "documents": [{"text": "3"}]}, f"has documents, {BESIDE}"),
        ({"prompt": "1", "completion": "2", "labels": [1]}, "has labels, which says what is learned"),
        ({"messages": [ASKED, SAID], "train": False}, "has train, which says what is learned"),
        ({"text": "1 2", "mask": [0, 1]}, "has mask, which says what is learned"),
        ({"messages": [ASKED, SAID], "tools": [TOOL]}, "has tools, which the model's chat template does not show"),
        ({"messages": [ASKED, SAID], "documents": [{"text": "3"}]}, "has documents, which the model's chat template"),
        ({"messages": [ASKED, SAID], "tools": "all"}, "has tools = 'all', expected a list of objects"),
        ({"messages": [ASKED, SAID], "tools": [1]}, "has tools = [1], expected a list of objects"),
        ({"messages": [ASKED, SAID], "chat_template_kwargs": 1}, "has chat_template_kwargs = 1, expected an object"),
        ({"messages": [ASKED, SAID], "chat_template_kwargs": {"tools": [TOOL]}}, "has tools within chat_template"),
        ({"messages": [{**ASKED, "role": "system"}, ASKED, SAID], "system": "3"}, "has system, and a first message of"),
        ({"messages": [ASKED, {**SAID, "tool_calls": [CALL]}]}, "has a message with tool_calls, which the"),
        ({"messages": [ASKED, {**SAID, "reasoning_content": "3"}]}, "has a message with reasoning_content, which"),
        ({"messages": [{**ASKED, "images": ["a.png"]}, SAID]}, "has a message with images, which a language model"),
        ({"messages": [ASKED, {**SAID, "weight": 0.5}]}, "message 2 has weight = 0.5, expected 0 or 1, true or false"),
        ({"messages": [ASKED, {**SAID, "train": "no"}]}, "message 2 has train = 'no', expected 0 or 1"),
        ({"messages": [ASKED, {**SAID, "train_detail": []}]}, "message 2 has train_detail: a message is learned as a"),
        ({"messages": [{**ASKED, "weight": 1}, SAID]}, "message 1 has weight, but only the assistant's are learned"),
        ({"messages": [ASKED, {**SAID, "weight": 0}]}, "nothing can be learned: no answer has a weight"),
        ({"messages": [ASKED, {**SAID, "content": None}]}, "content of message 2 is 'None', expected a text"),
        ({"messages": [{**ASKED, "content": [{"type": "image_url"}]}, SAID]}, "has a part of type 'image_url'"),
        ({"messages": [{**ASKED, "content": ["1"]}, SAID]}, "message 1 has a part of type '1', expected parts of type"),
        ({"conversations": [{"from": "bot", "value": "1"}]}, "turn 1 is from 'bot', expected one of human, user, gpt"),
        ({"conversations": [{"from": ["human"], "value": "1"}]}, "turn 1 is from ['human'], expected one of human"),
        ({"conversations": []}, "has conversations = [], expected a list of objects"),
        ({"messages": []}, "has messages, expected a list of objects"),
        ({"messages": [ASKED, SAID], "prompt": "1", "completion": "2"}, "has messages, and also prompt and"),
        ({"input": "1", "output": "2"}, "has input, output, expected prompt and completion, or messages"),
        ({"question": "1", "answer": "2"}, "has question, answer, expected prompt and completion"),
        ({}, "has nothing, expected prompt and completion"),
    ],
)  # fmt: skip
def test_what_would_change_more_is_refused_by_name(place, plain, row, sentence):
    with pytest.raises(DataError) as caught:
        rows_of(place, plain, {"text": "1 2"}, row)
    assert f"{place / 'a.jsonl'}, line 2" in str(caught.value)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_fields_that_change_nothing_are_counted_in_one_line(place, plain):
    rows = [{"prompt": "1", "completion": "2", "id": i, "source": None if i else "a", "weight": 1} for i in range(3)]
    rows += [{"messages": [{**ASKED, "name": "3"}, SAID], "prompt": "1", "meta": {"weight": 0}}]
    rows[-1]["chat_template_kwargs"] = {"enable_thinking": False}
    rows += [{"instruction": "1", "output": "2", "text": "1 2"}]
    (note,) = rows_of(place, plain, *rows).notes
    assert note.startswith("fields that change nothing: id (3 rows), ")
    once = {f"{name} (1 row)" for name in ("source", "messages' name", "prompt", "meta", "text")}
    once.add("chat_template_kwargs' enable_thinking (1 row)")
    assert set(note.removeprefix("fields that change nothing: ").split(", ")) == {"id (3 rows)", *once}
    assert rows_of(place, plain, {"text": "1 2"}).notes == ()


@settings(max_examples=8)
@given(name=st.text(min_size=1, max_size=9), value=st.sampled_from([0, 1, "2", [3], {"weight": 0}, False]))
def test_a_field_without_a_meaning_changes_nothing_and_is_counted(place, plain, name, value):
    name = f"of my own {name}"
    data = rows_of(place, plain, {"messages": [ASKED, SAID], name: value})
    assert tokens_and_learned(data) == QUESTION
    assert len(data.notes) == 1
    assert "\n" not in data.notes[0]


ROWS = st.lists(
    st.fixed_dictionaries({"text": st.sampled_from(["1 2", "3 4 5", "6 7"])}, optional={"id": st.text(max_size=4)}),
    min_size=1,
    max_size=5,
)


@settings(max_examples=5)
@given(rows=ROWS, indent=st.sampled_from([None, 1, 4]), between=st.sampled_from(["\n", "\n\n", " ", "\r\n", ""]))
def test_objects_may_stand_in_lines_in_an_array_and_over_lines(place, plain, rows, indent, between):
    right = [[*map(int, row["text"].split()), Z] for row in rows]
    objects = [json.dumps(row, indent=indent) for row in rows]
    for content in (
        between.join(objects),
        json.dumps(rows, indent=indent),
        f"[{between}{f' ,{between}'.join(objects)}]",
    ):
        for name in ("a.jsonl", "a.json", "a.ndjson"):
            assert [row.tokens.tolist() for row in rows_of(place, plain, content, name=name).rows] == right


@settings(max_examples=20)
@given(rows=ROWS, indent=st.sampled_from([None, 2]), array=st.booleans(), data=st.data())
def test_a_file_that_is_cut_off_is_named_by_line_and_column(place, plain, rows, indent, array, data):
    *before, last = [json.dumps(row, indent=indent) for row in rows]
    last = json.dumps(rows, indent=indent) if array else last
    whole = "\n".join([*([] if array else before), last[: data.draw(st.integers(1, len(last) - 1))]])
    with pytest.raises(DataError) as caught:
        rows_of(place, plain, whole)
    found = re.search(r"a\.jsonl, line (\d+), column (\d+): not JSON: ", str(caught.value))
    line, column = map(int, found.groups())
    lines = whole.split("\n")
    assert 1 <= line <= len(lines)
    assert 1 <= column <= len(lines[line - 1]) + 1


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            '{"text": "1 2"},\n{"text": "3"}',
            "line 1, column 16: not JSON: a comma between objects",
        ),
        ('[{"text": "1 2"} {"text": "3"}]', "line 1, column 18: not JSON: expected a comma or the end of the array"),
        ('[{"text": "1 2"},\n]', "line 2, column 1: not JSON: "),
        ('[{"text": "1 2"}]\n{"text": "3"}', "line 2, column 1: not JSON: there is more after the array"),
        (
            '\n{"text":\n "1 2",\n "a" 3}',
            "line 4, column 6: not JSON: expecting ':' delimiter, in what begins at line 2",
        ),
        ('{"text": "1 2"}\n{\'text\': "3"}', "line 2, column 2: not JSON: expecting property name"),
        ('{"text": "1", "a": {"b": 1, "b": 2}}', "line 1 has the name b twice in one object"),
        ('{"text": "1", "a": ' + "9" * 5000 + "}", "line 1 has a number with too many digits to read"),
        ('{"text": ' + "[" * 100_000, "line 1 has brackets in brackets, too many to read"),
        ('{"text": "1 2"}\n"3"', "line 2 is str in JSON, expected an object"),
        ("[]", "has no rows"),
        ("text,label\n1,2", "line 1, column 1: not JSON: expecting value"),
    ],
)
def test_what_is_no_json(place, plain, content, sentence):
    with pytest.raises(DataError) as caught:
        rows_of(place, plain, content)
    assert sentence in str(caught.value)
    assert len(str(caught.value)) < 500


NAMES = ("role", "content", "from", "value", "type", "text", "weight", "tool_calls", "reasoning", "messages", "shouted")
NAMES += ("prompt", "completion", "conversations", "instruction", "input", "output", "tools", "documents", "system")
NAMES += ("chat_template_kwargs", "label", "begin_answer", "self", "of my own")
ANYTHING = st.recursive(
    st.sampled_from(
        [None, 0, 1, 0.5, "", "1", "user", "assistant", "human", "gpt", "\ud800", "[]", True, CALL, TOOL, SAID]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
)


@pytest.mark.slow
@settings(max_examples=300)
@given(row=st.dictionaries(st.sampled_from(NAMES), ANYTHING, min_size=1, max_size=6), more=st.booleans())
def test_whatever_stands_in_a_row_it_is_read_or_refused_in_a_sentence(place, telling, row, more):
    row = {"messages": [ASKED, SAID], **row} if more else row
    sentence = ""
    try:
        assert rows_of(place, telling, row).count
    except DataError as error:
        sentence = str(error)
    assert "\n" not in sentence
    assert not sentence or "line 1" in sentence


def test_a_call_that_is_no_text_after_it_is_rendered(place, telling):
    call = {"type": "function", "function": {"name": "\ud800"}}
    with pytest.raises(DataError, match="line 1: the conversation has half of a surrogate pair"):
        rows_of(place, telling, {"messages": [ASKED, {**SAID, "tool_calls": [call]}]})


def test_rows_of_texts_are_cut_like_others(place, plain):
    path = place / "long.jsonl"
    path.write_text('{"text": "1 2 3 4"}\n{"text": "5 6"}')
    data = read(path, plain, 3)
    assert [row.tokens.tolist() for row in data.rows] == [[1, 2, 3], [5, 6, Z]]
    assert (data.cut, data.left_out) == (1, 0)
    assert np.array_equal(data.rows[0].tokens, data.rows[0].labels)
