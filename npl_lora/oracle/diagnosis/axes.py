"""What an index along an axis of an array is: a token, a rank, a head, a row."""

_WEIGHTS = {"A": ("rank", "input"), "B": ("output", "rank"), "W": ("output", "input")}
_TOKENS = (
    "x",
    "y",
    "dx",
    "dy",
    "mask",
    "mask_again",
    "gate",
    "up",
    "prediction",
    "target",
    "X",
    "Y",
    "logits",
    "dlogits",
)
_HEADS = ("q", "k", "v")


def axis_name(part: str, array: str, ndim: int, axis: int) -> str:
    """The name of one place along an axis counted from the end, such as "token" for axis -2 of x."""
    weight = _WEIGHTS.get(array.removeprefix("d")[:1])
    if weight and array not in _TOKENS and ndim == 2:
        return weight[axis]
    if part in ("rope", "attention") and array in (*_HEADS, "x", "dy", "the value"):
        return {-1: "feature", -2: "token", -3: "head"}.get(axis, "batch row")
    if array in _TOKENS:
        return {-1: "feature", -2: "token"}.get(axis, "batch row")
    return "element" if ndim == 1 else f"slice along axis {ndim + axis}"


def plural(axis: str) -> str:
    """ "tokens", "slices along axis 2" """
    noun, along, where = axis.partition(" along ")
    return f"{noun}s{along}{where}"


def place_name(axis: str, index: int) -> str:
    """One place along an axis of this name: "token 3", "the last token", "slice 3 along axis 2"."""
    noun, along, where = axis.partition(" along ")
    return (f"the last {noun}" if index == -1 else f"{noun} {index}") + along + where
