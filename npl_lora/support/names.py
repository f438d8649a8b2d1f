"""Names that a caller gives: one, or several."""

from collections.abc import Iterable

Names = str | Iterable[str]


def as_names(given: Names) -> tuple[str, ...]:
    """Each name once. A string is one name, not its letters."""
    return (given,) if isinstance(given, str) else tuple(dict.fromkeys(given))
