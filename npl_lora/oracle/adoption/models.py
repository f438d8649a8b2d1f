"""The LoRA layers of a model, whoever wrote them: the innermost modules that hold W, A and B.

A module looks like LoRA if names say so. If only its shapes do, and W alone is frozen, probing must
confirm it. A low-rank path alone belongs to the module around it, if that is a LoRA layer with a W of its own.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import nn

from .constructor import Constructor
from .kinds import CONV2D, EMBEDDING, kind_of
from .shapes import Roles, Shapes
from .standing import Standing, find_hypotheses, read
from .torch_layers import held, walk
from .wanted import NotAdoptedError
from .words import of_factor

_FEW = 6  # tensors of a module that is probed though no name says that it is LoRA
_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict, nn.Sequential)


@dataclass(frozen=True)
class Seen:
    """A module that is a LoRA layer, or looks like one. standing: None where it can't be read; why says the reason."""

    name: str
    module: nn.Module
    standing: Standing | None = None
    why: str = ""

    @property
    def is_path_alone(self) -> bool:
        return self.standing is not None and self.standing.roles.W is None


def find_layers(model: nn.Module, known: Callable[[nn.Module], bool]) -> list[Seen]:
    """Those that are read and those that can't be. known: the modules that somebody else reads, with all in them."""
    return list(_visit("", model, known, set()))


def _visit(name: str, module: nn.Module, known: Callable[[nn.Module], bool], visited: set[int]) -> Iterator[Seen]:
    if id(module) in visited or known(module):
        return
    visited.add(id(module))
    below = [
        seen
        for child, inner in module.named_children()
        if child != "parametrizations"
        for seen in _visit(f"{name}.{child}".lstrip("."), inner, known, visited)
    ]
    settled = [seen for seen in below if not seen.is_path_alone]
    mine = None if isinstance(module, _CONTAINERS) else _seen(name, module, settled, known)
    if mine is None or (mine.standing is None and len(settled) < len(below)):
        yield from below
    else:
        yield from (*settled, mine)


def _seen(name: str, module: nn.Module, inside: list[Seen], known: Callable[[nn.Module], bool]) -> Seen | None:
    """The module as a LoRA layer by what it holds besides the layers inside; None if it doesn't look like one."""
    others = [seen.module for seen in inside] + [inner for inner in module.modules() if known(inner)]
    theirs = {id(t) for other in others for _, _, t in walk(other)}
    shapes = {path: tuple(t.shape) for path, _, t in walk(module) if id(t) not in theirs}
    hypotheses = find_hypotheses(shapes) if not others and len(shapes) <= _FEW else []
    named = _is_named_like_lora(module, shapes, bool(hypotheses))
    if not named and not any(_is_trained_like_lora(module, roles) for roles, _ in hypotheses):
        return None
    try:
        standing = read(module, shapes)
    except NotAdoptedError as error:
        return Seen(name, module, why=_on_what(module) or str(error)) if named else None
    return Seen(name, module, standing) if named or standing.fits else None


def _is_trained_like_lora(module: nn.Module, roles: Roles) -> bool:
    """Whether W is frozen, and A and B are trained. Probing a copy of every other layer would take too long."""
    trained = [held(module, one.path).requires_grad for one in (roles.W, roles.A, roles.B) if one is not None]
    return trained == [False, True, True]


def _on_what(module: nn.Module) -> str:
    """What the layer is on, if that is no linear layer."""
    kind, parts = kind_of(Constructor(type(module), {})), [module, *module.children()]
    if kind is EMBEDDING or any(isinstance(part, nn.Embedding) for part in parts):
        return "it is on an embedding"
    is_convolution = kind is CONV2D or any(isinstance(part, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) for part in parts)
    return "it is on a convolution" if is_convolution else ""


def _is_named_like_lora(module: nn.Module, shapes: Shapes, few: bool) -> bool:
    """Whether names say so. few: whether these are all of its tensors, and few, and of LoRA's shapes: then less of a
    name will do, since other layers too have an A and a B, or a down and an up, and whole models are called LoRA."""
    factors = {letter: [p for p, shape in shapes.items() if len(shape) > 1 and of_factor(p, letter)] for letter in "ab"}
    of_class, paths = type(module).__name__.lower(), " ".join(factors["a"] + factors["b"]).lower()
    if all(factors.values()) and "lora" in (of_class if few else "") + paths:
        return True
    down_and_up = "down" in paths or "up" in paths
    return few and ("lora" in of_class or (all(factors.values()) and not down_and_up))
