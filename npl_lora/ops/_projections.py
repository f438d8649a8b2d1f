"""Several LoRA linears under one roof: names with a suffix for each projection, gradients gathered by name."""

from collections.abc import Callable, Mapping

from ._interface import Array, Pullback


class Projections:
    """The LoRA linears of a block: projection n has the weight W<n> or W_<n> and the factors A_<n> and B_<n>."""

    def __init__(
        self,
        weights: Mapping[str, str],
        arrays: Mapping[str, Array],
        scale: float,
        lora_linear: Callable[..., tuple[Array, Pullback]],
    ) -> None:
        self._weights = weights  # projection -> the name of its weight: {"q": "Wq", ...}
        self._arrays = arrays
        self._scale = scale
        self._linear = lora_linear
        self._pullbacks: dict[str, Pullback] = {}

    def forward(self, n: str, x: Array) -> Array:
        """L_n(x) = x W_n^T + s (x A_n^T) B_n^T."""
        W, A, B = (self._arrays[name] for name in self._names(n))
        y, self._pullbacks[n] = self._linear(x, W, A, B, scale=self._scale)
        return y

    def backward(self, n: str, dy: Array, wrt: frozenset[str], dx: bool = True) -> dict[str, Array]:
        """The gradients of projection n that wrt names, under their full names; and its input's, as "x", if dx."""
        full = dict(zip(("W", "A", "B"), self._names(n), strict=True))
        short = [name for name in full if full[name] in wrt]
        grads = self._pullbacks[n](dy, wrt=("x", *short) if dx else short)
        return {full.get(name, name): grad for name, grad in grads.items()}

    def _names(self, n: str) -> tuple[str, str, str]:
        return self._weights[n], f"A_{n}", f"B_{n}"

    @property
    def trained(self) -> tuple[str, ...]:
        return tuple(f"{factor}_{n}" for n in self._weights for factor in "AB")

    @property
    def frozen(self) -> tuple[str, ...]:
        return tuple(self._weights.values())
