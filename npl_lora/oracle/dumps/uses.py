"""What a layer does with its input while it is called: an alias for each use of x, and the mask of its dropout.

An alias is the same memory and has one user, so autograd adds gradients in the same order as without it, and the
gradients that reach the aliases are this layer's alone.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class Uses(TorchFunctionMode):
    """A context in which the layer is called with `.x` in the place of x.

    aliases: of x, if it requires a gradient; on_alias(alias, number) is called for each. mask: what dropout on x
    multiplied with, or None. problem: why the layer can't be judged, or "". autocast: the dtypes that autocast had for
    what the layer computed.
    """

    def __init__(self, x: Any, on_alias: Callable[[Any, int], None]) -> None:
        super().__init__()
        self.aliases: list[Any] = []
        self.mask: Any = None
        self.problem = ""
        self.autocast: set[str] = set()
        self._original, self._on_alias = x, on_alias
        self.x = self._alias()
        self._seed = generator_state(x)

    def _alias(self) -> Any:
        if not self._original.requires_grad:
            return self._original
        alias = self._original.view_as(self._original)
        self._on_alias(alias, len(self.aliases))
        self.aliases.append(alias)
        return alias

    def __torch_function__(
        self, function: Any, types: Any, arguments: Any = (), keywords: Mapping[str, Any] | None = None
    ) -> Any:
        keywords = keywords or {}
        self.autocast |= autocast_dtypes(self._original.device.type)
        if function is torch.nn.functional.dropout:
            return self._dropped(function, *arguments, **keywords)
        return self._with_alias(function, *arguments, **keywords)

    def _with_alias(self, function: Any, *arguments: Any, **keywords: Any) -> Any:
        """The call with an alias of its own. What returns its own input, as x.to(dtype) may, is no use of x."""
        if getattr(function, "__name__", "") == "__get__" or not self._original.requires_grad:
            return function(*arguments, **keywords)
        made: list[Any] = []

        def exchanged(value: Any) -> Any:
            if isinstance(value, (list, tuple)) and any(one is self.x for one in value):
                return type(value)(exchanged(one) for one in value)
            if value is not self.x:
                return value
            made.append(self._alias())
            return made[-1]

        new = [exchanged(value) for value in arguments], {name: exchanged(v) for name, v in keywords.items()}
        result = function(*new[0], **new[1])
        return self.x if any(result is alias for alias in made) else result

    def _dropped(self, function: Any, input: Any, p: float = 0.5, training: bool = True, **more: Any) -> Any:
        """Dropout, after which the mask is drawn again: from ones, with the same random numbers."""
        before = generator_state(input)
        dropped = self._with_alias(function, input, p, training, **more)
        if not training or not p:
            return dropped
        after = generator_state(input)
        self._look_for_other_draws(before)
        with torch.no_grad():
            set_generator_state(input, before)
            mask = function(torch.ones_like(input), p, training=True)
            set_generator_state(input, after)
            self.problem = self.problem or self._not_on_x(input, mask, dropped)
        self.mask = mask
        self._seed = after
        return dropped

    def _not_on_x(self, input: Any, mask: Any, dropped: Any) -> str:
        if self.mask is not None:
            return "it draws more than one dropout mask"
        x, input = self._original.detach().to(input.dtype), input.detach()
        if input.shape != x.shape or not _same(input, x, eps=0.0):
            return f"its dropout acts on a tensor of shape {tuple(input.shape)}, not on x"
        same = _same(input * mask, dropped.detach(), eps=4 * torch.finfo(input.dtype).eps)
        return "" if same else "its dropout mask could not be reproduced"

    def finish(self) -> None:
        self._look_for_other_draws(generator_state(self._original))

    def _look_for_other_draws(self, state: Any) -> None:
        """Whether the generator has moved since the last dropout."""
        if not torch.equal(state, self._seed):
            self.problem = self.problem or "it draws random numbers by other means than torch's dropout"


def _same(t: Any, other: Any, eps: float) -> bool:
    return torch.allclose(t, other, rtol=eps, atol=0.0, equal_nan=True)


def autocast_dtypes(*devices: str) -> set[str]:
    """The dtypes that autocast has now on these devices, where it is on."""
    on = [device for device in devices if torch.is_autocast_enabled(device)]
    return {str(torch.get_autocast_dtype(device)).removeprefix("torch.") for device in on}


def generator_state(x: Any) -> Any:
    return torch.cuda.get_rng_state(x.device) if x.is_cuda else torch.get_rng_state()


def set_generator_state(x: Any, state: Any) -> None:
    if x.is_cuda:
        torch.cuda.set_rng_state(state, x.device)
    else:
        torch.set_rng_state(state)
