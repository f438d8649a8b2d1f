"""What is not NumPy is an extra: looked up where it is needed, and missed with one clear sentence."""

import importlib
from typing import Any


class MissingExtraError(ImportError):
    """A package that an optional feature needs is not installed; the message says which command installs it."""


def require(module: str, extra: str, what: str) -> Any:
    """Import a module of an extra. `what` needs it: "the command line"."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        package = module.split(".")[0]
        raise MissingExtraError(f"{what} needs {package}: pip install 'npl-lora[{extra}]'") from None
