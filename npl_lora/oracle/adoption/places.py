"""Where a convolution puts its kernel. What its constructor has no word for shows in the size of y: a padding of its
own, and whether **kwargs takes strides."""

from collections.abc import Callable
from dataclasses import dataclass

from .constructor import Constructor
from .wanted import USUAL, Pair, Wanted

IMAGE = (7, 7)


@dataclass(frozen=True)
class Places:
    """probe: what a layer is asked for where nothing else is said. size: rows and columns of y, for an IMAGE."""

    constructor: Constructor
    probe: Wanted
    size: Callable[[Wanted], tuple[int, ...]]

    def asked(self, config: dict[str, list[int]], kernel: Pair) -> dict[str, Pair]:
        """The places that a case asks for. Raises NotImplementedError for those that the layer does not have."""
        found = {name: (config[name][0], config[name][1]) for name in USUAL}
        if self.constructor.has("base"):
            return found
        for name, asked in found.items():
            usual = half(kernel) if name == "padding" and self._pads_by_half() else USUAL[name]
            if asked != usual and not self.constructor.has(name) and not self._taken_as_more(name):
                of_kernel = f"{name} is always half its kernel" if usual != USUAL[name] else f"has no {name}"
                raise NotImplementedError(of_kernel)
        return found

    def _pads_by_half(self) -> bool:
        """Whether nobody can hand a padding over, and y is as large as x."""
        if self.constructor.has("padding", "base"):
            return False
        return all(self.size(self.probe.but(kernel=kernel)) == IMAGE for kernel in ((3, 3), (5, 5)))

    def _taken_as_more(self, name: str) -> bool:
        if not self.constructor.takes_more:
            return False
        wanted = self.probe.but(kernel=(3, 3), **{name: (2, 2)})
        (stride, _), (padding, _), (dilation, _) = wanted.stride, wanted.padding, wanted.dilation
        places = (IMAGE[0] + 2 * padding - 2 * dilation - 1) // stride + 1
        return self.size(wanted) == (places, places)


def half(kernel: Pair) -> Pair:
    """The padding that leaves an image as large as it is, of an odd kernel."""
    return kernel[0] // 2, kernel[1] // 2
