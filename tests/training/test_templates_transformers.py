"""A hundred conversations by each template: the same tokens as transformers, and the same mask where it is marked."""

import numpy as np
import pytest

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from models import tiny  # noqa: E402
from training.templates import ALL  # noqa: E402
from training.test_forms import Z, rows_of  # noqa: E402

from npl_lora.models import load_tokenizer  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]


def conversation(rng):
    def says(role):
        return {"role": role, "content": " ".join(map(str, rng.integers(0, 10, rng.integers(1, 5))))}

    turns = [says("system")] if rng.random() < 0.5 else []
    for _ in range(rng.integers(1, 4)):
        turns += [says("user"), *(says("assistant") for _ in range(rng.integers(1, 3)))]
    return turns


@pytest.mark.parametrize("name", ALL)
def test_the_same_tokens(tmp_path, name):
    folder = tiny.with_tokenizer(tiny.folder(tmp_path / "model", eos_token_id=Z), chat_template=ALL[name])
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    rng, read = np.random.default_rng(7), load_tokenizer(folder)
    for _ in range(100):
        messages = conversation(rng)
        marks = dict(return_dict=True, return_assistant_tokens_mask=name == "marks")
        right = theirs.apply_chat_template(messages, chat_template=ALL[name], **marks)
        (row,) = rows_of(tmp_path, read, {"messages": messages}).rows
        assert row.tokens.tolist() == right["input_ids"]
        if name == "marks":
            assert (row.labels >= 0).tolist() == [bool(one) for one in right["assistant_masks"]]
