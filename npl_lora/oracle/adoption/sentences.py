"""What is said of an adopted layer: what was found, its convention, and a scale that is a fault."""

from .facts import Fact, statements
from .initial import left_to_the_caller
from .law import Law
from .layer import Layer

_SHAPES = {
    "linear": ("(out, in)", "(r, in)", "(out, r)"),
    "conv1d": ("(out, in)", "(r, in)", "(out, r)"),
    "embedding": ("(ids, width)", "(r, ids)", "(width, r)"),
    "conv2d": ("(out, in, kh, kw)", "(r, in, kh, kw)", "(out, r, 1, 1)"),
}
_ALPHA, _RANK = 16.0, 8  # of the example in a sentence


def found(layer: Layer) -> tuple[str, ...]:
    """The tensors and their roles first."""
    roles, (base, A, B) = layer.roles, _other_shapes(layer) or _SHAPES[layer.kind.name]
    pieces = [] if roles.W is None else [f"{layer.kind.W} {roles.W.describe(base)}"]
    pieces += [f"A {roles.A.describe(A)}", f"B {roles.B.describe(B)}"]
    if roles.m is not None:
        pieces.append(f"m {roles.m}")
    if layer.law.kind != "fault":
        pieces.append(f"s = {layer.law.formula}")
    return (f"{layer.constructor.signature}: {'; '.join(pieces)}.", *statements(layer))


def _other_shapes(layer: Layer) -> tuple[str, ...]:
    """Of factors that are kept otherwise; () for all others."""
    groups, count = layer.kind.groups, sum(layer.kind.groups)
    if groups:
        return "(out, in)", f"({count} r, in)", f"({count} out / {len(groups)}, r)"
    return ("(out, in, k, k)", "(r k, in k)", "(out k, r k)") if layer.roles.A.factor else ()


def conventions(layer: Layer) -> str:
    """What the layer defines in another way than PEFT, and keeps to; "" if nothing."""
    by_input = layer.roles.m is not None and layer.m_by_input
    m = "m has one number for each input, where PEFT has one for each output, so dora_linear can't be asked."
    start = "The class sets no start for A and B, so a fresh layer is not its base: the caller must set one to zero."
    left = start if left_to_the_caller(layer) else ""
    return " ".join(filter(None, (convention(layer.law), m if by_input else "", left)))


def convention(law: Law) -> str:
    """What another law than alpha / r means to somebody who knows PEFT's."""
    if law.kind != "convention":
        return ""
    rank = _RANK if _RANK in law.slope else next(iter(law.slope))
    alpha = law.slope[rank] * rank * (_ALPHA if law.parameter else 1.0)
    here = f"{law.parameter} = {_ALPHA:g} at r = {rank}" if law.parameter else f"this at r = {rank}"
    return f"s = {law.formula}, not alpha / r: {here} is alpha = {alpha:.4g} in PEFT."


def scale_fact(law: Law) -> list[Fact]:
    """The scale's own row: nothing is asked where what is added is no multiple of B A, since lora_linear tells that."""
    if law.kind != "fault":
        return [Fact("scale")]
    if not law.formula:
        return []
    if law.formula.endswith(f"whatever {law.parameter} is"):
        return [Fact("scale", f"the parameter {law.parameter} has no effect: s = {law.formula}")]
    return [Fact("scale", f"s = {law.formula}, which is not proportional to {law.parameter}")]
