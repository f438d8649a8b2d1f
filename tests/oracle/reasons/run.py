"""Are the diagnosis' reasons true? Counts over three populations of subjects, as a table and a list of the bad ones.

    python tests/oracle/reasons [--population halves|edits|rounded] [--n N] [--seed S] [--contract C] [--dtype D]
                                [--jobs J]

    halves     the catalogue's faults, each in some outputs or cases alone: is the fault named first?
    edits      wrong formulas outside the catalogue: no false id, no false precision, and is the edit located?
    rounded    right formulas that round to a coarser format: is the format told?

Only the public result is read: check(subject) -> report, its diagnosis' ids and sentence.
--help explains the columns of the tables.
"""

import argparse
import itertools
import multiprocessing
import sys
import traceback
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from npl_lora.oracle import CONTRACTS, check
from npl_lora.oracle.dtypes import askable

from . import edits, halves, rounded

POPULATIONS = {"halves": halves, "edits": edits, "rounded": rounded}
N = {"halves": None, "edits": 2000, "rounded": 500}  # None: all of them


@dataclass(frozen=True)
class Result:
    """One subject's: the column that it counts in; false: an id beside the first is false."""

    name: str
    contract: str
    column: str
    false: bool
    ids: tuple[str, ...]
    says: str

    def is_bad(self, population):
        return self.column in (*POPULATIONS[population].BAD, "crash") or self.false

    def __str__(self):
        extra = " + false id" if self.false else ""
        return f"{self.column}{extra}: {self.name}: [{', '.join(self.ids)}] {self.says}"


def chosen(population, n=None, seed=0, contracts=tuple(CONTRACTS), dtypes=None):
    """n of a population's trials, drawn with this seed; all of them for None."""
    dtypes = askable() if dtypes is None else dtypes
    if population == "edits":
        return list(itertools.islice(edits.trials(contracts, dtypes, seed), n or N["edits"]))
    trials = list(POPULATIONS[population].trials(contracts, dtypes))
    if n is None or n >= len(trials):
        return trials
    order = np.random.default_rng(seed).permutation(len(trials))[:n]
    return [trials[i] for i in sorted(order)]


def result(population, trial):
    """Check one subject and score what is said of it."""
    contract, dtype, make = trial
    subject, planted = make()
    try:
        report = check(subject, dtypes=[dtype], contract=contract)
    except Exception as error:  # the diagnosis itself fails
        return Result(subject.name, contract, "crash", False, (), f"{type(error).__name__}: {error}, {_place(error)}")
    column, false = POPULATIONS[population].score(subject, planted, report)
    diagnosis = report.contracts[0].diagnosis
    return Result(subject.name, contract, column, false, diagnosis.ids, diagnosis.says)


def _place(error):
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(last.filename).name}, line {last.lineno}"


_TRIALS: list = []  # for the worker processes, which are forked


def _result_of(task):
    population, i = task
    return result(population, _TRIALS[i])


def results(population, trials, jobs=1, on=lambda done: None):
    """The results in the order of the trials."""
    _TRIALS[:] = trials
    if population == "edits":
        for contract in {contract for contract, _, _ in trials}:
            edits.warm(contract)
    tasks, found = [(population, i) for i in range(len(trials))], []
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        for one in pool.imap(_result_of, tasks) if jobs > 1 else map(_result_of, tasks):
            found.append(one)
            on(len(found))
    return found


def table(population, found):
    """Lines: a contract each, a column for each outcome, and the shares of those that were judged wrong."""
    columns = (*POPULATIONS[population].COLUMNS, "crash", "+ false id")[: None if population == "halves" else -1]
    lines = [f"{population:<17}" + "".join(f"{column:>{_width(column)}}" for column in columns)]
    for contract in (*dict.fromkeys(one.contract for one in found), "all"):
        here = [one for one in found if contract in (one.contract, "all")]
        counts = Counter(one.column for one in here) + Counter({"+ false id": sum(one.false for one in here)})
        lines.append(f"{contract:<17}" + "".join(f"{counts[column]:>{_width(column)}}" for column in columns))
    judged = max(sum(count for column, count in counts.items() if column not in ("passed", "+ false id")), 1)
    shares = [f"{100 * counts[column] / judged:.1f}%" if column != "passed" else "" for column in columns]
    return [
        *lines,
        f"{'of those wrong':<17}" + "".join(f"{s:>{_width(c)}}" for s, c in zip(shares, columns, strict=True)),
    ]


def _columns():
    lines = []
    for name, population in POPULATIONS.items():
        lines += [f"{name}:", *(f"    {column:<17}{says}" for column, says in population.COLUMNS.items())]
    more = [
        "    crash            the check raised",
        "    + false id       an id beside the first explains no failing output",
    ]
    return "\n".join([*lines, "all:", *more])


def _progress(of, done):
    print(f"\r{done}/{of} ", end="", file=sys.stderr, flush=True)


def _width(column):
    return max(len(column), 5) + 2


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python tests/oracle/reasons",
        description=__doc__,
        epilog=_columns(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--population", choices=POPULATIONS, help="all three if not given")
    parser.add_argument("--n", type=int, help="how many subjects (all halves, 2,000 edits, 500 rounded)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--contract", choices=CONTRACTS)
    parser.add_argument("--dtype", choices=askable())
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args(argv)
    contracts = [args.contract] if args.contract else list(CONTRACTS)
    dtypes = [args.dtype] if args.dtype else list(askable())
    for population in [args.population] if args.population else POPULATIONS:
        trials = chosen(population, args.n or N[population], args.seed, contracts, dtypes)
        found = results(population, trials, args.jobs, partial(_progress, len(trials)))
        print("\r", end="", file=sys.stderr)
        print(*(str(one) for one in found if one.is_bad(population)), "", *table(population, found), "", sep="\n")
