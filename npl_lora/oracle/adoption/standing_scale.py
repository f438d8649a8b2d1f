"""The scale of a layer that stands in a model: what it is by the layer's own alpha, and what its class's law says."""

import math
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from torch import nn

from .constructor import Constructor
from .law import PLAIN, Law, near
from .layer import Layer
from .sentences import scale_fact
from .standing import Standing
from .torch_layers import TorchLayers
from .words import role_of

Strength = tuple[str, str, float]  # role, name, number


def scale_of(module: nn.Module, standing: Standing) -> tuple[float, str]:
    """s that the layer is judged with, and a sentence on it: what was measured, unless that is a fault or nothing."""
    s, r, law, strengths = standing.s, standing.sizes.rank, _law_of(module), _strengths(module)
    wanted, words = _wanted(r, strengths)
    judged = f"it is judged with s = {wanted:.4g}, {words}"
    if not standing.fits:
        found = "it adds B A with s = 0" if s == 0.0 else "what it adds to x W^T + b is no multiple of B A"
        return wanted, f"{found}: {judged}"
    if law is not None and law.kind == "fault" and law.formula:
        (fact,) = scale_fact(law)
        has_alpha = any(role == "alpha" for role, _, _ in strengths)
        return (wanted, f"{fact.wrong}: {judged}") if has_alpha else (s, f"{fact.wrong}; here s = {s:.4g}")
    formula = next(_formulas(s, r, law, strengths), "")
    stated_by_class = law is not None and law.formula == formula
    from_nowhere = not stated_by_class and any(formula == name for role, name, _ in strengths if role == "scale")
    return s, _says(s, r, formula, from_nowhere)


def _wanted(r: int, strengths: list[Strength]) -> tuple[float, str]:
    """The scale by what the layer keeps, and where it is from."""
    if not strengths:
        return 1.0, "since it keeps no alpha"
    role, name, value = strengths[0]
    return (value / r, f"{name} / r") if role == "alpha" else (value, f"its {name}")


def _says(s: float, r: int, formula: str, from_nowhere: bool) -> str:
    """from_nowhere: whether the formula is the name of a number, and nobody knows what it was computed from."""
    in_PEFT = f"at r = {r} this is alpha = {s * r:.4g} in PEFT"
    if not formula:
        return f"s = {s:.4g}, as measured on the layer: {in_PEFT}"
    said = f"s = {formula}" if formula == f"{s:.4g}" else f"s = {formula} = {s:.4g}"
    if re.fullmatch(r"[^\W\d]\w* / r", formula):
        return said
    return f"{said}: {in_PEFT}" if from_nowhere else f"{said}, not alpha / r: {in_PEFT}"


def _formulas(s: float, r: int, law: Law | None, strengths: list[Strength]) -> Iterator[str]:
    """The laws that give s, the likeliest first: the class's own, then what the layer's own numbers say."""
    fitting = [
        form.format(a=name)
        for role, name, value in strengths
        for form, of in PLAIN.items()
        if (role == "alpha" or form == "{a}") and near(s, of(value, r))
    ]
    if law is not None and law.kind != "fault" and "c(r)" not in law.formula:
        stated = any(name == law.parameter for _, name, _ in strengths)
        if law.formula in fitting or not (stated or (not law.parameter and not near(s, law.slope.get(r, s)))):
            yield law.formula
    yield from fitting


def _strengths(module: nn.Module) -> list[Strength]:
    """The alphas and scales that a layer keeps, the alphas first."""
    found = [
        (str(role), name, float(value))
        for inner in module.modules()
        for name, value in vars(inner).items()
        if (role := role_of(name, by_words=False)) in ("alpha", "scale")
        and isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
    ]
    return sorted(found, key=lambda strength: strength[0])


def _law_of(module: nn.Module) -> Law | None:
    """The law of the class of a layer, or of a part that is its low-rank path; None if that can't be had."""
    kinds: list[Any] = [type(inner) for inner in module.modules()]
    return next((law for kind in kinds if (law := _law_of_class(kind)) is not None), None)


@cache
def _law_of_class(kind: Any) -> Law | None:
    """The law of a class of layers, by building some."""
    framework = TorchLayers()
    constructor = Constructor(kind, framework.parts)
    try:
        return Layer(framework, constructor).law if constructor.builds_a_layer else None
    except Exception:  # a stranger's constructor may raise anything; the layer that stands there is judged all the same
        return None
