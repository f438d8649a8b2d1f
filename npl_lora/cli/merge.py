"""npl-lora merge: an adapter into a full checkpoint."""

import argparse
import sys
from pathlib import Path

from ..models import DTYPES, export, load, own_dtype

_DESCRIPTION = """\
Put an adapter into the weights of its model, W + s B A, and write what comes of it as a Hugging Face folder:
config.json, model.safetensors and the tokenizer's files. The sum is computed in float32.

MODEL is a folder (config.json, safetensors, tokenizer.json) or a .gguf file, --adapter a folder that PEFT or `npl-lora
train` wrote. --out must be new; it is there whole or not at all."""

_EPILOG = "exit status: 0 done, 2 the model or the adapter cannot be used, or --out not written"


def add_command(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "merge",
        help="put an adapter into its model's weights",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", type=Path, help="a folder or a .gguf file")
    parser.add_argument("--adapter", metavar="DIR", type=Path, required=True, help="a LoRA adapter for it")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="a folder that is not there yet")
    parser.add_argument("--dtype", choices=DTYPES, help="default: the model's own, of a quantised one float32")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Merge, and say what was written."""
    try:
        dtype = own_dtype(arguments.model) if arguments.dtype is None else arguments.dtype
        model = load(arguments.model)
        merged = model.merged(model.load_adapter(arguments.adapter))
        export(merged, arguments.model, arguments.out, dtype)
    except ValueError as error:
        print(f"npl-lora merge: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"npl-lora merge: {error.filename or arguments.out}: {error.strerror}", file=sys.stderr)
        return 2
    print(f"{merged} in {dtype} -> {arguments.out}")
    return 0
