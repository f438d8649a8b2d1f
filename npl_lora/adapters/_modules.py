"""What an adapter has to know of a model: the modules that it may sit on, by their paths."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Module:
    """A linear layer, whose weight is (out, in), or an embedding, whose table is (V, D).

    tensors: the names of its own tensors in the checkpoint. output: the layer that gives the model's answer, which
    "all-linear" leaves out. transposed: its weight is stored (in, out).
    """

    kind: str
    shape: tuple[int, int]
    tensors: tuple[str, ...]
    output: bool = False
    transposed: bool = False

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """{name: shape} of its tensors, as the checkpoint has them."""
        weight = self.shape[::-1] if self.transposed else self.shape
        return {name: weight if name.endswith("weight") else self.shape[:1] for name in self.tensors}
