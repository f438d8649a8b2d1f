"""npl-lora: the catalogue in the terminal."""

import subprocess
import sys

import pytest

from npl_lora.cli import main
from npl_lora.oracle.faults import FAULTS
from npl_lora.oracle.faults.kinds import KINDS
from npl_lora.oracle.faults.relevant import relevant_to


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """A terminal on which no sentence is wrapped."""
    monkeypatch.setenv("COLUMNS", "200")


def output_of(capsys, *words):
    assert main(["faults", *words]) == 0
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def test_the_list_has_a_line_for_every_fault_under_its_kind(capsys):
    lines = output_of(capsys)
    kind, listed = None, {}
    for line in lines[:-1]:
        if line.startswith("  "):
            name, says = line.split(maxsplit=1)
            listed[name] = says
            assert name.startswith(kind)
        else:
            kind, name = line.split(maxsplit=1)
            assert name == KINDS[kind].name
    assert listed == {fault.name: fault.says for fault in FAULTS}


def test_a_contract_lists_the_faults_that_can_show_in_it(capsys):
    lines = output_of(capsys, "--contract", "lora_merge")
    listed = {line.split()[0] for line in lines if line.startswith("  ")}
    assert listed == {fault.name for fault in relevant_to("lora_merge")}


def test_two_contracts_list_the_faults_of_either(capsys):
    lines = output_of(capsys, "--contract", "lora_merge,rope")
    listed = {line.split()[0] for line in lines if line.startswith("  ")}
    assert listed == {fault.name for contract in ("lora_merge", "rope") for fault in relevant_to(contract)}


def test_a_fault_is_explained_with_all_its_variants(capsys):
    assert output_of(capsys, "S5") == [
        "S  Scale: The scale s = alpha / r is missing, applied twice, or computed from the wrong numbers.",
        "",
        "S5/dA  dA lacks s = alpha / r, which dB has",
        "  wrong        dA = (dy B)^T x",
        "  right        dA = s (dy B)^T x",
        "  hidden when  s = 1",
        "  seen in      hand-written backward passes",
        "  can show in  lora_linear, lora_embedding, dora_linear, lora_attention, lora_mlp, lora_conv2d, train_steps, "
        "lora_dropout, lora_batched, lora_attention_projections, lora_mlp_projections,",
        "               lora_scaled_embedding",
        "",
        "S5/dB  dB lacks s = alpha / r, which dA has",
        "  wrong        dB = dy^T (x A^T)",
        "  right        dB = s dy^T (x A^T)",
        "  hidden when  s = 1",
        "  seen in      hand-written backward passes",
        "  can show in  lora_linear, lora_embedding, dora_linear, lora_attention, lora_mlp, lora_conv2d, train_steps, "
        "lora_dropout, lora_batched, lora_attention_projections, lora_mlp_projections,",
        "               lora_scaled_embedding",
    ]


def test_a_kind_or_a_word_lists_those_that_have_it(capsys):
    assert {line.split()[0][0] for line in output_of(capsys, "M") if line.startswith("  ")} == {"M"}
    lines = output_of(capsys, "bias")
    listed = {line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "}
    of_bias = {fault.name for fault in FAULTS if "bias" in f"{fault.says} {fault.wrong} {fault.right}".lower()}
    assert "M18" in listed & of_bias
    assert len(listed) < len(FAULTS) / 10


def test_every_variant_can_be_explained(capsys):
    for fault in FAULTS:
        lines = output_of(capsys, fault.name)
        assert f"{fault.name}  {fault.says}" in lines
        for text in (fault.wrong, fault.right, fault.hidden_when, fault.seen_in):
            assert any(line.endswith(f"  {text}") for line in lines), fault.name


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("s5",), "the catalogue has no fault 's5'; did you mean S5 or S15?"),
        (("S5/dC",), "the catalogue has no fault 'S5/dC'; did you mean S5/dB or S5/dA?"),
        (("?",), "the catalogue has no fault '?'; `npl-lora faults` lists them all"),
        (
            ("T1", "--contract", "lora_merge"),
            "the catalogue has no fault 'T1' that can show in lora_merge; `npl-lora faults` lists them all",
        ),
    ],
)
def test_an_unknown_fault_is_refused_with_what_comes_closest(capsys, words, sentence):
    assert main(["faults", *words]) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", f"npl-lora: {sentence}\n")


@pytest.mark.slow
def test_it_needs_no_extra_but_that_of_the_command_line():
    extras = ("mpmath", "safetensors", "ml_dtypes", "torch", "mpi4py", "tokenizers", "matplotlib")
    code = "; ".join(
        (
            "import sys",
            f"sys.modules.update(dict.fromkeys({extras}))",  # None: an import raises ModuleNotFoundError
            "from npl_lora.cli import main",
            "sys.exit(main(['faults', 'S1']))",
        )
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "S1  alpha is used instead of s = alpha / r" in done.stdout
