"""From the name of a target to its functions, one for each contract. Runs in the worker."""

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import CONTRACTS, TargetError
from .convert import describe

_LIBRARIES = {"peft": "npl_lora.oracle.subjects.peft_library", "loralib": "npl_lora.oracle.subjects.loralib_library"}


def load(target: str, contract: str | None) -> dict[str, Callable[..., Any]]:
    """The functions of a target by contract. Raises TargetError, one sentence, when there are none."""
    found = _find(target)
    if inspect.isclass(found):
        found = found()
    names = [contract] if contract else list(CONTRACTS)
    functions = {name: getattr(found, name) for name in names if callable(getattr(found, name, None))}
    if functions:
        return functions
    if callable(found):
        own = getattr(found, "__name__", "")
        name = contract or own
        if name in CONTRACTS:
            return {name: found}
        raise TargetError(f"{target}: {own or 'it'} is not the name of a contract: add --contract NAME, one of {_known()}")
    wanted = contract or f"a contract ({_known()})"
    raise TargetError(f"{target} has no function that bears the name of {wanted}")


def _known() -> str:
    return ", ".join(CONTRACTS)


def _find(target: str) -> Any:
    if target in _LIBRARIES:
        return _import(_LIBRARIES[target], target)
    if Path(target).is_file():
        return _load_file(Path(target))
    where, colon, attribute = target.rpartition(":")
    if not colon:
        where, attribute = target, ""
    if where.endswith(".py") or os.sep in where:
        if not Path(where).is_file():
            raise TargetError(f"{where}: no such file")
        module = _load_file(Path(where))
    else:
        sys.path.insert(0, os.getcwd())
        module = _import(where, target)
    return _attribute(module, attribute, target) if attribute else module


def _attribute(module: Any, path: str, target: str) -> Any:
    found = module
    for name in path.split("."):
        if not hasattr(found, name):
            there = ", ".join(sorted(n for n in vars(module) if not n.startswith("_"))[:12])
            raise TargetError(f"{target}: no {name} there (there are: {there or 'no names'})")
        found = getattr(found, name)
    return found


def _import(name: str, target: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and name.startswith(error.name):
            raise TargetError(f"{target}: no such file, module or shipped subject") from None
        raise TargetError(f"{target} cannot be imported: {describe(error)}") from None
    except Exception as error:  # anything may go wrong in somebody's module
        raise TargetError(f"{target} cannot be imported: {describe(error)}") from None


def _load_file(file: Path) -> Any:
    file = file.resolve()
    sys.path.insert(0, str(file.parent))
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise TargetError(f"{file.name} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # anything may go wrong in somebody's file
        raise TargetError(f"{file.name} cannot be loaded: {describe(error)}") from None
    return module
