"""npl-lora generate: a model continues a text, or answers it."""

import argparse
import sys
import time

import numpy as np

from ..adapters import Adapter
from ..models import LogitsError, Model, generate, load, load_tokenizer
from ..training.nonfinite import origin
from . import _arguments
from ._errors import CommandError, command_errors
from ._models import load_adapters, ready

SUMMARY = "Continue a text with a language model, or answer it."

_DESCRIPTION = """\
Prints the text token by token. With --chat, PROMPT is the user's message, and
the model answers it, by its chat template."""

_EXAMPLES = """\
npl-lora generate model.gguf "The capital of France is" --tokens 40
npl-lora generate model "What is LoRA?" --chat --adapter adapter
npl-lora generate model "What is LoRA?" --adapter a:0.7 --adapter b:0.3
npl-lora generate model - < prompt.txt"""

_EXIT_STATUS = """\
0  done
1  the logits are not finite
2  the model, the adapter or the prompt cannot be used"""


def add_command(commands: _arguments.Commands) -> None:
    parser = _arguments.add_parser(
        commands, "generate", SUMMARY, _DESCRIPTION, examples=_EXAMPLES, exit_status=_EXIT_STATUS
    )
    _arguments.add_model(parser)
    parser.add_argument("prompt", metavar="PROMPT", help="the text to continue; - reads it from standard input")
    parser.add_argument(
        "--chat", action="store_true", help="answer PROMPT as a user's message (default: continue it as text)"
    )
    _arguments.add_adapter(parser)
    parser.add_argument(
        "--tokens", metavar="N", type=int, default=100, help="new tokens to print, at most (default: %(default)s)"
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        metavar="X",
        help="0 takes the likeliest token; 1 draws from the model's own distribution, larger draws more evenly"
        " (default: %(default)g)",
    )
    parser.add_argument(
        "--top-p",
        type=float,
        default=1.0,
        metavar="P",
        help="draw from the likeliest tokens whose probabilities add up to this share (default: %(default)g)",
    )
    _arguments.add_seed(parser, "what is drawn", default=None)
    _arguments.add_coded(parser)
    _arguments.add_allow_nonfinite(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the continuation. Tokens per second go to standard error."""
    with command_errors(arguments.model):
        count, seconds = _print_continuation(arguments)
    print(f"\n{count} tokens, {count / seconds:.1f} per second", file=sys.stderr)
    return 0


def _print_continuation(arguments: argparse.Namespace) -> tuple[int, float]:
    tokenizer = load_tokenizer(arguments.model)
    prompt = sys.stdin.read() if arguments.prompt == "-" else arguments.prompt
    tokens = tokenizer.encode_question(prompt) if arguments.chat else tokenizer.encode_beginning(prompt)
    model = load(arguments.model, allow_nonfinite=arguments.allow_nonfinite)
    adapter = load_adapters(model, arguments.adapter, arguments.allow_nonfinite)
    model = ready(model, arguments.coded)
    start, new, shown = time.monotonic(), list[int](), ""
    try:
        for token in generate(
            model,
            tokens,
            adapter,
            max_tokens=arguments.tokens,
            temperature=arguments.temperature,
            top_p=arguments.top_p,
            rng=arguments.seed,
            stop=tokenizer.stop,
        ):
            new.append(token)
            text = tokenizer.decode(new)
            if not text.endswith("\N{REPLACEMENT CHARACTER}"):  # the bytes of its last character are not complete yet
                print(text[len(shown) :], end="", flush=True)
                shown = text
    except LogitsError as error:
        raise CommandError(f"{error}{_origin(model, adapter, [*tokens, *new])}", 1) from None
    print()
    return len(new), time.monotonic() - start


def _origin(model: Model, adapter: Adapter | None, tokens: list[int]) -> str:
    return origin(lambda ops: model.logits(np.asarray([tokens]), adapter, ops=ops), model, adapter)
