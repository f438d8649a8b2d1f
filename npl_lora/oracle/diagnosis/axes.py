"""What an index along an axis of an argument is: a token, a rank, a head, a row."""

_AXES = {"A": ("rank", "input"), "B": ("output", "rank"), "W": ("row", "column")}


def axis_name(part: str, argument: str, ndim: int, axis: int) -> str:
    """The name of one place along an axis counted from the end, such as "token" for axis -2 of x."""
    letter = argument[:1]
    if letter in _AXES and ndim == 2:
        return _AXES[letter][axis]
    if part == "rope" or (part == "attention" and argument in ("q", "k", "v", "dy")):
        return {-1: "feature", -2: "token", -3: "head"}.get(axis, "batch row")
    if argument in ("mask", "key_mask", "labels", "ids") and ndim + axis == ndim - 1 and argument != "mask":
        return "token"
    if ndim == 1:
        return "element"
    return {-1: "feature", -2: "token"}.get(axis, "batch row")
