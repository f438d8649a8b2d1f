"""The factors in an adapter's file, found by their names alone, without a model."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..support.tensor_file import TensorFileError, open_tensors
from .files import AdapterError

PREFIX = "base_model.model."
# A factor's key: the module's path, which factor, and perhaps the adapter's name and ".weight".
FACTOR = re.compile(
    r"(?P<path>.+)\.lora_(?P<embedding>embedding_)?(?P<factor>[AB])(\.(?P<name>(?!bias$)\w+))??(\.weight)?"
)

Pair = dict[str, np.ndarray]  # by "A" and "B"


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """{key: array} of a file that has factors. Raises AdapterError."""
    try:
        tensors, _ = open_tensors(path)
    except TensorFileError as error:
        raise AdapterError(f"{path} {error}") from None
    if not any(FACTOR.fullmatch(name) for name in tensors):
        raise AdapterError(f"{path} has {len(tensors)} tensors and none of LoRA: no name ends in lora_A.weight")
    return tensors


def sort_tensors(tensors: Mapping[str, np.ndarray]) -> tuple[dict[tuple[str, str], Pair], dict[str, np.ndarray]]:
    """{(path, kind): {"A": A, "B": B}}, and {name: array} of the rest."""
    pairs: dict[tuple[str, str], Pair] = {}
    others = {}
    for key, array in tensors.items():
        name = key.removeprefix(PREFIX)
        if found := FACTOR.fullmatch(name):
            kind = "embedding" if found["embedding"] else "linear"
            pairs.setdefault((found["path"], kind), {})[found["factor"]] = array
        else:
            others[name.replace(".base_layer.", ".")] = array
    return pairs, others
