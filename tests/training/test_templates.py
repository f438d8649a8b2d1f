"""Chat templates as they occur: those that think, open or mark an answer, show the date, or stand under a name."""

import json
from datetime import datetime

import pytest
from models import tiny
from training.templates import DATED, MARKS, NEEDS_TOOLS, OPENS, THINKS
from training.test_forms import ASKED, SAID, TOOL, X, Y, Z, rows_of, tokens_and_learned

from npl_lora.models import ModelError, load_tokenizer
from npl_lora.training.data import DataError

THOUGHT = {"role": "assistant", "content": "9 2"}


def tokenizer_with(place, template):
    return load_tokenizer(tiny.with_tokenizer(tiny.folder(place / "model", eos_token_id=Z), chat_template=template))


def said(*messages):
    return {"messages": list(messages)}


@pytest.mark.parametrize(
    ("template", "messages", "tokens", "learned"),
    [
        (THINKS, [ASKED, SAID], [X, 1, Z, Y, 9, 2, Z], [9, 2, Z]),
        (THINKS, [ASKED, SAID, ASKED, SAID], [X, 1, Z, Y, 2, Z, X, 1, Z, Y, 9, 2, Z], [9, 2, Z]),
        (THINKS, [ASKED, SAID, SAID], [X, 1, Z, Y, 9, 2, Z, Y, 9, 2, Z], [9, 2, Z, 9, 2, Z]),
        (OPENS, [ASKED, SAID], [X, 1, Z, Y, 2, Z], [2, Z]),
        (OPENS, [ASKED, THOUGHT, ASKED, SAID], [X, 1, Z, Y, 2, Z, X, 1, Z, Y, 2, Z], [2, Z, 2, Z]),
        (MARKS, [ASKED, SAID, ASKED, SAID], [X, 1, Z, Y, 2, Z, X, 1, Z, Y, 2, Z], [2, Z, 2, Z]),
        (MARKS, [ASKED, {**SAID, "weight": 0}, ASKED, SAID], [X, 1, Z, Y, 2, Z, X, 1, Z, Y, 2, Z], [2, Z]),
        (MARKS, [ASKED, SAID, ASKED, {**SAID, "weight": 0}], [X, 1, Z, Y, 2, Z, X, 1, Z, Y, 2, Z], [2, Z]),
    ],
)
def test_what_the_template_renders_of_an_answer_is_learned(tmp_path, template, messages, tokens, learned):
    data = rows_of(tmp_path, tokenizer_with(tmp_path, template), said(*messages))
    assert tokens_and_learned(data) == (tokens, learned)


def test_what_the_template_does_to_answers_is_told(tmp_path):
    twice = said(ASKED, SAID, ASKED, SAID)
    notes = rows_of(tmp_path, tokenizer_with(tmp_path / "a", THINKS), twice, twice).notes
    assert notes == ("answers not learned, since the chat template rewrites them when more follows: 2",)
    notes = rows_of(tmp_path, tokenizer_with(tmp_path / "b", OPENS), twice, said(ASKED, THOUGHT)).notes
    opened = "answers that lack 'y 9 ', with which the chat template opens one: 3"
    assert set(notes) == {opened, "answers that the chat template changes: 1"}


def test_an_answer_that_is_rewritten_cannot_be_learned_alone(tmp_path):
    row = said(ASKED, SAID, ASKED, {**SAID, "weight": 0})
    with pytest.raises(DataError, match="renders message 2 differently when more follows, and no other answer is lear"):
        rows_of(tmp_path, tokenizer_with(tmp_path, THINKS), row)


def test_text_that_looks_like_a_mark(tmp_path):
    tokenizer = tokenizer_with(tmp_path, MARKS)
    with pytest.raises(ModelError, match="changes what it marks"):
        tokenizer.template.render_marked([ASKED, {**SAID, "content": "\ufdd0"}], {})


def test_a_template_that_asks_for_tools_shows_them(tmp_path):
    data = rows_of(tmp_path, tokenizer_with(tmp_path, NEEDS_TOOLS), {**said(ASKED, SAID), "tools": [TOOL]})
    assert tokens_and_learned(data) == ([7, X, 1, Z, Y, 2, Z], [2, Z])


def test_the_date_is_that_of_today_and_can_be_another(tmp_path):
    template = tokenizer_with(tmp_path, DATED).template
    assert not template.shows_date
    assert template.render([ASKED]) == f"{datetime.now().year % 10} x 1 z "
    assert template.shows_date
    template.now = datetime(2024, 7, 26)
    assert template.render([ASKED]) == "4 x 1 z "


PLAIN, WITH_TOOLS = "{% for m in messages %}x {{ m.content }} z {% endfor %}", NEEDS_TOOLS


def _in_one_file(folder):
    entries = [{"name": "default", "template": PLAIN}, {"name": "tool_use", "template": WITH_TOOLS}]
    tiny.with_tokenizer(folder, chat_template=entries)


def _in_files(folder):
    tiny.with_tokenizer(folder, chat_template=None)
    (folder / "chat_template.jinja").write_text(PLAIN)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text(WITH_TOOLS)


def _in_json(folder):
    tiny.with_tokenizer(folder, chat_template=[{"name": "tool_use", "template": WITH_TOOLS}])
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": PLAIN}))


@pytest.mark.parametrize("write", [_in_one_file, _in_files, _in_json])
def test_templates_with_names(tmp_path, write):
    write(tiny.folder(tmp_path / "model"))
    template = load_tokenizer(tmp_path / "model").template
    assert template.render([ASKED]) == "x 1 z "
    assert template.render([ASKED], more={"tools": [TOOL]}) == "7 x 1 z "


def test_templates_of_which_none_is_for_any_conversation(tmp_path):
    with pytest.raises(ModelError, match="has chat templates named rag, tool_use, expected one named default"):
        tokenizer_with(tmp_path, [{"name": name, "template": PLAIN} for name in ("rag", "tool_use")])
