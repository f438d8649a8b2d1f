"""npl-lora train: fine-tune a language model with LoRA on the CPU."""

import argparse
import contextlib
import csv
import dataclasses
import math
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .._extras import require
from ..adapters import AdapterError, ConfigError, LoRA, LoRAConfig, files
from ..models import Model, ModelError, Tokenizer, generate, load, load_tokenizer
from ..training import checkpoint, data, loop
from ..training.schedule import SCHEDULES
from ..training.step import OPTIMIZERS, Metrics, NonFiniteError, Recipe, State

_DESCRIPTION = """\
Fine-tune a language model with LoRA, in NumPy on the CPU, and write an adapter that PEFT loads.

MODEL is a folder (config.json, safetensors, tokenizer.json) or a .gguf file, TEXT a text file in UTF-8. In --out:
  adapter_config.json, adapter_model.safetensors   the adapter, as of the last evaluation
  checkpoint.safetensors                           everything that --resume needs, as of the last save
  metrics.csv                                      a row for each step"""

_EPILOG = "exit status: 0 done, 1 a loss or a gradient is not finite, 2 bad input, 130 interrupted, 143 terminated"
_FIELDS = ("step", "loss", "held_out_loss", "lr", "gradient_norm", "tokens_per_second")


class _Stopped(Exception):
    """A signal asked for the end: its number."""


def add_command(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "train",
        help="fine-tune a language model with LoRA",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", type=Path, help="a folder or a .gguf file")
    parser.add_argument("text", metavar="TEXT", type=Path, help="what to learn from")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="where everything goes")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    lora = parser.add_argument_group("the adapter")
    lora.add_argument("--rank", type=int, default=8, metavar="R", help="default: 8")
    lora.add_argument("--alpha", type=float, default=16.0, help="the scale is alpha / R (default: 16)")
    lora.add_argument("--rslora", action="store_true", help="the scale is alpha / sqrt(R)")
    lora.add_argument("--dropout", type=float, default=0.0, metavar="P", help="on the adapter's input (default: 0)")
    lora.add_argument("--target-modules", metavar="NAMES", help="names, comma-separated (default: the model's usual)")
    how = parser.add_argument_group("the training")
    how.add_argument("--steps", type=int, default=100, metavar="N", help="default: 100")
    how.add_argument("--batch", type=int, default=4, metavar="N", help="rows a step (default: 4)")
    how.add_argument("--micro-batch", type=int, metavar="N", help="rows at a time, for less memory (default: all)")
    how.add_argument("--length", type=int, default=256, metavar="N", help="tokens a row (default: 256)")
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
    seen.add_argument("--sample", metavar="PROMPT", help="a text to continue at each evaluation")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Train, and say what happened."""
    require("rich", "cli", "the command line")
    try:
        with _signals():
            _Run(arguments).go()
    except (ModelError, AdapterError, ConfigError, data.DataError, checkpoint.CheckpointError, ValueError) as error:
        print(f"npl-lora train: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"npl-lora train: {error.filename or arguments.out}: {error.strerror}", file=sys.stderr)
        return 2
    except NonFiniteError as error:
        print(f"npl-lora train: {error}; the last checkpoint is in {arguments.out}", file=sys.stderr)
        return 1
    except _Stopped as stopped:
        number = int(str(stopped))
        print(f"npl-lora train: stopped by {signal.Signals(number).name}; --resume goes on", file=sys.stderr)
        return 128 + number
    return 0


class _Run:
    """One run: everything that can be refused is refused before the first step."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments, self.out = arguments, arguments.out
        self.recipe = _recipe(arguments)
        text = data.read_text(arguments.text)
        self.tokenizer: Tokenizer = load_tokenizer(arguments.model)
        model = load(arguments.model)
        self.model: Model = model if arguments.coded else model.held()
        if not 2 <= arguments.length <= self.model.config.positions:
            raise ValueError(f"--length is {arguments.length}, expected 2 to {self.model.config.positions} positions")
        rows = data.windows(self.tokenizer.encode(text), arguments.length)
        if not rows:
            raise data.DataError(f"{arguments.text} has fewer than two tokens")
        self.rows, self.held_out = data.split(rows, arguments.held_out)
        adapter = self.model.attach(_lora(arguments), rng=arguments.seed)
        given = ("model", "text", "batch", "length", "held_out")
        self.about: dict[str, Any] = {name: str(getattr(arguments, name)) for name in given}
        self.about |= {"recipe": dataclasses.asdict(self.recipe), "adapter": adapter.config.as_json()}
        self.state = self._begin(adapter)

    def _begin(self, adapter: LoRA) -> State:
        path = self.out / "checkpoint.safetensors"
        if self.arguments.resume:
            return checkpoint.load(path, adapter, self.about)
        if path.exists():
            raise ValueError(f"{path} is there already: --resume goes on with it, another --out begins anew")
        self.out.mkdir(parents=True, exist_ok=True)
        state = State(adapter)
        checkpoint.save(path, state, self.about)  # now, not in an hour: the folder may be read-only or full
        return state

    def go(self) -> None:
        """All steps that are left, with an evaluation and a save at the end of each stretch."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = ("steps", BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        console, micro = (
            Console(stderr=True, markup=False, highlight=False),
            self.arguments.micro_batch or self.arguments.batch,
        )
        trained = sum(array.size for array in self.state.adapter.parameters.values())
        console.print(f"{self.model}\n{trained:,} trained; {len(self.rows)} rows, {len(self.held_out)} held out")
        metrics_file = _Metrics(self.out / "metrics.csv", self.state.step)
        with Progress(*columns, console=console) as progress:
            bar = progress.add_task("", total=self.recipe.steps, completed=self.state.step)
            held = self._evaluate(micro)
            console.print(self._line(held))
            begin = time.monotonic()
            steps = loop.run(
                self.model,
                self.state,
                self.rows,
                self.recipe,
                size=self.arguments.batch,
                micro=micro,
                padding=0,
            )
            for self.state, metrics in steps:
                rate = metrics.count / (time.monotonic() - begin)
                ends = self.state.step % self.arguments.every == 0 or self.state.step == self.recipe.steps
                held = self._evaluate(micro) if ends else None
                metrics_file.add(self.state.step, metrics, held, rate)
                progress.update(bar, advance=1, description=f"loss {metrics.loss:.3f}  {rate:.0f} tokens/s")
                if ends:
                    console.print(self._line(held))
                    self._save()
                begin = time.monotonic()

    def _evaluate(self, micro: int) -> float | None:
        if not self.held_out:
            return None
        return loop.evaluate(self.model, self.state.adapter, self.held_out, micro=micro, padding=0)

    def _line(self, held: float | None) -> str:
        said = f"step {self.state.step}"
        if held is not None:
            said += f": held-out loss {held:.4f}, perplexity {math.exp(min(held, 700.0)):.2f}"
        if self.arguments.sample is not None:
            tokens = self.tokenizer.encode(self.arguments.sample)
            new = list(generate(self.model, tokens, self.state.adapter, max_tokens=40, stop=self.tokenizer.stop))
            said += f"\n  {self.tokenizer.decode([*tokens, *new])!r}"
        return said

    def _save(self) -> None:
        checkpoint.save(self.out / "checkpoint.safetensors", self.state, self.about)
        files.save(self.state.adapter, self.out, str(self.arguments.model))


class _Metrics:
    """metrics.csv: rows of steps that a resumed run takes again are left out."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        kept = []
        if path.exists():
            with path.open(newline="") as file:
                kept = [row for row in csv.DictReader(file) if (row.get("step") or "").isdigit()]
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, _FIELDS, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(row for row in kept if int(row["step"]) <= step)

    def add(self, step: int, metrics: Metrics, held: float | None, rate: float) -> None:
        row = (step, metrics.loss, "" if held is None else held, metrics.lr, metrics.norm, f"{rate:.1f}")
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow(row)


def _recipe(arguments: argparse.Namespace) -> Recipe:
    for name in ("steps", "batch", "every"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"--{name} is {getattr(arguments, name)}, expected at least 1")
    if arguments.micro_batch is not None and arguments.micro_batch < 1:
        raise ValueError(f"--micro-batch is {arguments.micro_batch}, expected at least 1")
    if not 0 <= arguments.held_out < 1:
        raise ValueError(f"--held-out is {arguments.held_out}, expected 0 <= X < 1")
    for name in ("lr", "loraplus", "clip"):
        if not 0 < getattr(arguments, name) < math.inf:
            raise ValueError(f"--{name} is {getattr(arguments, name)}, expected a number above 0")
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


def _lora(arguments: argparse.Namespace) -> LoRAConfig:
    names = arguments.target_modules
    return LoRAConfig(
        r=arguments.rank,
        lora_alpha=arguments.alpha,
        lora_dropout=arguments.dropout,
        use_rslora=arguments.rslora,
        target_modules="all-linear" if names == "all-linear" else names.split(",") if names else None,
        other={"task_type": "CAUSAL_LM"},
    )


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
