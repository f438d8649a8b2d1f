"""Hostile input by the million: from tests/, `python -m fuzz [INPUTS]`, 1,000,000 unless told. Needs atheris.

A tenth of the inputs is Hypothesis's, the rest libFuzzer's (atheris), which follows the branches that an input takes.
Each run is a process of its own, two at a time, with a limit on its memory and, in libFuzzer, on the time of one input.
The inputs that were really read are counted; the counts and the peak of memory are printed. Exit status 1 if a target
raises, warns, hangs or grows: Hypothesis then prints the input, and libFuzzer's is in the folder that is named.

Source: https://github.com/google/atheris.
"""

import argparse
import multiprocessing.pool
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_MEMORY = Path("/dev/shm")  # files without a disk, where there are any
_JUDGED = ("dump", "answers")  # what they accept is judged, which takes milliseconds
_LOADED = ("config", "adapter", "checkpoint", "model", "weights", "index", "gguf")  # with files beside them: likewise


def main() -> int:
    arguments = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__.split("\n\n")[0])
    arguments.add_argument("inputs", type=int, nargs="?", default=1_000_000, help="how many, in all")
    inputs = arguments.parse_args().inputs
    from fuzz.targets import TARGETS

    jobs = []
    for name in TARGETS:
        runs = -(-inputs // 20) if name in _JUDGED + _LOADED else -(-inputs * 3 // 10)
        jobs += [("hypothesis", name, runs // 10), ("atheris", name, runs - runs // 10)]
    with multiprocessing.pool.ThreadPool(2) as pool:
        counts = list(pool.imap_unordered(_child, jobs))
    total = sum(read for read, _ in counts)
    print(f"{total:,} inputs read of {inputs:,}; {sum(not ended for _, ended in counts)} runs failed")
    return 0 if total >= inputs and all(ended for _, ended in counts) else 1


def _child(job: tuple[str, str, int]) -> tuple[int, bool]:
    """A run in a process of its own: how many inputs were read, and whether none failed."""
    how, name, runs = job
    folder = Path(tempfile.mkdtemp(dir=_MEMORY if _MEMORY.is_dir() else None))
    command = [sys.executable, "-W", "error::RuntimeWarning", "-m", "fuzz.one", how, name, str(runs), str(folder)]
    begin, environment = time.monotonic(), {**os.environ, "TMPDIR": str(folder)}
    ended = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment)
    count = folder / "count"
    read, megabytes = (int(n) for n in (count.read_text() if count.exists() else "0 0").split())
    right = ended.returncode == 0 and read >= runs
    seconds = time.monotonic() - begin
    print(f"{name:10} {how:10} {read:9,} inputs {seconds:5.0f} s  {megabytes:5,} MiB above the start", flush=True)
    if right:
        shutil.rmtree(folder)
    else:
        print(f"{ended.stdout[-2000:]}{ended.stderr[-6000:]}\nsee {folder}", flush=True)
    return read, right


if __name__ == "__main__":
    sys.exit(main())
