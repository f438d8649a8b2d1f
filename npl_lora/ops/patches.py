"""patches: what a convolution's kernel sees at each of its places, laid out as the rows of a linear layer's input.

    y[n, o, q, (c, i, j)] = x[n, c, sh o + dh i - ph, sw q + dw j - pw]     0 outside the image (zero padding)

The stride is (sh, sw), the padding (ph, pw) and the dilation (dh, dw). A convolution (cross-correlation, as torch has
it) is then a linear layer on patches: conv(x, W) = y W^T, with W (out, in, kh, kw) read as a matrix (out, in kh kw).

Derivation. Every number of y is a copy of one number of x, or 0. So the gradient of a number of x is the sum of dy over
its copies. The entry (i, j) of the kernel copies x[n, c, row, column] to the place (o, q) with sh o + dh i - ph = row
and sw q + dw j - pw = column, where such integers o and q exist. There is at most one copy for each (i, j).

Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, relationship 6 and section 4.
"""

from __future__ import annotations

from collections.abc import Sequence

from ._interface import Array, Pullback
from .checks import check_inputs, check_integer

Pair = Sequence[int]


def patches(
    x: Array,  # (N, C, H, W)
    *,
    kernel: Pair,  # (kh, kw)
    stride: Pair = (1, 1),  # (sh, sw)
    padding: Pair = (0, 0),  # (ph, pw), of zeros
    dilation: Pair = (1, 1),  # (dh, dw)
) -> tuple[Array, Pullback]:  # y (N, Ho, Wo, C kh kw)
    """y = the numbers of x that the kernel sees at each of its places.

    Shapes: x (N, C, H, W) -> y (N, Ho, Wo, C kh kw), with Ho = (H + 2 ph - dh (kh - 1) - 1) // sh + 1 and Wo likewise.

    kernel, stride, padding, dilation: a pair each, rows first. The pullback differentiates x.
    Raises TypeError and ValueError for arguments that do not fit, such as a kernel larger than the padded image.
    Derivation: at the top of npl_lora/ops/patches.py.
    """
    xp, n = check_inputs(x=(x, "N C H W"))
    options = {
        "kernel": _pair("kernel", kernel, 1),
        "stride": _pair("stride", stride, 1),
        "padding": _pair("padding", padding, 0),
        "dilation": _pair("dilation", dilation, 1),
    }
    vertical = _Axis("rows", n["H"], **{name: pair[0] for name, pair in options.items()})
    horizontal = _Axis("columns", n["W"], **{name: pair[1] for name, pair in options.items()})
    entries = [(i, j) for i in range(vertical.kernel) for j in range(horizontal.kernel)]

    channels_last = xp.permute_dims(x, (0, 2, 3, 1))  # (N, H, W, C)
    copies = tuple(
        _pick(xp, _pick(xp, channels_last, 1, vertical.sources(i)), 2, horizontal.sources(j)) for i, j in entries
    )
    y = xp.stack(copies, axis=-1)  # (N, Ho, Wo, C, kh kw)
    y = xp.reshape(y, (*y.shape[:3], y.shape[3] * y.shape[4]))

    def backward(dy: Array, wrt: frozenset[str]) -> dict[str, Array]:
        if "x" not in wrt:
            return {}
        dy = xp.reshape(dy, (*dy.shape[:3], n["C"], len(entries)))
        d_copies = tuple(
            _pick(xp, _pick(xp, dy[..., k], 1, vertical.places(i)), 2, horizontal.places(j))
            for k, (i, j) in enumerate(entries)
        )
        # forward was: y[n, o, q, (c, i, j)] = x[n, c, sh o + dh i - ph, sw q + dw j - pw]
        return {"x": xp.permute_dims(xp.sum(xp.stack(d_copies, axis=0), axis=0), (0, 3, 1, 2))}

    return y, Pullback(backward, y, inputs=("x",))


class _Axis:
    """One axis of the image: which of its numbers an entry of the kernel copies to which place. -1 stands for none."""

    def __init__(self, name: str, size: int, kernel: int, stride: int, padding: int, dilation: int) -> None:
        self.kernel, self._size = kernel, size
        self._stride, self._padding, self._dilation = stride, padding, dilation
        span, padded = dilation * (kernel - 1) + 1, size + 2 * padding
        if span > padded:
            raise ValueError(f"kernel spans {span} {name}, expected at most the {padded} of the padded image")
        self._places = (padded - span) // stride + 1

    def sources(self, i: int) -> list[int]:
        """For every place of the kernel, the number that its entry i copies."""
        numbers = (self._stride * o + self._dilation * i - self._padding for o in range(self._places))
        return [h if 0 <= h < self._size else -1 for h in numbers]

    def places(self, i: int) -> list[int]:
        """For every number, the place to which entry i copies it."""
        quotients = (divmod(h + self._padding - self._dilation * i, self._stride) for h in range(self._size))
        return [o if rest == 0 and 0 <= o < self._places else -1 for o, rest in quotients]


def _pick(xp: Array, t: Array, axis: int, index: list[int]) -> Array:
    """t's slices along the axis, in the order of index; zeros for -1."""
    nothing = xp.zeros_like(xp.take(t, xp.arange(1), axis=axis))
    return xp.take(xp.concat((t, nothing), axis=axis), xp.asarray([i % (t.shape[axis] + 1) for i in index]), axis=axis)


def _pair(name: str, pair: Pair, least: int) -> tuple[int, int]:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise ValueError(f"{name} is {pair!r}, expected a pair of integers")
    rows, columns = (check_integer(f"{name}[{axis}]", value, least) for axis, value in enumerate(pair))
    return rows, columns
