"""Checks a layer of a file of this folder, once."""

import importlib
from functools import cache

import npl_lora


@cache
def checked(file, name):
    """The reports on a class, asked in float64 alone."""
    module = importlib.import_module(f"oracle.adoption.{file}")
    return npl_lora.check(getattr(module, name), dtypes=["float64"])
