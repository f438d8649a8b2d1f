"""One process, or one of many that mpiexec started: who does what, and how results come together.

    ranks = started()
    losses = ranks.each(loss, batches)  # each batch by one rank, the list on all of them

Everything here is called by all ranks in the same order. A plain run has one rank, `ALONE`, and never imports mpi4py.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np

from .extras import require

# What the launchers tell their processes: MPICH's, Intel's and Slurm's; Open MPI's.
_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")


class RanksError(RuntimeError):
    """Ranks that should hold the same do not. One sentence."""


class Ranks:
    """One process alone: it does all, and has all."""

    rank, size = 0, 1

    def mine(self, count: int) -> range:
        """Which of `count` things this rank does: every size-th."""
        return range(self.rank, count, self.size)

    def each(self, work: Callable[[Any], Any], things: Sequence[Any]) -> list[Any]:
        """work of each thing, done by one rank; the list, in the order of the things, on every rank."""
        return [work(thing) for thing in things]

    def total(self, flat: np.ndarray) -> np.ndarray:
        """The sum of a vector over all ranks: the same bits on every one."""
        return flat

    def agree(self, what: str, value: Any) -> None:
        """Raises RanksError unless the value is the same on all ranks."""

    def abort(self, status: int) -> NoReturn:
        """End all ranks, now."""
        raise SystemExit(status)


class ManyRanks(Ranks):
    """One of the processes of a communicator of mpi4py (or of what has its Reduce, Bcast and allgather)."""

    def __init__(self, communicator: Any) -> None:
        self._communicator = communicator
        self.rank, self.size = communicator.rank, communicator.size

    def each(self, work: Callable[[Any], Any], things: Sequence[Any]) -> list[Any]:
        parts = self._communicator.allgather([work(things[i]) for i in self.mine(len(things))])
        return [parts[i % self.size][i // self.size] for i in range(len(things))]

    def total(self, flat: np.ndarray) -> np.ndarray:
        # Not Allreduce: it may add in another order on another rank, and adapters would part by a rounding error.
        whole = np.empty_like(flat)
        self._communicator.Reduce(flat, whole, root=0)
        self._communicator.Bcast(whole, root=0)
        return whole

    def agree(self, what: str, value: Any) -> None:
        values = self._communicator.allgather(value)
        other = next((rank for rank, its in enumerate(values) if its != values[0]), None)
        if other is not None:
            raise RanksError(f"{what} of rank {other} is not that of rank 0")

    def abort(self, status: int) -> NoReturn:
        self._communicator.Abort(status)
        raise SystemExit(status)


ALONE = Ranks()


def join_ranks() -> Ranks:
    """The ranks that mpiexec started, which share this machine's cores; `ALONE` where it did not.

    Raises MissingExtraError under mpiexec without mpi4py.
    """
    sizes = [os.environ.get(name, "") for name in _SIZES]
    if not any(size.isdecimal() and int(size) > 1 for size in sizes):
        return ALONE
    MPI = require("mpi4py.MPI", "mpi", "a run under mpiexec")
    _share_cores(MPI.COMM_WORLD.Split_type(MPI.COMM_TYPE_SHARED))
    return ManyRanks(MPI.COMM_WORLD)


def _share_cores(neighbours: Any) -> None:
    """Each rank of a machine multiplies with its share of the cores, where it would with all: they would wait for each
    other. What is limited already, by OPENBLAS_NUM_THREADS for one, is not raised."""
    cores = set[int]().union(*neighbours.allgather(_cores()))
    share = max(1, len(cores) // neighbours.size)
    threadpoolctl = require("threadpoolctl", "mpi", "a run under mpiexec")
    limits = {lib["prefix"]: min(share, lib["num_threads"]) for lib in threadpoolctl.threadpool_info()}
    threadpoolctl.threadpool_limits(limits)


def _cores() -> set[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))
