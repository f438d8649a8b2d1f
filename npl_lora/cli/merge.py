"""npl-lora merge: an adapter into a full checkpoint."""

import argparse
from typing import Any

from ..models import DTYPES, export, load, own_dtype
from ..training.classes import CLASSES
from . import _arguments
from ._errors import CommandError, command_errors
from ._models import load_adapters

SUMMARY = "Merge an adapter into the weights of its model."

_DESCRIPTION = """\
Computes W + s B A in float32, or W and the weighted sum of several adapters,
and writes a folder in Hugging Face's format: config.json, model.safetensors and
the tokenizer's files. The folder must be new; it appears complete or not at
all. A weight that came out NaN or infinite, or is too large for the dtype, is
refused."""

_EXAMPLES = """\
npl-lora merge model --adapter adapter --out merged
npl-lora merge model --adapter a:0.7 --adapter b:-0.3 --out merged
npl-lora merge model.gguf --adapter adapter --out merged --dtype bfloat16"""

_EXIT_STATUS = """\
0  done
2  the model or the adapter cannot be used, or --out cannot be written"""


def add_command(commands: _arguments.Commands) -> None:
    parser = _arguments.add_parser(
        commands, "merge", SUMMARY, _DESCRIPTION, examples=_EXAMPLES, exit_status=_EXIT_STATUS
    )
    _arguments.add_model(parser)
    _arguments.add_adapter(parser, required=True)
    _arguments.add_out(parser, "the folder to write; it must not exist yet")
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help="dtype of the merged weights (default: that of the model; float32 for a quantised one)",
    )
    _arguments.add_allow_nonfinite(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Merge, and print what was written."""
    for one in arguments.adapter:
        if (one.folder / CLASSES).exists():
            raise CommandError(f"{one.folder} is the adapter of a classifier: only language models are merged")
    with command_errors(arguments.out):
        dtype = own_dtype(arguments.model) if arguments.dtype is None else arguments.dtype
        allow: Any = dict(allow_nonfinite=arguments.allow_nonfinite)
        model = load(arguments.model, **allow)
        adapter = load_adapters(model, arguments.adapter, **allow)
        assert adapter is not None  # the parser requires one
        merged = model.merged(adapter)
        export(merged, arguments.model, arguments.out, dtype, **allow)
    print(f"{merged} in {dtype} -> {arguments.out}")
    return 0
