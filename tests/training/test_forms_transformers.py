"""Conversations with tools, calls, null contents and reasoning: the same tokens as transformers."""

import pytest

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from models import tiny  # noqa: E402
from training.test_forms import ASKED, CALL, SAID, TELLS, TOOL, Z, rows_of  # noqa: E402

from npl_lora.models import load_tokenizer  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize(
    ("messages", "beside"),
    [
        ([ASKED, SAID], {"tools": [TOOL]}),
        ([ASKED, {**SAID, "content": None, "tool_calls": [CALL]}], {"tools": [TOOL, TOOL]}),
        ([ASKED, {"role": "assistant", "tool_calls": [CALL, CALL]}, {"role": "tool", "content": "4"}, SAID], {}),
        ([ASKED, {**SAID, "reasoning_content": "6"}, ASKED, {**SAID, "tool_calls": None}], {}),
        ([ASKED, {**SAID, "thinking": "6"}], {}),
        ([ASKED, {**SAID, "reasoning": "6", "thinking": "7"}], {"documents": [{"text": "8"}]}),
        ([ASKED, SAID], {"chat_template_kwargs": {"shouted": True}}),
    ],
)
def test_the_same_tokens(tmp_path, messages, beside):
    folder = tiny.with_tokenizer(tiny.folder(tmp_path / "model", eos_token_id=Z), chat_template=TELLS)
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    more = {name: value for name, value in beside.items() if name != "chat_template_kwargs"}
    more |= beside.get("chat_template_kwargs", {})
    right = theirs.apply_chat_template(messages, chat_template=TELLS, return_dict=True, **more)["input_ids"]
    (row,) = rows_of(tmp_path, load_tokenizer(folder), {"messages": messages, **beside}).rows
    assert row.tokens.tolist() == right
