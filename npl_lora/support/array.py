"""The type of an array, for signatures. It is defined here once."""

from typing import Any

Array = Any  # an array of NumPy, CuPy or any other namespace of the Python array API standard
