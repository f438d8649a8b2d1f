"""npl-lora generate: a model continues a text, or answers it, as it comes."""

import argparse
import sys
import time
from pathlib import Path

from ..adapters import AdapterError
from ..models import ModelError, generate, load, load_tokenizer

_DESCRIPTION = """\
Continue PROMPT with a language model on the CPU, or with --chat answer it, and print the text as it comes.

MODEL is a folder (config.json, safetensors, tokenizer.json) or a .gguf file; --adapter a folder that PEFT or
`npl-lora train` wrote."""

_EPILOG = "exit status: 0 done, 2 the model, the adapter or the prompt cannot be used"


def add_command(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "generate",
        help="continue a text with a language model",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", type=Path, help="a folder or a .gguf file")
    parser.add_argument("prompt", metavar="PROMPT", help="the text to continue; - reads it from standard input")
    parser.add_argument("--chat", action="store_true", help="PROMPT is what a user says, by the model's chat template")
    parser.add_argument("--adapter", metavar="DIR", type=Path, help="a LoRA adapter for it")
    parser.add_argument(
        "--tokens", metavar="N", type=int, default=100, help="at most this many new ones (default: 100)"
    )
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy, 1 the model's own (default: 0)")
    parser.add_argument("--top-p", type=float, default=1.0, help="draw from the likeliest of this share (default: 1)")
    parser.add_argument("--seed", type=int, help="of what is drawn (default: another each time)")
    parser.add_argument(
        "--coded", action="store_true", help="keep a quantised model quantised: slower, an eighth of the memory"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the continuation; tokens per second go to standard error."""
    try:
        count, seconds = _print_continuation(arguments)
    except (ModelError, AdapterError, ValueError) as error:
        print(f"npl-lora generate: {error}", file=sys.stderr)
        return 2
    print(f"\n{count} tokens, {count / seconds:.1f} per second", file=sys.stderr)
    return 0


def _print_continuation(arguments: argparse.Namespace) -> tuple[int, float]:
    tokenizer = load_tokenizer(arguments.model)
    prompt = sys.stdin.read() if arguments.prompt == "-" else arguments.prompt
    begun = tokenizer.encode_question(prompt) if arguments.chat else tokenizer.encode_beginning(prompt)
    model = load(arguments.model)
    adapter = model.load_adapter(arguments.adapter) if arguments.adapter is not None else None
    model = model if arguments.coded else model.held()
    start, tokens, shown = time.monotonic(), list[int](), ""
    for token in generate(
        model,
        begun,
        adapter,
        max_tokens=arguments.tokens,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        rng=arguments.seed,
        stop=tokenizer.stop,
    ):
        tokens.append(token)
        text = tokenizer.decode(tokens)
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):  # a character whose bytes are not all there yet
            print(text[len(shown) :], end="", flush=True)
            shown = text
    print()
    return len(tokens), time.monotonic() - start
