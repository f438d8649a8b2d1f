"""The vocabulary of the command line: a command's parser, and every argument that more than one command has."""

import argparse
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ..oracle import CONTRACTS, DTYPES
from ..oracle.deviations import DeviationsError, read_deviations
from ..oracle.dtypes import dtype_by_name
from ..oracle.subjects.spelling import did_you_mean
from ..oracle.tolerance.rounding import INNER
from ._errors import CommandError

Commands = argparse._SubParsersAction  # what add_subparsers returns, and add_parser adds to


class Parser(argparse.ArgumentParser):
    """A parser that refuses arguments as the commands refuse input: CommandError, one sentence."""

    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{message}; see {self.prog} --help")


def add_parser(
    commands: Commands, name: str, summary: str, description: str, *, examples: str, exit_status: str
) -> argparse.ArgumentParser:
    """A command's parser: its help is the summary, the description, the arguments, examples and the exit status."""
    return commands.add_parser(
        name,
        help=summary,
        description=f"{summary}\n\n{description}".strip(),
        epilog=f"examples:\n{textwrap.indent(examples, '  ')}\n\nexit status:\n{textwrap.indent(exit_status, '  ')}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


# Arguments of commands that check.


def add_contract(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--contract",
        type=_contracts,
        action="extend",
        metavar="LIST",
        help=f"these contracts only, separated by commas (default: all); of {', '.join(CONTRACTS)}",
    )


def add_dtypes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dtype",
        type=_dtypes,
        action="extend",
        metavar="LIST",
        help=f"these dtypes only, separated by commas (default: {','.join(DTYPES)})",
    )


def add_precision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision",
        choices=INNER,
        help="allow matrix products to round their inputs to this format (tf32-truncated: toward zero); fp32: allow"
        " float64 to be cast to float32, and everything to be computed in it (default: nothing coarser than the dtype"
        " is allowed)",
    )


def add_forward(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--forward",
        action="store_true",
        help="ask the values alone, as of an engine for inference: gradients need not be answered, and are ignored"
        " where they are (default: they are asked and judged)",
    )


def add_expect_fail(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--expect-fail",
        metavar="FILE",
        type=_deviations,
        help="the deviations that you intend to keep, in JSON or TOML: the id of a case or a fault, and the reason; an"
        " entry that does not fail is an error (default: none)",
    )


def add_json(parser: argparse.ArgumentParser, content: str) -> None:
    add_file(parser, "--json", f"also write {content} to this file, as JSON")


def add_file(parser: argparse.ArgumentParser, option: str, what: str) -> None:
    """An option that names a file to write; stored as json_file, html_file ..."""
    name = f"{option.removeprefix('--')}_file"
    parser.add_argument(option, metavar="FILE", dest=name, type=_file, help=f"{what} (default: not written)")


# Arguments of commands that run models.


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="MODEL",
        type=Path,
        help="a folder in Hugging Face's format (config.json, safetensors, tokenizer.json), or a .gguf file",
    )


def add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", type=Path, help="the data, see above")


@dataclass(frozen=True)
class WeightedAdapter:
    """An adapter's folder, and its weight in a sum."""

    folder: Path
    weight: float

    def __str__(self) -> str:
        return str(self.folder) if self.weight == 1.0 else f"{self.folder}:{self.weight:g}"


def add_adapter(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """Stored as a list of WeightedAdapter, or None."""
    parser.add_argument(
        "--adapter",
        metavar="DIR[:WEIGHT]",
        type=weighted_adapter,
        action="append",
        required=required,
        help="a LoRA adapter of the model: a folder that PEFT or `npl-lora train` wrote; several, each with its weight,"
        " are added up (DIR alone has weight 1)" + ("" if required else " (default: none)"),
    )


def add_out(parser: argparse.ArgumentParser, what: str, required: bool = True) -> None:
    parser.add_argument("--out", metavar="DIR", type=Path, required=required, help=what)


def add_allow_nonfinite(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--allow-nonfinite",
        action="store_true",
        help="use, and write, tensors that hold NaN or infinities (default: the first is named, and nothing is done)",
    )


def add_rank(parser: argparse._ActionsContainer, default: int | None) -> None:
    """default: None where a file may give the rank too; it is 8 then."""
    parser.add_argument(
        "--rank", type=int, default=default, metavar="R", help="rank of the adapter's matrices (default: 8)"
    )


def add_target_modules(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--target-modules",
        metavar="NAMES",
        type=_module_names,
        help="modules that get an adapter: names separated by commas, or all-linear (default: the usual ones of the"
        " model's family)",
    )


def add_steps(parser: argparse._ActionsContainer, default: int, what: str) -> None:
    parser.add_argument("--steps", type=int, default=default, metavar="N", help=f"{what} (default: %(default)s)")


def add_batch(parser: argparse._ActionsContainer, default: int, what: str) -> None:
    parser.add_argument("--batch", type=int, default=default, metavar="N", help=f"{what} (default: %(default)s)")


def add_length(parser: argparse._ActionsContainer, default: int, what: str) -> None:
    parser.add_argument("--length", type=int, default=default, metavar="N", help=f"{what} (default: %(default)s)")


def add_seed(parser: argparse._ActionsContainer, what: str, default: int | None = 0) -> None:
    shown = "another one each time" if default is None else default
    parser.add_argument("--seed", type=int, default=default, metavar="N", help=f"seed of {what} (default: {shown})")


def add_coded(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--coded",
        action="store_true",
        help="keep quantised weights quantised: slower, but as little as an eighth of the memory (default: decode them"
        " once to float32)",
    )


# Checks of what was given.


def weighted_adapter(text: str) -> WeightedAdapter:
    """DIR:0.5, or DIR. A folder whose own name ends like that is taken as it is."""
    folder, colon, weight = text.rpartition(":")
    if not (colon and folder) or Path(text).exists():
        return WeightedAdapter(Path(text), 1.0)
    try:
        number = float(weight)
    except ValueError:
        return WeightedAdapter(Path(text), 1.0)
    if not abs(number) < 1e30:
        raise argparse.ArgumentTypeError(f"{text!r} has the weight {weight}, expected a number between -1e30 and 1e30")
    return WeightedAdapter(Path(folder), number)


def positive_count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


def positive_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of seconds")
    return seconds


def _contracts(text: str) -> list[str]:
    return _names(text, CONTRACTS)


def _dtypes(text: str) -> list[str]:
    """Raises MissingExtraError for a dtype that needs a package that is not installed."""
    names = _names(text, DTYPES)
    for name in names:
        dtype_by_name(name)
    return names


def _names(text: str, known: Iterable[str]) -> list[str]:
    """Names separated by commas, of those that are known."""
    names, known = text.split(","), tuple(known)
    if unknown := [name for name in names if name not in known]:
        close = did_you_mean(unknown[0], known)
        raise argparse.ArgumentTypeError(f"{', '.join(map(repr, unknown))} is not one of {', '.join(known)}{close}")
    return names


def _deviations(text: str) -> dict[str, str]:
    try:
        return read_deviations(Path(text))
    except DeviationsError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _file(text: str) -> Path:
    """A file that can be written later: a long check should not end with the news that it cannot."""
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text} cannot be written: {path.parent} is not a folder")
    return path


def _module_names(text: str) -> str | list[str]:
    return text if text == "all-linear" else text.split(",")
