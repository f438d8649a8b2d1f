"""The type of an array, for signatures."""

from typing import Any

Array = Any  # an array of NumPy, CuPy or any other namespace of the Python array API standard
