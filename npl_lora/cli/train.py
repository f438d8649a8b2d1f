"""npl-lora train: fine-tune a language model with LoRA on the CPU."""

import argparse
import contextlib
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ..adapters import ConfigError, LoRA, LoRAConfig
from ..adapters.config import check_names
from ..models import Model, Pretrained, Tokenizer, generate, load, load_classifier, load_tokenizer
from ..support.extras import MissingExtraError, require
from ..support.ranks import Ranks, RanksError, join_ranks
from ..support.tensor_file import TensorFileError, json_object
from ..training.curve import draw
from ..training.run import CHECKPOINT, Event, Run
from ..training.schedule import SCHEDULES
from ..training.step import OPTIMIZERS, NonFiniteError, Recipe
from . import _data
from ._many import ended, together

_DESCRIPTION = f"""\
Fine-tune a language model, or a BERT as a classifier, with LoRA, in NumPy on the CPU, and write an adapter that PEFT
loads.

MODEL is a folder (config.json, safetensors, tokenizer.json) or a .gguf file.

{_data.FORMATS}
A row longer than --length loses its end. Of a text the end is held out, of rows a share drawn once and for all.

In --out:
  adapter_config.json, adapter_model.safetensors   the adapter, as of the last evaluation; with --patience, of the best
  checkpoint.safetensors                           everything that --resume needs, as of the last save
  metrics.csv, curve.png                           a row for each step, in row 0 the held-out loss before the first;
                                                   the losses as a picture (extra plots)
  classes.json                                     the names of a classifier's classes"""

_EPILOG = "exit status: 0 done, 1 a loss or a gradient is not finite, 2 bad input, 130 interrupted, 143 terminated"


class _Stopped(Exception):
    """A signal asked for the end. step: which one a run goes on from, where it had begun."""

    step: int | None = None


def add_command(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "train",
        help="fine-tune a language model with LoRA",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", type=Path, help="a folder or a .gguf file")
    parser.add_argument("data", metavar="DATA", type=Path, help="what to learn from")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="where everything goes")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    lora = parser.add_argument_group("the adapter")
    lora.add_argument("--rank", type=int, metavar="R", help="default: 8")
    lora.add_argument("--alpha", type=float, help="the scale is alpha / R (default: 16)")
    lora.add_argument("--rslora", action="store_true", default=None, help="the scale is alpha / sqrt(R)")
    lora.add_argument("--dropout", type=float, metavar="P", help="on the adapter's input (default: 0)")
    lora.add_argument("--target-modules", metavar="NAMES", help="names, comma-separated (default: the model's usual)")
    lora.add_argument("--lora", metavar="FILE", type=Path, help="a JSON object with PEFT's fields (bias, rank_pattern,"
                      " layers_to_transform, modules_to_save, ...), an adapter_config.json for one; what is said here"
                      " on the command line goes first")  # fmt: skip
    how = parser.add_argument_group("the training")
    how.add_argument("--steps", type=int, default=100, metavar="N", help="default: 100")
    how.add_argument("--batch", type=int, default=4, metavar="N", help="rows a step (default: 4)")
    how.add_argument("--micro-batch", type=int, metavar="N", help="rows at a time, for less memory (default: all,"
                     " or a rank's share)")  # fmt: skip
    _data.add_options(how)
    how.add_argument("--lr", type=float, default=2e-4, help="learning rate (default: 2e-4)")
    how.add_argument("--optimizer", choices=OPTIMIZERS, default="adamw", help="default: adamw")
    how.add_argument("--loraplus", type=float, default=1.0, metavar="X", help="B learns X times as fast (default: 1)")
    how.add_argument("--weight-decay", type=float, default=0.0, metavar="X", help="default: 0")
    how.add_argument("--clip", type=float, default=1.0, metavar="X", help="largest gradient norm (default: 1)")
    how.add_argument("--schedule", choices=SCHEDULES, default="cosine", help="of the rate (default: cosine)")
    how.add_argument("--warmup", type=int, default=0, metavar="N", help="steps until the full rate (default: 0)")
    how.add_argument("--seed", type=int, default=0, help="of A, of the data's order, of dropout (default: 0)")
    how.add_argument("--coded", action="store_true", help="keep a quantised model quantised: slower, less memory")
    seen = parser.add_argument_group("what is seen of it")
    seen.add_argument("--held-out", type=float, default=0.1, metavar="X", help="share to evaluate on (default: 0.1)")
    seen.add_argument("--every", type=int, default=25, metavar="N", help="steps between evaluations, each of which"
                      " saves (default: 25)")  # fmt: skip
    seen.add_argument("--patience", type=int, metavar="N", help="end after N evaluations whose held-out loss is not the"
                      " lowest, and leave the adapter of the lowest (default: take all steps)")  # fmt: skip
    seen.add_argument("--sample", metavar="PROMPT", help="a text to continue at each evaluation")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Train, and say what happened."""
    require("rich", "cli", "the command line")
    ranks = join_ranks()
    with together("train", ranks):
        return _run(arguments, ranks)


def _run(arguments: argparse.Namespace, ranks: Ranks) -> int:
    end = partial(ended, "train", ranks)
    try:
        with _signals():
            _go(arguments, ranks)
    except ValueError as error:  # of the model, the adapter, the data, the checkpoint: one sentence
        return end(str(error), 2)
    except OSError as error:
        return end(f"{error.filename or arguments.out}: {error.strerror}", 2)
    except (NonFiniteError, RanksError) as error:
        return end(f"{error}; the last checkpoint is in {arguments.out}", 1)
    except _Stopped as stopped:
        number = int(str(stopped))
        on = "--resume goes on" if (arguments.out / CHECKPOINT).exists() else "nothing is begun"
        on += "" if stopped.step is None else f" from step {stopped.step}"
        return end(f"stopped by {signal.Signals(number).name}; {on}", 128 + number)
    return 0


def _go(arguments: argparse.Namespace, ranks: Ranks) -> None:
    """Everything that can be refused is refused before the first step."""
    recipe, tokenizer = _recipe(arguments), load_tokenizer(arguments.model)
    found = _data.read(arguments, tokenizer)
    if found.classes is not None and arguments.sample is not None:
        raise ValueError("--sample is a text to continue, and a classifier continues none")
    model: Pretrained = (
        load(arguments.model) if found.classes is None else load_classifier(arguments.model, found.classes)
    )
    model = model if arguments.coded else model.held()
    _data.check_length(arguments.length, model)
    going = Run(
        model,
        model.attach(_lora(arguments, "CAUSAL_LM" if found.classes is None else "SEQ_CLS"), rng=arguments.seed),
        *found.split(arguments.held_out),
        recipe,
        arguments.out,
        batch=arguments.batch,
        micro_batch=arguments.micro_batch,
        every=arguments.every,
        patience=arguments.patience,
        base=str(arguments.model),
        about={name: str(getattr(arguments, name)) for name in ("length", "held_out")},
        resume=arguments.resume,
        ranks=ranks,
    )
    from rich.console import Console

    console = Console(stderr=True, markup=False, highlight=False, quiet=ranks.rank > 0)
    console.print(f"{model}\n{_data.described(found, arguments.length)}")
    if ranks.size > 1:
        console.print(f"{ranks.size} ranks: if one dies all end, and --resume goes on")
    try:
        _show(going, console, tokenizer, arguments.sample)
    except _Stopped as stopped:
        stopped.step = going.keep()
        raise
    if ranks.rank > 0:
        return
    try:
        draw(arguments.out)
    except MissingExtraError as error:
        console.print(f"{error}")


def _show(going: Run, console: Any, tokenizer: Tokenizer, prompt: str | None) -> None:
    """All steps that are left, with a bar, a line for each evaluation, and how it ended."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = ("steps", BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    trained = sum(array.size for array in going.state.adapter.parameters.values())
    console.print(
        f"{trained:,} parameters trained; {len(going.rows)} rows to learn from, {len(going.held_out)} held out"
    )
    with Progress(*columns, console=console, speed_estimate_period=3600) as progress:  # a step may take minutes
        first = f"evaluating {len(going.held_out)} rows" if going.held_out else ""
        bar = progress.add_task(first, total=going.recipe.steps, completed=going.state.step)
        for event in going.go():
            if event.metrics is not None:
                said = f"loss {event.metrics.loss:.4g}  {event.rate:.0f} tokens/s"
                progress.update(bar, completed=event.step, description=said)
            if event.saved:
                console.print(_line(event))
                if prompt is not None and isinstance(going.model, Model) and not console.quiet:
                    console.print(f"  {_sample(going.model, going.state.adapter, tokenizer, prompt)!r}")
    if going.patience is not None:
        best = going.state.best
        console.print(f"the adapter is that of step {best.step}, held-out loss {best.loss:.4f}")


def _line(event: Event) -> str:
    held = event.held_out
    if held is None:
        return f"step {event.step}"
    also = f"perplexity {held.perplexity:.4g}" if held.accuracy is None else f"accuracy {held.accuracy:.4f}"
    best = ", the best so far" if event.is_best and event.step else ""
    return f"step {event.step}: held-out loss {held.loss:.5g}, {also}{best}"


def _sample(model: Model, adapter: LoRA, tokenizer: Tokenizer, prompt: str) -> str:
    tokens = tokenizer.encode_beginning(prompt)
    new = generate(model, tokens, adapter, max_tokens=40, stop=tokenizer.stop)
    return tokenizer.decode([*tokens, *new])


def _recipe(arguments: argparse.Namespace) -> Recipe:
    return Recipe(
        steps=arguments.steps,
        lr=arguments.lr,
        optimizer=arguments.optimizer,
        weight_decay=arguments.weight_decay,
        loraplus_ratio=arguments.loraplus,
        clip=arguments.clip,
        schedule=arguments.schedule,
        warmup=arguments.warmup,
        seed=arguments.seed,
    )


def _lora(arguments: argparse.Namespace, task: str) -> LoRAConfig:
    """The file's fields, or the defaults here, and over them what the command line says."""
    fields: dict[str, Any] = {"r": 8, "lora_alpha": 16.0}
    if arguments.lora is not None:
        try:
            fields |= json_object(arguments.lora.read_bytes(), str(arguments.lora))
        except TensorFileError as error:
            raise ConfigError(str(error)) from None
        check_names(fields)
    names = arguments.target_modules
    said = {
        "r": arguments.rank,
        "lora_alpha": arguments.alpha,
        "lora_dropout": arguments.dropout,
        "use_rslora": arguments.rslora,
        "target_modules": names if names in (None, "all-linear") else names.split(","),
    }
    given = {name: value for name, value in said.items() if value is not None}
    return LoRAConfig.from_json({**fields, **given, "task_type": task})


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the run where it is: what is on the disk is whole."""

    def stop(number: int, _: Any) -> None:
        raise _Stopped(str(number))

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
