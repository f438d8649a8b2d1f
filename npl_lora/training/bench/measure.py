"""Take the steps of all sides in turns, and compute their figures."""

import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from importlib.util import find_spec
from typing import Any

from ...support.extras import MissingExtraError
from .child import Child
from .settings import SIDES, BenchError, Settings

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
# Without these, the threads of the waiting side would spin and slow the working side.
_SLEEP = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}


def measure(
    settings: Settings,
    sides: Sequence[str] = ("npl-lora",),
    threads: int | None = None,
    on_progress: Callable[[str], None] = lambda sentence: None,
) -> dict[str, Any]:
    """All figures, ready for JSON. threads: the number for each side; None leaves it to the environment. on_progress:
    called with a sentence at each stage.

    Raises BenchError, and MissingExtraError if a side's packages are not installed.
    """
    if threads is not None and threads < 1:
        raise BenchError(f"threads is {threads}, expected at least 1")
    _check_installed(sides)
    environment = {**os.environ, **_SLEEP, **({} if threads is None else dict.fromkeys(_THREADS, str(threads)))}
    with ExitStack() as stack:
        children = [stack.enter_context(Child(side, environment)) for side in sides]
        loaded: dict[str, Any] = {}
        for child in children:
            on_progress(f"{child.side}: loading")
            loaded[child.side] = child.load(settings)
            settings = replace(settings, **loaded[child.side].pop("decided", {}))
        taken: dict[str, list[dict[str, Any]]] = {child.side: [] for child in children}
        for step in range(1 + settings.steps):
            for child in children:
                taken[child.side].append(child.step())
                name = f"step {step} of {settings.steps}" if step else "the step to warm up"
                on_progress(f"{child.side}: {name} took {taken[child.side][-1]['seconds']:.3g} s")
        figures = {c.side: _figures(settings, loaded[c.side], taken[c.side], c.most) for c in children}
    return {
        "settings": asdict(settings),
        "machine": _machine(environment),
        "sides": figures,
        "ratio": _ratio(figures) if len(figures) > 1 else None,
    }


def _check_installed(sides: Sequence[str]) -> None:
    """Raises unless each side's packages are installed. Does not import them: only the workers should hold them."""
    for side in sides:
        if side not in SIDES:
            raise BenchError(f"side is {side!r}, expected one of {', '.join(SIDES)}")
    for package in ("torch", "peft", "transformers") if "torch" in sides else ():
        if find_spec(package) is None:
            raise MissingExtraError(f"a comparison with torch needs {package}: pip install 'npl-lora[torch]'")


def _figures(
    settings: Settings, loaded: dict[str, Any], taken: Sequence[Mapping[str, Any]], most: Mapping[str, int]
) -> dict[str, Any]:
    """The figures of one side. The first step is not counted, but its loss must be the same on every side."""
    seconds = [step["seconds"] for step in taken[1:]]
    memory = {"loaded": loaded.pop("memory").get("resident"), "peak": taken[-1]["memory"].get("peak")}
    return {
        **loaded,
        "seconds": _spread(seconds),
        "first_seconds": taken[0]["seconds"],
        "tokens_per_second": settings.batch * settings.length / statistics.median(seconds),
        "memory": {**memory, "peak_anonymous": most["anonymous"] or None},
        "first_loss": taken[0]["loss"],
    }


def _ratio(figures: Mapping[str, Any]) -> dict[str, Any]:
    """For each pair of steps: the second side's seconds divided by the first side's."""
    (_, first), (_, second) = figures.items()
    return _spread([b / a for a, b in zip(first["seconds"]["each"], second["seconds"]["each"], strict=True)])


def _spread(values: Sequence[float]) -> dict[str, Any]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "each": list(values)}


def _machine(environment: Mapping[str, str]) -> dict[str, Any]:
    variables = {name: environment[name] for name in (*_THREADS, *_SLEEP) if name in environment}
    return {"system": platform.platform(), "cpus": os.cpu_count(), "environment": variables}
