"""Optional packages. Everything but NumPy is imported where it is needed; when it is missing, one sentence says so."""

import importlib
from typing import Any


class MissingExtraError(ImportError):
    """A package that an optional feature needs is not installed. The message says which command installs it."""


def require(module: str, extra: str, what: str) -> Any:
    """Import a module that belongs to an extra. `what` names the feature for the message: "the command line"."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        package = module.split(".")[0]
        raise MissingExtraError(f"{what} needs {package}: pip install 'npl-lora[{extra}]'") from None
