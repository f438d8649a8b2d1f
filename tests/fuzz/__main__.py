"""Hostile input by the million: from tests/, `python -m fuzz [INPUTS]`, 1,000,000 unless told. Needs atheris.

A tenth of the inputs is Hypothesis's, the rest libFuzzer's (atheris), which follows the branches that an input takes.
Each target runs in a process of its own, two at a time, with a limit on its memory and on the time of one input. The
inputs that were really read are counted in the targets; the counts and the peak of memory are printed. Exit status 1
if a target raises, hangs or grows; libFuzzer then leaves the input in a file `crash-...` and prints its name.

Source: https://github.com/google/atheris.
"""

import argparse
import multiprocessing.pool
import subprocess
import sys
import tempfile
import time

_JUDGED = ("dump", "answers")  # what they accept is judged, which takes milliseconds: a twentieth of the inputs each


def main() -> int:
    arguments = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__.split("\n\n")[0])
    arguments.add_argument("inputs", type=int, nargs="?", default=1_000_000, help="how many, in all")
    inputs = arguments.parse_args().inputs
    from fuzz.targets import TARGETS

    jobs = []
    for name in TARGETS:
        runs = -(-inputs // 20) if name in _JUDGED else -(-inputs * 3 // 10)
        jobs += [("hypothesis", name, runs // 10), ("atheris", name, runs - runs // 10)]
    with multiprocessing.pool.ThreadPool(2) as pool:
        counts = list(pool.imap_unordered(_child, jobs))
    total = sum(read for read, _ in counts)
    print(f"{total:,} inputs read of {inputs:,}; {sum(not ended for _, ended in counts)} runs failed")
    return 0 if total >= inputs and all(ended for _, ended in counts) else 1


def _child(job: tuple[str, str, int]) -> tuple[int, bool]:
    """A run in a process of its own: how many inputs were read, and whether none failed."""
    how, name, runs = job
    with tempfile.NamedTemporaryFile("r") as counted:
        command = [sys.executable, "-m", "fuzz.one", how, name, str(runs), counted.name]
        begin = time.monotonic()
        ended = subprocess.run(command, capture_output=True, text=True, errors="replace")
        read, megabytes = (int(n) for n in (counted.read() or "0 0").split())
    right = ended.returncode == 0 and read >= runs
    seconds = time.monotonic() - begin
    print(f"{name:10} {how:10} {read:9,} inputs {seconds:5.0f} s  {megabytes:5,} MiB above the start", flush=True)
    if not right:
        print(ended.stderr[-6000:], flush=True)
    return read, right


if __name__ == "__main__":
    sys.exit(main())
