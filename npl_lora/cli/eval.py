"""npl-lora eval: the loss of a model on data, alone or with an adapter."""

import argparse
import json
import sys
from typing import Any

from ..adapters import Adapter
from ..models import Pretrained, load, load_classifier, load_tokenizer
from ..training import data
from ..training.classes import read_classes
from ..training.loop import Evaluation, evaluate_rows
from ..training.step import NonFiniteError
from . import _arguments, _data
from ._errors import CommandError, command_errors
from ._models import load_adapters, ready
from ._output import write_text

SUMMARY = "Measure the loss of a language model, or a classifier's accuracy."

_DESCRIPTION = f"""\
Prints the mean loss over the labels of DATA, computed in float32, and the
perplexity of a language model or the accuracy of a classifier. A .csv needs the
--adapter that `npl-lora train` wrote for a .csv: it holds the class names.

{_data.FORMATS}"""

_EXAMPLES = """\
npl-lora eval model text.txt --length 128
npl-lora eval bert reviews.csv --adapter adapter --json figures.json"""

_EXIT_STATUS = """\
0  done
1  the loss is not finite
2  bad input"""


def add_command(commands: _arguments.Commands) -> None:
    parser = _arguments.add_parser(
        commands, "eval", SUMMARY, _DESCRIPTION, examples=_EXAMPLES, exit_status=_EXIT_STATUS
    )
    _arguments.add_model(parser)
    _arguments.add_data(parser)
    _arguments.add_adapter(parser)
    _data.add_options(parser)
    _arguments.add_batch(parser, 4, "rows at a time")
    _arguments.add_coded(parser)
    _arguments.add_allow_nonfinite(parser)
    _arguments.add_json(parser, "the numbers")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the figures."""
    try:
        with command_errors(arguments.data):
            rows, result = _evaluate(arguments)
    except NonFiniteError as error:
        raise CommandError(str(error), 1) from None
    print(_data.description(rows, arguments.length), *rows.notes, sep="\n", file=sys.stderr)
    print(_line(result))
    if arguments.json_file is not None:
        write_text(arguments.json_file, json.dumps(_figures(arguments, rows, result), indent=2) + "\n")
    return 0


def _evaluate(arguments: argparse.Namespace) -> tuple[data.Data, Evaluation]:
    if arguments.batch < 1:
        raise ValueError(f"--batch is {arguments.batch}, expected at least 1")
    classes, pooling = None, None
    if data.is_classified(arguments.data, arguments.text):
        if arguments.adapter is None:
            raise ValueError("--adapter is required for a table (.csv, .tsv): it holds the class names")
        if len(arguments.adapter) > 1 or arguments.adapter[0].weight != 1.0:
            raise ValueError("--adapter has a weight, or is there more than once: a classifier takes one, as it is")
        classes, pooling = read_classes(arguments.adapter[0].folder)
    rows = _data.read(arguments, load_tokenizer(arguments.model), classes)
    allow: Any = dict(allow_nonfinite=arguments.allow_nonfinite)
    model: Pretrained = (
        load(arguments.model, **allow)
        if classes is None
        else load_classifier(arguments.model, classes, pooling=pooling, **allow)
    )
    _data.check_length(arguments.length, model)
    data.check(rows.rows, model.config.vocabulary, model.config.positions)
    adapter = load_adapters(model, arguments.adapter, **allow)
    model = ready(model, arguments.coded)
    return rows, _evaluate_with_bar(model, adapter, rows, arguments.batch)


def _evaluate_with_bar(model: Pretrained, adapter: Adapter | None, rows: data.Data, batch: int) -> Evaluation:
    from ._screen import Screen

    done = 0
    with Screen().progress("evaluating") as on_progress:

        def advance(count: int) -> None:
            nonlocal done
            done += count
            on_progress("rows", done, len(rows.rows))

        return evaluate_rows(model, adapter, rows.rows, micro=batch, padding=0, on_progress=advance)


def _line(result: Evaluation) -> str:
    also = f"perplexity {result.perplexity:.2f}" if result.accuracy is None else f"accuracy {result.accuracy:.4f}"
    return f"loss {result.loss:.4f}, {also}, over {result.count:,} labels"


def _figures(arguments: argparse.Namespace, rows: data.Data, result: Evaluation) -> dict[str, Any]:
    figures: dict[str, Any] = {name: str(getattr(arguments, name)) for name in ("model", "data")}
    figures["adapter"] = None if arguments.adapter is None else " ".join(map(str, arguments.adapter))
    figures |= {"length": arguments.length, "rows": len(rows.rows), "cut": rows.cut, "left_out": rows.left_out}
    figure = {"perplexity": result.perplexity} if result.accuracy is None else {"accuracy": result.accuracy}
    return {**figures, "labels": result.count, "loss": result.loss, **figure}
