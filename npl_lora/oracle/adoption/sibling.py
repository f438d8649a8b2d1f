"""The low-rank path that a wrapper is handed: a class of the wrapper's own module, built with the same rules."""

import sys
from typing import Any

from .constructor import Constructor
from .framework import Framework
from .wanted import PROBE, NotAdoptedError

_ITS_OWN = ("rank", "alpha", "scale", "dropout", "rslora")  # what is asked of it in place of the wrapper


def find_sibling(framework: Framework, wrapper: Constructor) -> Constructor:
    """The first class of the module that is a low-rank path alone. Raises NotAdoptedError if there is none."""
    module = sys.modules.get(getattr(wrapper.call, "__module__", ""))
    for kind in vars(module).values() if module else ():
        if isinstance(kind, type) and kind is not wrapper.call and kind.__module__ == wrapper.call.__module__:
            constructor = Constructor(kind, framework.parts)
            if _is_path(framework, constructor):
                for role in filter(constructor.has, _ITS_OWN):
                    wrapper.asked_elsewhere(role, constructor.parameter(role) or role)
                return constructor
    name = wrapper.parameter("path")
    raise NotAdoptedError(f"its constructor needs {name}, and no class beside it is a low-rank path")


def _is_path(framework: Framework, constructor: Constructor) -> bool:
    """Whether it is built from sizes and a rank, and holds no weight of its own."""
    takes = constructor.has("in") and constructor.has("out") and constructor.has("rank")
    if not takes or constructor.has("base", "weight", "path") or constructor.unknown:
        return False
    try:
        built: Any = framework.finish(constructor.build(PROBE), PROBE, constructor)
    except Exception:  # a stranger's constructor may raise anything
        return False
    shapes = [t.shape for t in framework.tensors(built).values()]
    return (PROBE.out, PROBE.in_) not in shapes and (PROBE.in_, PROBE.out) not in shapes
