"""What every command has in common: its help, and how it refuses arguments."""

import argparse
import re

import pytest

from npl_lora import cli
from npl_lora.cli import main


def parsers(parser, words=()):
    """{the words that name a command: its parser}, with the actions of commands that have some."""
    found = {words: parser}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                found |= parsers(inner, (*words, name))
    return found


PARSERS = parsers(cli._parser())
COMMANDS = [words for words in PARSERS if words]


def help_of(words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as end:
        main([*words, "--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


def test_every_command_is_listed_once_with_its_sentence(capsys, monkeypatch):
    text = help_of((), capsys, monkeypatch)
    names = [words[0] for words in COMMANDS if len(words) == 1]
    listed = re.findall(r"^  ([a-z]+) +([A-Z].*\.)$", text, re.MULTILINE)
    assert [name for name, _ in listed] == names
    assert re.findall(r"^([a-z ]+(?:LoRA|models)):$", text, re.MULTILINE) == [
        "check implementations of LoRA",
        "run and train models",
    ]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_has_examples_defaults_and_exit_statuses(words, capsys, monkeypatch):
    text = help_of(words, capsys, monkeypatch)
    assert max(map(len, text.splitlines())) <= 80
    _, examples, statuses = re.split(r"\nexamples:\n|\nexit status:\n", text)
    assert f"npl-lora {' '.join(words)} " in examples
    assert statuses
    for action in PARSERS[words]._actions:
        if action.option_strings and not action.required and not isinstance(action, argparse._HelpAction):
            assert "default: " in action.help, action.option_strings
            if action.default not in (None, False):
                shown = action.help % {"default": action.default} if "%(" in action.help else action.help
                default = f"{action.default:g}" if isinstance(action.default, float) else action.default
                assert f"default: {default})" in shown, action.option_strings


def test_an_argument_means_the_same_in_every_command():
    """--steps, --batch, --length and --seed say what they count there, --json what it writes; --dtype of merge is one
    dtype, not a choice of cases; --adapter of train is one to go on from, not several to add up."""
    own = {"--adapter", "--steps", "--batch", "--length", "--seed", "--json", "--out", "--dtype", "--help"}
    found = {}
    for words in COMMANDS:
        for action in PARSERS[words]._actions:
            for option in set(action.option_strings) - own:
                found.setdefault(option, set()).add(
                    (action.metavar, action.dest, re.sub(r" \(default.*", "", action.help))
                )
    assert {option: kinds for option, kinds in found.items() if len(kinds) > 1} == {}


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_refused_argument_is_one_line_and_exit_2(words, capsys):
    assert main([*words, "--no-such-option"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(rf"npl-lora: .+; see npl-lora( {' '.join(words)})? --help\n", err)


def test_ctrl_c_is_one_line(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("npl_lora.cli.check.check", interrupted)
    assert main(["check", "self"]) == 130
    assert capsys.readouterr() == ("", "npl-lora: interrupted\n")
