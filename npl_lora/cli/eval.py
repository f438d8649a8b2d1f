"""npl-lora eval: the loss of a model on data, alone or with an adapter."""

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

from ..adapters import LoRA
from ..models import Pretrained, load, load_classifier, load_tokenizer
from ..support.extras import require
from ..support.files import write_atomically
from ..training import data
from ..training.classes import read_classes
from ..training.loop import Evaluation, judged
from ..training.step import NonFiniteError
from . import _data

_DESCRIPTION = f"""\
The loss of a language model on data, and its perplexity; of a classifier, its accuracy. Computed in float32.

MODEL is a folder (config.json, safetensors, tokenizer.json) or a .gguf file, --adapter a folder that PEFT or `npl-lora
train` wrote; a .csv needs one that `npl-lora train` wrote for a .csv.

{_data.FORMATS}"""

_EPILOG = "exit status: 0 done, 1 the loss is not finite, 2 bad input"


def add_command(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "eval",
        help="the loss of a language model, or the accuracy of a classifier",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", type=Path, help="a folder or a .gguf file")
    parser.add_argument("data", metavar="DATA", type=Path, help="what to judge by")
    parser.add_argument("--adapter", metavar="DIR", type=Path, help="a LoRA adapter for the model")
    _data.add_options(parser)
    parser.add_argument("--batch", type=int, default=4, metavar="N", help="rows at a time (default: 4)")
    parser.add_argument("--coded", action="store_true", help="keep a quantised model quantised: slower, less memory")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the numbers there too")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the figures."""
    require("rich", "cli", "the command line")
    try:
        found, result = _judge(arguments)
        print(_data.described(found, arguments.length), file=sys.stderr)
        print(_line(result))
        if arguments.json is not None:
            write_atomically(arguments.json, (json.dumps(_figures(arguments, found, result), indent=2) + "\n").encode())
    except ValueError as error:
        print(f"npl-lora eval: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"npl-lora eval: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except NonFiniteError as error:
        print(f"npl-lora eval: {error}", file=sys.stderr)
        return 1
    return 0


def _judge(arguments: argparse.Namespace) -> tuple[data.Data, Evaluation]:
    if arguments.json is not None and not arguments.json.parent.is_dir():
        raise ValueError(f"--json is {arguments.json}, expected a file in a folder that is there")
    if arguments.batch < 1:
        raise ValueError(f"--batch is {arguments.batch}, expected at least 1")
    classes, pooling = None, None
    if data.is_classified(arguments.data):
        if arguments.adapter is None:
            raise ValueError("--adapter is missing: what a model takes for classes is in an adapter")
        classes, pooling = read_classes(arguments.adapter)
    found = _data.read(arguments, load_tokenizer(arguments.model), classes)
    model: Pretrained = (
        load(arguments.model) if classes is None else load_classifier(arguments.model, classes, pooling=pooling)
    )
    _data.check_length(arguments.length, model)
    data.check(found.rows, model.config.vocabulary, model.config.positions)
    adapter = None if arguments.adapter is None else model.load_adapter(arguments.adapter)
    model = model if arguments.coded else model.held()
    return found, _shown(model, adapter, found, arguments.batch)


def _shown(model: Pretrained, adapter: LoRA | None, found: data.Data, batch: int) -> Evaluation:
    """With a bar while it lasts, where somebody looks."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("rows", total=len(found.rows))
        seen = partial(progress.advance, bar)
        return judged(model, adapter, found.rows, micro=batch, padding=0, seen=seen)


def _line(result: Evaluation) -> str:
    also = f"perplexity {result.perplexity:.2f}" if result.accuracy is None else f"accuracy {result.accuracy:.4f}"
    return f"loss {result.loss:.4f}, {also}, over {result.count:,} labels"


def _figures(arguments: argparse.Namespace, found: data.Data, result: Evaluation) -> dict[str, Any]:
    given = {name: getattr(arguments, name) for name in ("model", "data", "adapter")}
    said: dict[str, Any] = {name: None if value is None else str(value) for name, value in given.items()}
    said |= {"length": arguments.length, "rows": len(found.rows), "cut": found.cut, "left_out": found.left_out}
    figure = {"perplexity": result.perplexity} if result.accuracy is None else {"accuracy": result.accuracy}
    return {**said, "labels": result.count, "loss": result.loss, **figure}
