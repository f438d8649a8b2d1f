"""What the light suite takes of a long list: its first values. CI's slow suite takes the others."""

import pytest


def light(values, n=1):
    """For parametrize: the first n values, and the others marked slow."""
    return [value if k < n else _slow(value) for k, value in enumerate(values)]


def _slow(value):
    return pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow)
