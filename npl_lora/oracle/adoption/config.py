"""A config object that answers whatever a layer asks of it: attributes, items, and objects within it."""

from collections.abc import Callable
from typing import Any

from .words import role_of

_SWITCHES = ("run_", "use_", "enable", "quant", "merge", "is_", "do_")
_ON = ("enabled", "enable_lora", "use_lora")  # else there is nothing to adopt
_CHOICES = ("init", "method")


class AnyConfig(dict[str, Any]):
    """answer(role) gives the value for a name with a known role. Switches are off, but for LoRA's own; choices are
    None."""

    def __init__(self, answer: Callable[[str], Any]) -> None:
        super().__init__()
        object.__setattr__(self, "_answer", answer)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        role = role_of(name)
        if role not in (None, "config", "path"):  # the last two are objects that hold the rest
            return object.__getattribute__(self, "_answer")(role)
        if name.startswith(_SWITCHES):
            return name in _ON
        return None if any(word in name for word in _CHOICES) else self

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)

    def get(self, name: str, default: Any = None) -> Any:
        """As a dict's, but every name is there."""
        return getattr(self, name)

    def __bool__(self) -> bool:
        return True

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and role_of(name) is not None
