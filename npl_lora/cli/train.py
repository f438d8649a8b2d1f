"""npl-lora train: fine-tune a language model with LoRA on the CPU."""

import argparse
import contextlib
import signal
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..adapters import Adapter, LoRA
from ..adapters.lora import check_trained
from ..models import Model, Pretrained, Tokenizer, generate, load, load_classifier, load_tokenizer
from ..support.extras import MissingExtraError
from ..support.quoting import quote_value
from ..support.ranks import Ranks, RanksError, join_ranks
from ..training import checkpoint
from ..training.classes import read_classes
from ..training.curve import draw
from ..training.data import Data, is_classified
from ..training.run import CHECKPOINT, Event, Run
from ..training.step import NonFiniteError
from . import _arguments, _data, _train_options
from ._errors import CommandError, command_errors, end_together
from ._models import ready

if TYPE_CHECKING:
    from ._screen import Screen

SUMMARY = "Fine-tune a language model, or a classifier of texts, with LoRA."

_DESCRIPTION = f"""\
Trains in NumPy on the CPU, and writes an adapter that PEFT loads. A run that is
interrupted resumes with --resume and ends with the same bits as a run that was
never interrupted.

{_data.FORMATS}
A row longer than --length loses its end. Part of the data is held out to
evaluate on: the end of a text, or a random share of the rows, the same in every
run.

--out gets
  adapter_config.json, adapter_model.safetensors
                           the adapter after the last evaluation; with
                           --patience, after the best one
  checkpoint.safetensors   everything that --resume needs
  metrics.csv              a row for each step; row 0 has the held-out loss
                           before the first step
  curve.png                the losses as a picture (needs the extra plots)
  classes.json             the class names of a classifier"""

_EXAMPLES = """\
npl-lora train model.gguf text.txt --out adapter --steps 100 --lr 1e-3
npl-lora train model chats.jsonl --look
npl-lora train model chats.jsonl --out adapter --rank 16 --patience 3
npl-lora train bert reviews.csv --out adapter --text-column review
npl-lora train model more.txt --out better --adapter adapter
npl-lora train model text.txt --out adapter --resume
mpiexec -n 4 npl-lora train model text.txt --out adapter"""

_EXIT_STATUS = """\
0    done
1    a loss or a gradient is not finite
2    bad input
130  interrupted (Ctrl-C)
143  terminated (SIGTERM)"""


class _Stopped(Exception):
    """A signal asked for the end. step: the step that --resume continues from, once the run has started."""

    step: int | None = None


def add_command(commands: _arguments.Commands) -> None:
    parser = _arguments.add_parser(
        commands, "train", SUMMARY, _DESCRIPTION, examples=_EXAMPLES, exit_status=_EXIT_STATUS
    )
    _arguments.add_model(parser)
    _arguments.add_data(parser)
    _arguments.add_out(parser, "the folder to write, see above (default: none; needed without --look)", False)
    parser.add_argument(
        "--look",
        action="store_true",
        help="print the first rows as they will be learned, and end: nothing is trained, and --out is not needed"
        " (default: train)",
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue from the checkpoint in --out (default: start a new run)"
    )
    _train_options.add_adapter_options(parser.add_argument_group("the adapter"))
    _train_options.add_training_options(parser.add_argument_group("the training"))
    _train_options.add_evaluation_options(parser.add_argument_group("the evaluation"))
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Train, and report how it went."""
    if arguments.look:
        with command_errors():
            _look(arguments)
        return 0
    if arguments.out is None:
        raise CommandError("--out is missing: name the folder to write; see npl-lora train --help", 2)
    ranks = join_ranks()
    with end_together(ranks):
        try:
            with _signals(), command_errors(arguments.out):
                _train(arguments, ranks)
        except (NonFiniteError, RanksError) as error:
            raise CommandError(f"{error}; the last checkpoint is in {arguments.out}", 1) from None
        except _Stopped as stopped:
            number = int(str(stopped))
            rest = "--resume continues" if (arguments.out / CHECKPOINT).exists() else "nothing was saved"
            rest += "" if stopped.step is None else f" from step {stopped.step}"
            raise CommandError(f"stopped by {signal.Signals(number).name}; {rest}", 128 + number) from None
    return 0


def _train(arguments: argparse.Namespace, ranks: Ranks) -> None:
    """Whatever can be refused is refused before the first step."""
    from ._screen import Screen

    recipe, tokenizer = _train_options.recipe(arguments), load_tokenizer(arguments.model)
    if arguments.resume and tokenizer.template is not None:
        tokenizer.template.now = _begun(arguments.out / CHECKPOINT) or tokenizer.template.now
    rows, pooling = _read(arguments, tokenizer)
    if rows.classes is not None and arguments.sample is not None:
        raise ValueError("--sample needs a language model: a classifier does not continue text")
    allow: Any = dict(allow_nonfinite=arguments.allow_nonfinite)
    model: Pretrained = (
        load(arguments.model, **allow)
        if rows.classes is None
        else load_classifier(arguments.model, rows.classes, pooling=pooling, **allow)
    )
    model = ready(model, arguments.coded)
    _data.check_length(arguments.length, model)
    running = Run(
        model,
        _begin(arguments, model, "CAUSAL_LM" if rows.classes is None else "SEQ_CLS"),
        *rows.split(arguments.held_out),
        recipe,
        arguments.out,
        batch=arguments.batch,
        micro_batch=arguments.micro_batch,
        every=arguments.every,
        patience=arguments.patience,
        base=str(arguments.model),
        about=_about(arguments, tokenizer),
        resume=arguments.resume,
        **allow,
        ranks=ranks,
    )
    screen = Screen(quiet=ranks.rank > 0)
    screen.note(str(model))
    for sentence in (_data.description(rows, arguments.length), *rows.notes):
        screen.note(sentence)
    screen.print_rows(_data.first_rows(rows, tokenizer), note=True)
    if ranks.size > 1:
        screen.note(f"{ranks.size} ranks: if one dies all end, and --resume continues")
    try:
        _take_steps(running, screen, tokenizer, arguments.sample)
    except _Stopped as stopped:
        stopped.step = running.keep()
        raise
    if ranks.rank > 0:
        return
    try:
        draw(arguments.out)
    except MissingExtraError as error:
        screen.note(str(error))


def _read(arguments: argparse.Namespace, tokenizer: Tokenizer) -> tuple[Data, str | None]:
    """The rows, and the pooling of the classifier that training goes on from: its classes keep their order."""
    classes, pooling = None, None
    if arguments.adapter is not None:
        _check_adapter_alone(arguments)
        if is_classified(arguments.data, arguments.text):
            classes, pooling = read_classes(arguments.adapter[0])
    return _data.read(arguments, tokenizer, classes), pooling


def _check_adapter_alone(arguments: argparse.Namespace) -> None:
    """Raises ValueError for what the adapter already decides."""
    if len(arguments.adapter) > 1:
        raise ValueError("--adapter is there more than once: `npl-lora combine` makes one adapter of several")
    for name in ("rank", "alpha", "rslora", "target_modules", "lora"):
        if getattr(arguments, name) is not None:
            option = f"--{name.replace('_', '-')}"
            raise ValueError(f"{option} and --adapter exclude each other: {arguments.adapter[0]} decides it")


def _begin(arguments: argparse.Namespace, model: Pretrained, task: str) -> LoRA:
    """A new adapter, or the one to go on from. Dropout is of the training, and may be another."""
    if arguments.adapter is None:
        return model.attach(_train_options.lora_config(arguments, task), rng=arguments.seed)
    found = model.load_adapter(arguments.adapter[0], allow_nonfinite=arguments.allow_nonfinite)
    found = found if arguments.dropout is None else found.with_dropout(arguments.dropout)
    check_trained(found.config)
    return found


def _look(arguments: argparse.Namespace) -> None:
    """Print how the data will be learned."""
    from ._screen import Screen

    screen, tokenizer = Screen(), load_tokenizer(arguments.model)
    rows, _ = _read(arguments, tokenizer)
    screen.print_sentences([_data.description(rows, arguments.length), *rows.notes])
    screen.print_rows(_data.first_rows(rows, tokenizer))


def _about(arguments: argparse.Namespace, tokenizer: Tokenizer) -> dict[str, str]:
    """What must be the same when the run resumes. The date is there if the chat template shows it."""
    about = {name: str(getattr(arguments, name)) for name in ("length", "held_out")}
    if tokenizer.template is not None and tokenizer.template.shows_date:
        about["date"] = tokenizer.template.now.isoformat()
    return about


def _begun(path: Path) -> datetime | None:
    """The date that the run's rows show, if they do."""
    if not path.exists():  # Run says so
        return None
    date = checkpoint.read_about(path).get("date")
    try:
        return None if date is None else datetime.fromisoformat(date)
    except (TypeError, ValueError):
        raise checkpoint.CheckpointError(f"{path} cannot be used: it has date = {quote_value(date)}") from None


def _take_steps(running: Run, screen: "Screen", tokenizer: Tokenizer, prompt: str | None) -> None:
    """Take the steps that are left, with a bar, and print a line for each evaluation."""
    trained = sum(array.size for array in running.state.adapter.parameters.values())
    screen.note(
        f"{trained:,} parameters trained; {len(running.rows)} rows to learn from, {len(running.held_out)} held out"
    )
    first = f"evaluating {len(running.held_out)} rows" if running.held_out else ""
    with screen.step_progress(first, running.state.step, running.recipe.steps) as on_step:
        for event in running.go():
            if event.metrics is not None:
                on_step(event.step, f"loss {event.metrics.loss:.4g}  {event.rate:.0f} tokens/s")
            if event.saved:
                screen.note(_line(event))
                if prompt is not None and isinstance(running.model, Model) and not screen.quiet:
                    screen.note(f"  {_sample(running.model, running.state.adapter, tokenizer, prompt)!r}")
    if running.patience is not None:
        best = running.state.best
        screen.note(f"the adapter is that of step {best.step}, held-out loss {best.loss:.4f}")


def _line(event: Event) -> str:
    held = event.held_out
    if held is None:
        return f"step {event.step}"
    also = f"perplexity {held.perplexity:.4g}" if held.accuracy is None else f"accuracy {held.accuracy:.4f}"
    best = ", the best so far" if event.is_best and event.step else ""
    return f"step {event.step}: held-out loss {held.loss:.5g}, {also}{best}"


def _sample(model: Model, adapter: Adapter, tokenizer: Tokenizer, prompt: str) -> str:
    tokens = tokenizer.encode_beginning(prompt)
    new = generate(model, tokens, adapter, max_tokens=40, stop=tokenizer.stop)
    return tokenizer.decode([*tokens, *new])


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM raise _Stopped. The files on disk stay complete."""

    def stop(number: int, _: Any) -> None:
        raise _Stopped(str(number))

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
