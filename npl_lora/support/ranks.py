"""Work shared by the ranks (processes) that mpiexec started, or done by one process alone.

    ranks = join_ranks()
    losses = ranks.each(loss, batches)  # each batch goes to one rank, and every rank gets the whole list

All ranks must call the same methods in the same order. A plain run has one rank, `ALONE`, and never imports mpi4py.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np

from .extras import require

# Where launchers put the number of processes: MPICH, Intel MPI and Slurm in the first, Open MPI in the second.
_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")


class RanksError(RuntimeError):
    """The ranks hold different values where they should agree. The message is one sentence."""


class Ranks:
    """One process alone, which does all the work."""

    rank, size = 0, 1

    def mine(self, count: int) -> range:
        """Which of `count` things this rank works on: every size-th."""
        return range(self.rank, count, self.size)

    def each(self, work: Callable[[Any], Any], things: Sequence[Any]) -> list[Any]:
        """[work(thing) for thing in things], each computed by one rank. Every rank gets the whole list."""
        return [work(thing) for thing in things]

    def total(self, flat: np.ndarray) -> np.ndarray:
        """The sum of a vector over all ranks, with the same bits on every rank."""
        return flat

    def agree(self, what: str, value: Any) -> None:
        """Raises RanksError unless all ranks have the same value. `what` names it for the message."""

    def abort(self, status: int) -> NoReturn:
        """End all ranks, now."""
        raise SystemExit(status)


class ManyRanks(Ranks):
    """One of the processes of an mpi4py communicator, or of an object with its Reduce, Bcast and allgather."""

    def __init__(self, communicator: Any) -> None:
        self._communicator = communicator
        self.rank, self.size = communicator.rank, communicator.size

    def each(self, work: Callable[[Any], Any], things: Sequence[Any]) -> list[Any]:
        by_rank = self._communicator.allgather([work(things[i]) for i in self.mine(len(things))])
        return [by_rank[i % self.size][i // self.size] for i in range(len(things))]

    def total(self, flat: np.ndarray) -> np.ndarray:
        # Not Allreduce: it may add in a different order on each rank, and the adapters would drift apart by rounding.
        total = np.empty_like(flat)
        self._communicator.Reduce(flat, total, root=0)
        self._communicator.Bcast(total, root=0)
        return total

    def agree(self, what: str, value: Any) -> None:
        values = self._communicator.allgather(value)
        other = next((rank for rank, its in enumerate(values) if its != values[0]), None)
        if other is not None:
            raise RanksError(f"{what} of rank {other} differs from that of rank 0")

    def abort(self, status: int) -> NoReturn:
        self._communicator.Abort(status)
        raise SystemExit(status)


ALONE = Ranks()


def join_ranks() -> Ranks:
    """The ranks that mpiexec started, each limited to its share of this machine's cores; `ALONE` without mpiexec.

    Raises MissingExtraError under mpiexec without mpi4py.
    """
    sizes = [os.environ.get(name, "") for name in _SIZES]
    if not any(size.isdecimal() and int(size) > 1 for size in sizes):
        return ALONE
    MPI = require("mpi4py.MPI", "mpi", "a run under mpiexec")
    _share_cores(MPI.COMM_WORLD.Split_type(MPI.COMM_TYPE_SHARED))
    return ManyRanks(MPI.COMM_WORLD)


def _share_cores(neighbours: Any) -> None:
    """Limit each rank's BLAS threads to its share of the machine's cores, so that ranks do not wait for each other.

    A limit that is already lower, for example from OPENBLAS_NUM_THREADS, stays.
    """
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
