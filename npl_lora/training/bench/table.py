"""The figures as a Markdown table, with the settings, versions and machine below it."""

from collections.abc import Mapping
from typing import Any

_NAMES = {"npl-lora": "npl-lora", "torch": "PyTorch + PEFT"}


def table(figures: Mapping[str, Any]) -> str:
    """figures: the result of `measure`."""
    sides = figures["sides"]
    lines = ["| | " + " | ".join(_NAMES[side] for side in sides) + " |", "|---|" + "---:|" * len(sides)]
    lines += [f"| {name} | " + " | ".join(map(cell, sides.values())) + " |" for name, cell in _ROWS.items()]
    if figures["ratio"] is not None:
        first, second = (_NAMES[side] for side in sides)
        lines += ["", f"Seconds of {second} over those of {first}, pair by pair: {_spread(figures['ratio'])}"]
    return "\n".join([*lines, "", _settings_sentence(figures["settings"]), _machine_sentence(figures)])


def _spread(values: Mapping[str, Any]) -> str:
    return f"{values['median']:.3g} ({values['min']:.3g} to {values['max']:.3g})"


def _bytes(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 1e9:.2f} GB"


_ROWS = {
    "seconds a step, median (least to most)": lambda side: _spread(side["seconds"]),
    "tokens a second": lambda side: (
        f"{side['tokens_per_second']:{'.1f' if side['tokens_per_second'] >= 10 else '.2g'}}"
    ),
    "peak memory": lambda side: _bytes(side["memory"]["peak"]),
    "most memory without mapped files": lambda side: _bytes(side["memory"]["peak_anonymous"]),
    "memory after loading": lambda side: _bytes(side["memory"]["loaded"]),
    "trained parameters": lambda side: f"{side['trained']:,}",
    "loss of the first step": lambda side: f"{side['first_loss']:.6f}",
}


def _settings_sentence(settings: Mapping[str, Any]) -> str:
    names = settings["target_modules"]
    words = [
        f"{settings['model']}: {settings['batch']} x {settings['length']} tokens",
        f"rank {settings['rank']} on {names if isinstance(names, str) else ', '.join(names)}, AdamW, float32",
        *(["weights coded"] if settings["coded"] else []),
        *(["blocks recomputed"] if settings["recompute"] else []),
        f"{settings['steps']} {'step' if settings['steps'] == 1 else 'steps'} after one to warm up",
    ]
    return ", ".join(words) + "."


def _machine_sentence(figures: Mapping[str, Any]) -> str:
    versions = [f"{n} {v}" for side in figures["sides"].values() for n, v in side["versions"].items()]
    machine = figures["machine"]
    variables = [f"{name}={value}" for name, value in machine["environment"].items()]
    return f"{', '.join(versions)}; {machine['system']}, {machine['cpus']} CPUs; {' '.join(variables)}."
