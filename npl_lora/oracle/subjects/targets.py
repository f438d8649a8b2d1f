"""From the name of a target to its functions, one for each contract. Runs in the worker."""

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from ..libraries.table import LIBRARIES
from . import CONTRACTS, TargetError
from .one_line import describe

Function = Callable[..., Any]


def load(target: str, contract: str | None) -> dict[str, Function]:
    """The functions of a target by contract. Raises TargetError, one sentence, when there are none."""
    if contract is not None and contract not in CONTRACTS:
        raise TargetError(f"{contract} is not a contract; the contracts are {_known()}")
    found, name = _find(target)
    if inspect.isclass(found):
        found = _instance(found, target)
    functions = _named(found, target)
    if not functions and callable(found):
        functions = _single(found, name, target, contract)
    if contract in functions:
        return {contract: functions[contract]}
    if contract is None and functions:
        return functions
    wanted = contract or f"a contract ({_known()})"
    there = f" (there are: {', '.join(functions)})" if functions else ""
    raise TargetError(f"{target} has no function that bears the name of {wanted}{there}")


def _known() -> str:
    return ", ".join(CONTRACTS)


def _named(found: Any, target: str) -> dict[str, Function]:
    """What bears the name of a contract in a module or an object."""
    functions = {}
    for name in CONTRACTS:
        try:
            function = getattr(found, name, None)
        except Exception as error:  # a property of somebody's
            raise TargetError(f"{target}: looking for {name} there raised {describe(error)}") from None
        if callable(function) and not _is_borrowed(found, function):
            functions[name] = function
    return functions


def _is_borrowed(found: Any, function: Function) -> bool:
    """Whether a module merely imported this for its own use: torch's cross_entropy is no answer to a contract.

    It is when it comes from elsewhere and could not be asked, for it takes more than a case.
    """
    if not isinstance(found, ModuleType) or getattr(function, "__module__", None) == found.__name__:
        return False
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return True
    except ValueError:  # it has no signature that could be read
        return False
    return False


def _single(function: Function, name: str, target: str, contract: str | None) -> dict[str, Function]:
    """One function, asked the contract given, or the one that it is named for."""
    for contract_name in (contract, name, getattr(function, "__name__", None)):
        if contract_name in CONTRACTS:
            return {contract_name: function}
    raise TargetError(f"{target}: {name} is not the name of a contract: add --contract NAME, one of {_known()}")


def _instance(kind: type, target: str) -> Any:
    try:
        return kind()
    except Exception as error:  # anything may go wrong in somebody's class
        raise TargetError(f"{target}: {kind.__name__}() raised {describe(error)}") from None


def _find(target: str) -> tuple[Any, str]:
    """What a target names, and the last part of its name."""
    if target in LIBRARIES:
        return _import(LIBRARIES[target].module, target), target
    if Path(target).is_file():  # even with a colon in its name
        return _load_file(Path(target)), target
    where, colon, attribute = target.rpartition(":")
    if not colon:
        where, attribute = target, ""
    module = _load_file(Path(where)) if _is_path(where) else _import_from_here(where, target)
    return (_attribute(module, attribute, target), attribute.rpartition(".")[2]) if attribute else (module, where)


def _is_path(where: str) -> bool:
    return where.endswith(".py") or os.sep in where or Path(where).is_file()


def _attribute(module: Any, path: str, target: str) -> Any:
    found = module
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise TargetError(f"{target}: no {name} there (there are: {_names(found)})") from None
        except Exception as error:  # a property of somebody's
            raise TargetError(f"{target}: looking for {name} there raised {describe(error)}") from None
    return found


def _names(found: Any) -> str:
    names = [name for name in sorted(getattr(found, "__dict__", {})) if not name.startswith("_")]
    names = [name for name in names if not isinstance(found.__dict__[name], ModuleType)]
    return ", ".join(names[:12] + ["…"] * (len(names) > 12)) or "no names"


def _import_from_here(name: str, target: str) -> ModuleType:
    sys.path.insert(0, os.getcwd())
    return _import(name, target)


def _import(name: str, target: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            raise TargetError(f"{target}: no such file, module or shipped subject") from None
        raise TargetError(f"{target} cannot be imported: {describe(error)}") from None
    except Exception as error:  # anything may go wrong in somebody's module
        raise TargetError(f"{target} cannot be imported: {describe(error)}") from None


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise TargetError(f"{path}: {'a folder, expected a file' if path.is_dir() else 'no such file'}")
    file = path.resolve()
    # Under its own name, so that what it defines can be found again; but a file called numpy.py is not to become numpy.
    name = file.stem if file.stem not in sys.modules else f"{file.stem}_target"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise TargetError(f"{path} is not a Python file (its name does not end in .py)")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.parent))
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # anything may go wrong in somebody's file
        raise TargetError(f"{path} cannot be loaded: {describe(error)}") from None
    return module
