"""Where a convolution puts its kernel. What its constructor has no word for shows in the size of y: a padding of its
own, and whether **kwargs takes strides."""

from typing import TYPE_CHECKING

import numpy as np

from .wanted import Wanted

if TYPE_CHECKING:
    from .layer import Layer

Pair = tuple[int, int]

USUAL: dict[str, Pair] = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)}
_IMAGE = (7, 7)


def places(layer: "Layer", config: dict[str, list[int]], kernel: Pair) -> dict[str, Pair]:
    """The places that a case asks for. Raises NotImplementedError for those that the layer does not have."""
    found = {name: (config[name][0], config[name][1]) for name in USUAL}
    if layer.constructor.has("base"):
        return found
    for name, asked in found.items():
        usual = half(kernel) if name == "padding" and pads_by_half(layer) else USUAL[name]
        if asked != usual and not layer.constructor.has(name) and not _taken_as_more(layer, name):
            of_kernel = f"{name} is always half its kernel" if usual != USUAL[name] else f"has no {name}"
            raise NotImplementedError(of_kernel)
    return found


def half(kernel: Pair) -> Pair:
    """The padding that leaves an image as large as it is, of an odd kernel."""
    return kernel[0] // 2, kernel[1] // 2


def pads_by_half(layer: "Layer") -> bool:
    """Whether nobody can hand a padding over, and y is as large as x."""
    if layer.constructor.has("padding", "base"):
        return False
    return all(_size(layer, layer.probe.but(kernel=kernel)) == _IMAGE for kernel in ((3, 3), (5, 5)))


def _taken_as_more(layer: "Layer", name: str) -> bool:
    if not layer.constructor.takes_more:
        return False
    wanted = layer.probe.but(kernel=(3, 3), **{name: (2, 2)})
    (stride, _), (padding, _), (dilation, _) = wanted.stride, wanted.padding, wanted.dilation
    places = (_IMAGE[0] + 2 * padding - 2 * dilation - 1) // stride + 1
    return _size(layer, wanted) == (places, places)


def _size(layer: "Layer", wanted: Wanted) -> tuple[int, ...]:
    """Rows and columns of y; () where the layer raises."""
    wanted = wanted.but(bias=not layer.takes_no_bias)
    try:
        built = layer.framework.cast(layer.build(wanted), "float32")
        return layer.framework.value(built, np.zeros((1, wanted.in_, *_IMAGE), np.float32)).shape[2:]
    except Exception:  # whatever a stranger's layer raises
        return ()
