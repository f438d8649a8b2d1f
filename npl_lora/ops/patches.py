"""patches: what a convolution's kernel sees at each of its places, as the rows of a linear layer's input.

    y[n, o, q, (c, i, j)] = x[n, c, sh o + dh i - ph, sw q + dw j - pw]     0 outside the image (zero padding)

With stride (sh, sw), padding (ph, pw) and dilation (dh, dw). A convolution, or cross-correlation as torch has it, is
then a linear layer on patches: conv(x, W) = y W^T with W (out, in, kh, kw) read as (out, in kh kw).

Derivation. Every number of y is a copy of one number of x, or 0. So a number of x gets the sum of what comes back to
its copies: for each place (i, j) in the kernel, from the o and q with sh o + dh i - ph = its row, and so for its
column, where there are such.

Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, relationship 6 and section 4.
"""

from collections.abc import Sequence

from ._interface import Array, Pullback
from .checks import check_inputs, check_integer

Pair = Sequence[int]


def patches(
    x: Array, *, kernel: Pair, stride: Pair = (1, 1), padding: Pair = (0, 0), dilation: Pair = (1, 1)
) -> tuple[Array, Pullback]:
    """x (N, C, H, W) -> y (N, Ho, Wo, C kh kw), with Ho = (H + 2 ph - dh (kh - 1) - 1) // sh + 1, and so Wo.

    kernel, stride, padding, dilation: a pair each, rows first. The pullback differentiates x. Raises ValueError for a
    kernel that does not fit into the padded image.
    """
    xp, n = check_inputs(x=(x, "N C H W"))
    moves = [
        _Moves(
            size, *(_pair(name, pair, least)[axis] for name, pair, least in _named(kernel, stride, padding, dilation))
        )
        for axis, size in enumerate((n["H"], n["W"]))
    ]
    places = [(i, j) for i in range(moves[0].kernel) for j in range(moves[1].kernel)]
    at = xp.permute_dims(x, (0, 2, 3, 1))  # (N, H, W, C)
    seen = tuple(_pick(xp, _pick(xp, at, 1, moves[0].seen(i)), 2, moves[1].seen(j)) for i, j in places)
    y = xp.stack(seen, axis=-1)  # (N, Ho, Wo, C, kh kw)
    y = xp.reshape(y, (*y.shape[:3], y.shape[3] * y.shape[4]))

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        if "x" not in wrt:
            return {}
        dy = xp.reshape(dy, (*dy.shape[:3], n["C"], len(places)))
        back = tuple(
            _pick(xp, _pick(xp, dy[..., k], 1, moves[0].seen_by(i)), 2, moves[1].seen_by(j))
            for k, (i, j) in enumerate(places)
        )
        return {"x": xp.permute_dims(xp.sum(xp.stack(back, axis=0), axis=0), (0, 3, 1, 2))}

    return y, Pullback(backward, y, inputs=("x",))


class _Moves:
    """Which number of one axis stands where in the patches, and back; -1 for none."""

    def __init__(self, size: int, kernel: int, stride: int, padding: int, dilation: int) -> None:
        self.kernel, self._size = kernel, size
        self._stride, self._padding, self._dilation = stride, padding, dilation
        room = size + 2 * padding - dilation * (kernel - 1) - 1
        if room < 0:
            raise ValueError(
                f"kernel reaches over {dilation * (kernel - 1) + 1}, expected at most {size + 2 * padding}"
            )
        self._out = room // stride + 1

    def seen(self, i: int) -> list[int]:
        """For every place of the kernel, the number that its entry i sees."""
        at = (self._stride * o + self._dilation * i - self._padding for o in range(self._out))
        return [h if 0 <= h < self._size else -1 for h in at]

    def seen_by(self, i: int) -> list[int]:
        """For every number, the place of the kernel in which entry i sees it."""
        at = (divmod(h + self._padding - self._dilation * i, self._stride) for h in range(self._size))
        return [o if rest == 0 and 0 <= o < self._out else -1 for o, rest in at]


def _pick(xp: Array, t: Array, axis: int, index: list[int]) -> Array:
    """t's slices along the axis, in the order of index; zeros for -1."""
    nothing = xp.zeros_like(xp.take(t, xp.arange(1), axis=axis))
    return xp.take(xp.concat((t, nothing), axis=axis), xp.asarray([i % (t.shape[axis] + 1) for i in index]), axis=axis)


def _named(kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> tuple[tuple[str, Pair, int], ...]:
    return ("kernel", kernel, 1), ("stride", stride, 1), ("padding", padding, 0), ("dilation", dilation, 1)


def _pair(name: str, pair: Pair, least: int) -> tuple[int, int]:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise ValueError(f"{name} is {pair!r}, expected a pair of integers")
    rows, columns = (check_integer(f"{name}[{axis}]", one, least) for axis, one in enumerate(pair))
    return rows, columns
