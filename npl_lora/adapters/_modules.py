"""What an adapter needs to know about a module of the model."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Module:
    """A linear layer, whose weight is (out, in), or an embedding, whose table is (V, D).

    tensors: the names of its own tensors in the checkpoint. output: whether it is the model's output layer, which
    "all-linear" leaves out. transposed: whether its weight is stored (in, out). shares: the name of another module's
    tensor that it computes with, if it has none of its own, as the output layer of a tied model.
    """

    kind: str
    shape: tuple[int, int]
    tensors: tuple[str, ...]
    output: bool = False
    transposed: bool = False
    shares: str = ""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """{name: shape} of its tensors in the checkpoint."""
        weight = self.shape[::-1] if self.transposed else self.shape
        return {name: weight if name.endswith("weight") else self.shape[:1] for name in self.tensors}
