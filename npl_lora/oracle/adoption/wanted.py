"""What a layer is wanted for, and why one cannot be had."""

from dataclasses import dataclass, replace

Pair = tuple[int, int]

USUAL: dict[str, Pair] = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)}  # of a convolution


class NotAdoptedError(Exception):
    """The layer cannot be adopted. One sentence, which begins with what is in the way."""


@dataclass(frozen=True)
class Wanted:
    """The layer that a constructor is asked for.

    in_, out, rank: sizes; of an embedding, in_ is the number of ids and out the width. strength: what is handed over
    as alpha, or as the scale where the constructor has no alpha. dropout: the probability. dtype, device: the layer's
    own defaults if empty. kernel, stride, padding, dilation: of a convolution. padding_idx: of an embedding.
    kind: the name of one of the kinds. groups: of a fused projection, for each whether it has factors.
    """

    in_: int
    out: int
    rank: int
    strength: float = 8.0
    dropout: float = 0.0
    bias: bool = False
    rslora: bool = False
    transposed: bool = False
    dtype: str = ""
    device: str = ""
    kernel: Pair = (1, 1)
    stride: Pair = USUAL["stride"]
    padding: Pair = USUAL["padding"]
    dilation: Pair = USUAL["dilation"]
    padding_idx: int | None = None
    kind: str = "linear"
    groups: tuple[bool, ...] = ()

    def but(self, **changes: object) -> "Wanted":
        """The same with some fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]


PROBE = Wanted(13, 11, 3)  # sizes that differ, so that a shape tells what a tensor is
SHAPED = PROBE.but(kernel=(5, 5))  # the same with a kernel that shows
SQUARE = Wanted(12, 12, 3)
FUSED = Wanted(13, 12, 3)  # three groups
FUSED_SQUARE = Wanted(7, 21, 3)  # each of them square
