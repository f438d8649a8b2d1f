"""What the letters of the ids stand for: S5 is a fault of the scale."""

from collections.abc import Iterable
from dataclasses import dataclass

from .fault import Fault


@dataclass(frozen=True)
class Kind:
    """A group of faults. letter: what its ids start with. name: its heading. says: what goes wrong, in a sentence."""

    letter: str
    name: str
    says: str


KINDS = {
    kind.letter: kind
    for kind in (
        Kind("S", "Scale", "The scale s = alpha / r is missing, applied twice, or computed from the wrong numbers."),
        Kind("L", "Layout", "Tensors are transposed, swapped, read in another layout, or not loaded at all."),
        Kind("I", "Initialisation", "A and B start from the wrong distribution, or both or neither start from zero."),
        Kind("D", "Dropout", "The mask is missing, misplaced or not scaled, or dropout acts at the wrong time."),
        Kind("M", "Merging", "Merging, unmerging or building the adapted layer goes wrong."),
        Kind("W", "Weighted adapters", "Several adapters are combined into one in the wrong way."),
        Kind("P", "Per-row adapters", "A row of a batch gets the wrong adapter, rank or scale, or the wrong place."),
        Kind("R", "DoRA", "The magnitude m, the norm n, or their gradients are wrong."),
        Kind("E", "Embedding", "Repeated ids or the padding token are handled wrongly."),
        Kind("C", "Convolution", "The kernel, the strides or the padding are wrong."),
        Kind("B", "Backward", "A gradient is lost, or computed from the wrong quantities."),
        Kind("K", "Kernel", "The last token, or what does not fill a kernel's last block, is left out."),
        Kind("A", "Attention", "The causal mask, the padding mask or rope is wrong."),
        Kind("N", "Norm", "RMSNorm's eps, mean, weight or gradient is wrong."),
        Kind("G", "Gated MLP", "The activation is not the one in the configuration."),
        Kind("T", "Loss and training", "The labels, the means, gradient accumulation or attention's scores are wrong."),
        Kind("O", "Optimiser", "SGD or AdamW takes a wrong step."),
        Kind(
            "U",
            "Use",
            "One call is right, and another one is not: after a change, a second time, or elsewhere.",
        ),
    )
}


def kind_of(fault: Fault) -> Kind:
    """The kind of a fault: that of its id's letter."""
    return KINDS[fault.id[0]]


def by_kind(faults: Iterable[Fault]) -> dict[Kind, list[Fault]]:
    """The faults of each kind that has any: the kinds in the order of KINDS, the faults in that of their numbers."""
    ordered = sorted(faults, key=lambda fault: int(fault.id[1:]))
    groups = {kind: [fault for fault in ordered if kind_of(fault) is kind] for kind in KINDS.values()}
    return {kind: group for kind, group in groups.items() if group}
