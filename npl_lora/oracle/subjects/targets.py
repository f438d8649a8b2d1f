"""Loads a target by its name: its functions, one for each contract. Runs in the worker."""

import importlib
import importlib.util
import inspect
import os
import pkgutil
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from ...support.names import Names, as_names
from ..adoption import Adoption, NotAdoptedError, adopt, is_layer, is_lora_layer, takes_arrays
from ..libraries.table import LIBRARIES
from ..one_line import describe_with_place
from . import CONTRACTS, TargetError
from .hints import hint, no_layer, offers_cases
from .spelling import did_you_mean, misspelt

Function = Callable[..., Any]


@dataclass(frozen=True)
class Loaded:
    """The functions of a target by contract; what is said of it if it is an adopted layer; the names of the layers in
    a module that has no functions of its own."""

    functions: dict[str, Function]
    adoption: Adoption | None = None
    layers: tuple[str, ...] = ()


def load(target: str, contract: Names | None) -> Loaded:
    """Load a target, for all its contracts or those that are named. Raises TargetError, one sentence, if it lacks one
    of these, or has no functions."""
    wanted = _wanted(contract)
    source, name = _resolve(target)
    return _loaded(source, name, target, wanted)


def load_object(thing: Any, name: str, contract: Names | None) -> Loaded:
    """The same for an object of this process, which sentences call by this name."""
    return _loaded(thing, name, name, _wanted(contract))


def _wanted(contract: Names | None) -> tuple[str, ...]:
    wanted = () if contract is None else as_names(contract)
    for name in wanted:
        if name not in CONTRACTS:
            close = did_you_mean(name, CONTRACTS)
            raise TargetError(f"{name} is not a contract; the contracts are {_contract_names()}{close}")
    return wanted


def _loaded(source: Any, name: str, target: str, wanted: tuple[str, ...]) -> Loaded:
    adopted = _adopted(source, target)
    loaded = adopted or Loaded(_written(source, name, target, wanted), _of_library(target, source, wanted))
    functions = loaded.functions
    missing = [contract for contract in wanted if contract not in functions]
    if functions and not missing:
        return replace(loaded, functions={name: functions[name] for name in functions if name in (wanted or functions)})
    if not functions and isinstance(source, ModuleType) and (layers := _layers_of(source)):
        _refuse_misspelt(target, misspelt(source, parameter="case"))
        return Loaded({}, layers=layers)
    lacks = " or ".join(missing) or f"after a contract ({_contract_names()})"
    others = f" (there are: {', '.join(functions)})" if functions else ""
    said = misspelt(source, functions) or ([] if functions else [hint(source, target)])
    raise TargetError("; ".join(filter(None, (f"{target} has no function named {lacks}{others}", *said))))


def _refuse_misspelt(target: str, sentences: list[str]) -> None:
    """What somebody meant to be asked must not be left out in silence beside what is right."""
    if sentences:
        raise TargetError(f"{target}: {' '.join(sentences)} Nothing was asked. A helper may begin with an underscore")


def _adopted(source: Any, target: str) -> Loaded | None:
    """A layer of a framework or a function of arrays, adopted; None for what answers cases by itself."""
    if isinstance(source, ModuleType):
        source = _only_function_of_arrays(source)
    if source is None or offers_cases(source):
        return None
    if getattr(source, "__name__", None) in CONTRACTS and not is_layer(source) and not takes_arrays(source):
        return None
    try:
        adopted = adopt(source)
    except NotAdoptedError as error:
        raise TargetError(f"{target} was not adopted: {error}") from None
    return None if adopted is None else Loaded(*adopted)


def _only_function_of_arrays(module: ModuleType) -> Any:
    """The lora_linear of a module, if it takes arrays in place of a case and is all that answers a contract there."""
    named = [name for name in CONTRACTS if callable(vars(module).get(name))]
    function = vars(module).get("lora_linear")
    return function if named == ["lora_linear"] and takes_arrays(function) else None


def _of_library(target: str, source: Any, wanted: tuple[str, ...]) -> Adoption | None:
    """What holds of a library's linear layer besides the contracts, which the library's module answers itself."""
    if target not in LIBRARIES or wanted or not hasattr(source, "lora_layer"):
        return None
    adopted = adopt(source.lora_layer)
    return None if adopted is None else Adoption((), facts=adopted[1].facts)


def _layers_of(module: ModuleType) -> tuple[str, ...]:
    """The names of the classes in a module that are LoRA layers, in their order."""
    own = ((name, kind) for name, kind in vars(module).items() if getattr(kind, "__module__", "") == module.__name__)
    return tuple(name for name, kind in own if inspect.isclass(kind) and is_lora_layer(kind))


def _written(source: Any, name: str, target: str, wanted: tuple[str, ...]) -> dict[str, Function]:
    """The functions that take a case."""
    if inspect.isclass(source):
        source = _instance(source, target)
    functions = _functions_of(source, target)
    if functions and not wanted:
        _refuse_misspelt(target, misspelt(source, functions))
    return functions or (_single_function(source, name, target, wanted) if callable(source) else {})


def _contract_names() -> str:
    return ", ".join(CONTRACTS)


def _functions_of(source: Any, target: str) -> dict[str, Function]:
    """The functions of a module or an object that are named after a contract."""
    functions = {}
    for name in CONTRACTS:
        try:
            function = getattr(source, name, None)
        except Exception as error:  # a property is a stranger's code
            raise TargetError(f"{target}: reading {name} raised {describe_with_place(error)}") from None
        if callable(function) and not _is_borrowed(source, function):
            functions[name] = function
    return functions


def _is_borrowed(source: Any, function: Function) -> bool:
    """Whether a module only imported this function for its own use. torch's cross_entropy implements no contract.

    True if the function comes from another module and cannot be called with a case alone.
    """
    if not isinstance(source, ModuleType) or getattr(function, "__module__", None) == source.__name__:
        return False
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return True
    except ValueError:  # it has no signature that can be read
        return False
    return False


def _single_function(function: Function, name: str, target: str, wanted: tuple[str, ...]) -> dict[str, Function]:
    """A single function, for the one contract that is wanted or the contract that it is named after."""
    for candidate in (*(wanted if len(wanted) == 1 else ()), name, getattr(function, "__name__", None)):
        if candidate in CONTRACTS:
            return {candidate: function}
    raise TargetError(
        f"{target}: {name} is not the name of a contract: add --contract NAME, one of {_contract_names()}"
        f"{did_you_mean(name, CONTRACTS)}"
    )


def _instance(kind: type, target: str) -> Any:
    try:
        return kind()
    except Exception as error:  # a stranger's class may raise anything
        said = f"{target}: {kind.__name__}() raised {describe_with_place(error)}"
        needs = "" if offers_cases(kind) else no_layer([kind])
        raise TargetError("; ".join(filter(None, (said, needs)))) from None


def _resolve(target: str) -> tuple[Any, str]:
    """The object that a target names, and the last component of its name."""
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
    value = module
    for name in path.split("."):
        try:
            value = getattr(value, name)
        except AttributeError:
            raise TargetError(f"{target}: no {name} there (there are: {_names(value)})") from None
        except Exception as error:  # a property is a stranger's code
            raise TargetError(f"{target}: reading {name} raised {describe_with_place(error)}") from None
    return value


def _names(value: Any) -> str:
    names = [name for name in sorted(getattr(value, "__dict__", {})) if not name.startswith("_")]
    names = [name for name in names if not isinstance(value.__dict__[name], ModuleType)]
    return ", ".join(names[:12] + ["…"] * (len(names) > 12)) or "no names"


def _import_from_here(name: str, target: str) -> ModuleType:
    sys.path.insert(0, os.getcwd())
    return _import(name, target)


def _import(name: str, target: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            here = (module.name for module in pkgutil.iter_modules([os.getcwd()]))
            close = did_you_mean(name.partition(".")[0], ("self", *LIBRARIES, *here))
            raise TargetError(f"{target}: no such file, module or shipped subject{close}") from None
        raise TargetError(f"{target} cannot be imported: {describe_with_place(error)}") from None
    except Exception as error:  # a stranger's module may raise anything
        raise TargetError(f"{target} cannot be imported: {describe_with_place(error)}") from None


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise TargetError(f"{path}: {'a folder, expected a file' if path.is_dir() else 'no such file'}")
    file = path.resolve()
    # Loaded under its own name, so that sys.modules holds its definitions. But a numpy.py must not replace numpy.
    name = file.stem if file.stem not in sys.modules else f"{file.stem}_target"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise TargetError(f"{path} is not a Python file (its name does not end in .py)")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.parent))
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a stranger's file may raise anything
        raise TargetError(f"{path} cannot be loaded: {describe_with_place(error)}{_backend(error)}") from None
    return module


def _backend(error: Exception) -> str:
    """Keras wants TensorFlow unless it is told otherwise, and says so nowhere."""
    frames = traceback.walk_tb(error.__traceback__)
    in_keras = any(str(frame.f_globals.get("__name__", "")).startswith("keras.") for frame, _ in frames)
    if isinstance(error, ModuleNotFoundError) and error.name == "tensorflow" and in_keras:
        return "; Keras runs on torch or JAX with KERAS_BACKEND=torch or jax"
    return ""
