"""A function whose name is one slip away from a contract's: it would not be asked, and nobody would notice."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npl_lora.cli import main
from npl_lora.oracle import CONTRACTS, TargetError
from npl_lora.oracle.subjects.spelling import meant
from npl_lora.oracle.subjects.targets import load

BESIDE = "def lora_merge(case):\n    raise NotImplementedError\n\n\n"


@pytest.fixture
def sentence_on(tmp_path, monkeypatch):
    """The sentence with which a file is refused; "" if it is not."""
    monkeypatch.setattr(sys, "path", list(sys.path))

    def of(source, attribute="", contract=None):
        file = tmp_path / "mine.py"
        file.write_text(source)
        try:
            load(f"{file}:{attribute}" if attribute else str(file), contract)
        except TargetError as error:
            return str(error)
        finally:
            for name in ("mine", "elsewhere"):
                sys.modules.pop(name, None)
        return ""

    return of


@given(st.sampled_from(sorted(name for name in CONTRACTS if len(name) > 6)), st.data())
def test_one_slip_is_heard(name, data):
    i = data.draw(st.integers(1, len(name) - 2))
    slips = {
        "left out": name[:i] + name[i + 1 :],
        "twice": name[:i] + name[i] + name[i:],
        "swapped": name[: i - 1] + name[i] + name[i - 1] + name[i + 1 :],
        "another": name[:i] + "q" + name[i + 1 :],
    }
    slip = slips[data.draw(st.sampled_from(sorted(slips)))]
    if slip not in CONTRACTS and not any(letter.isdigit() for letter in name):
        assert meant(slip, CONTRACTS) == name


HELPERS = (
    "lora linear merge flat scale softmax attention norm train merge_lora init_lora lora_scale lora_delta lora_conv1d"
    " lora_linear2 lora_linear_fp8 lora_linear_backward"
)


@pytest.mark.parametrize("helper", HELPERS.split())
def test_a_helper_is_not_accused(helper):
    assert meant(helper, CONTRACTS) == ""


def test_a_misspelt_function_beside_a_right_one_is_no_pass(tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(BESIDE + "def lora_liner(case):\n    return {}\n")
    assert main(["check", str(file)]) == 2
    assert "  error  " in (out := capsys.readouterr().out)
    assert "lora_liner is no contract; did you mean lora_linear?" in out


@pytest.mark.parametrize(
    ("source", "attribute", "contract"),
    [
        ("def lora_liner(case):\n    return {}\n", "", None),
        ("def lora_liner(case):\n    return {}\n", "lora_liner", None),
        (BESIDE + "def lora_liner(case):\n    return {}\n", "", "lora_linear"),
        ("class Mine:\n    def lora_liner(self, case):\n        return {}\n\nmine = Mine()\n", "mine", None),
        (
            "class Mine:\n    def rope(self, case):\n        return {}\n\n"
            "    @staticmethod\n    def lora_liner(case):\n        return {}\n",
            "Mine",
            None,
        ),
    ],
    ids=["the only one", "named", "asked for", "an object", "a class"],
)
def test_a_misspelt_name_is_named_wherever_it_stands(sentence_on, source, attribute, contract):
    assert "did you mean lora_linear?" in sentence_on(source, attribute, contract)


@pytest.mark.parametrize(
    "more",
    [
        "from elsewhere import lora_liner\n",
        "def _lora_liner(case):\n    return {}\n",
        "def lora_liner(x, W):\n    return {}\n",
        "def lora_liner():\n    return {}\n",
        "lora_liner = 3\n",
        "def lora_merges(case):\n    return {}\n",  # what it is like is there
    ],
)
def test_what_is_no_misspelt_contract_is_left_alone(sentence_on, tmp_path, more):
    (tmp_path / "elsewhere.py").write_text("def lora_liner(case):\n    return {}\n")
    assert sentence_on(BESIDE + more) == ""


def test_what_is_not_asked_for_is_not_accused(sentence_on):
    assert sentence_on(BESIDE + "def lora_liner(case):\n    return {}\n", contract="lora_merge") == ""


@pytest.mark.parametrize(
    ("target", "close"), [("pefft", "peft"), ("loarlib:f", "loralib"), ("tinyloar.layers", "tinylora")]
)
def test_a_misspelt_library_or_module_is_named(tmp_path, monkeypatch, target, close):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "tinylora").mkdir()
    (tmp_path / "tinylora" / "__init__.py").touch()
    with pytest.raises(TargetError, match=rf"no such file, module or shipped subject; did you mean {close}\?$"):
        load(target, None)


@pytest.mark.torch
def test_a_misspelt_function_beside_layers_is_named_if_it_takes_a_case(sentence_on):
    layer = (
        "from torch import nn\n\n\nclass LoRALinear(nn.Module):\n"
        "    def __init__(self, in_features, out_features, rank):\n        super().__init__()\n\n\n"
    )
    assert "did you mean lora_linear?" in sentence_on(layer + "def lora_liner(case):\n    return {}\n")
    assert sentence_on(layer + "def lora_merged(model):\n    return model\n") == ""
