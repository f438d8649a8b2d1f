"""Words that several modules put together."""

from collections.abc import Sequence


def listed(names: Sequence[str]) -> str:
    """ "y, dx and dA"."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
