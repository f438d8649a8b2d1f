"""Hooks on one LoRA layer of a PEFT model, which record what a step does there."""

import json
import math
from collections.abc import Callable, Collection
from typing import Any

from ...support.extras import require
from ..definition import scale

_PRECISION = ("float64", "float32", "float16", "bfloat16")  # finest first
GONE_AROUND = "got gradients without being called, as where a fused kernel reads the weights"


def obstacle(layer: Any) -> str:
    """Why the layer does not compute x W^T + b + s (x~ A^T) B^T at present, or nothing."""
    linear = require("torch.nn", "torch", "capture").Linear
    if not isinstance(layer, require("peft.tuners.lora", "torch", "capture").Linear):
        return f"is a {type(layer).__name__}"
    adapters = [name for name in layer.active_adapters if name in layer.lora_A]
    if layer.disable_adapters or layer.merged:
        return f"has its adapter {'disabled' if layer.disable_adapters else 'merged'}"
    if len(adapters) != 1:
        return f"has {len(adapters)} active adapters, expected 1"
    (adapter,) = adapters
    if variant := getattr(layer, "lora_variant", {}).get(adapter):
        return f"is a {type(variant).__name__}"
    base = layer.get_base_layer()
    if type(base) is not linear and type(base).__name__ != "Conv1D":
        return f"is on a {type(base).__name__}"
    if type(layer.lora_A[adapter]) is not linear or type(layer.lora_B[adapter]) is not linear:
        return f"has a {type(layer.lora_A[adapter]).__name__} for A"
    return "has a bias in B" if layer.lora_B[adapter].bias is not None else ""


class Recorder:
    """Hooks on one layer. They record tensors on the CPU, under the contract's names."""

    def __init__(self, torch: Any, name: str, layer: Any) -> None:
        self.name = name
        self.tensors: dict[str, Any] = {}
        self._torch = torch
        self._layer = layer
        self._adapter = next(adapter for adapter in layer.active_adapters if adapter in layer.lora_A)
        self._recording = False
        self._dx: dict[str, Any] = {}  # the gradients of the two aliases of x
        self._around: dict[str, Any] = {}  # what its parameters show if nobody calls it
        self._shared = False
        self.problem = ""
        dropout = layer.lora_dropout[self._adapter]
        self._hooks = [
            layer.register_forward_pre_hook(self._before_layer, with_kwargs=True),
            layer.get_base_layer().register_forward_pre_hook(self._before_base),
            dropout.register_forward_pre_hook(self._before_dropout),
            dropout.register_forward_hook(self._after_dropout),
            layer.register_forward_hook(self._after_layer, with_kwargs=True),
        ]

        for name, parameter in self._factors().items():
            if parameter.requires_grad:
                self._hooks.append(parameter.register_hook(_keep(self._around, f"d{name}")))
                self._hooks.append(parameter.register_hook(_keep(self._around, name, parameter)))

    def _factors(self) -> dict[str, Any]:
        return {n: f[self._adapter].weight for n, f in (("A", self._layer.lora_A), ("B", self._layer.lora_B))}

    @property
    def was_called(self) -> bool:
        return "y" in self.tensors

    @property
    def was_gone_around(self) -> bool:
        """Whether it got gradients without being called."""
        return not self.was_called and bool(self._around)

    def stop(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def _before_layer(self, layer: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        """Start recording if this is the first call with gradients enabled. A call from within a backward is a
        recomputation, not a second use."""
        plain = self._torch.is_grad_enabled() and not obstacle(layer) and keywords.get("adapter_names") is None
        again = "y" in self.tensors
        self._shared |= plain and again and "dy" not in self.tensors and not _in_backward(self._torch)
        self._recording = plain and not again
        if not self._recording:
            return
        A, B = self._factors().values()
        base = layer.get_base_layer()
        weight = base.weight.T if layer.fan_in_fan_out else base.weight
        self.tensors |= {"W": _copy(weight), "A": _copy(A), "B": _copy(B)}
        if base.bias is not None:
            self.tensors["b"] = _copy(base.bias)
        for name, parameter in (("dA", A), ("dB", B)):
            if parameter.requires_grad:
                self._hooks.append(parameter.register_hook(_keep(self.tensors, name)))

    def _alias(self, x: Any, user: str) -> Any:
        """The same numbers for one user: the gradient of the alias is that user's share of dx."""
        if not x.requires_grad:
            return x
        alias = x.view_as(x)
        alias.register_hook(_keep(self._dx, user))
        return alias

    def _before_base(self, base: Any, arguments: tuple[Any, ...]) -> Any:
        if not self._recording:
            return None
        self.tensors["x"] = _copy(arguments[0])
        return (self._alias(arguments[0], "base"), *arguments[1:])

    def _before_dropout(self, dropout: Any, arguments: tuple[Any, ...]) -> Any:
        if not self._recording:
            return None
        self._state_before = _generator_state(self._torch, arguments[0])
        return (self._alias(arguments[0], "low-rank path"),)

    def _after_dropout(self, dropout: Any, arguments: tuple[Any, ...], dropped: Any) -> None:
        """Draw the mask again: apply dropout to ones from the generator's earlier state."""
        if not self._recording or not dropout.training or not getattr(dropout, "p", 0.0):
            return
        torch, x = self._torch, arguments[0].detach()
        after = _generator_state(torch, x)
        _set_generator_state(torch, x, self._state_before)
        mask = torch.nn.functional.dropout(torch.ones_like(x), dropout.p, training=True)
        _set_generator_state(torch, x, after)
        self.tensors["mask"] = _copy(mask)
        close = {"rtol": 4 * torch.finfo(x.dtype).eps, "atol": 0.0, "equal_nan": True}
        if not torch.allclose(x * mask, dropped.detach(), **close):
            self.problem = f"{self.name} cannot be captured: its dropout mask could not be reproduced"

    def _after_layer(self, layer: Any, arguments: tuple[Any, ...], keywords: dict[str, Any], y: Any) -> None:
        if not self._recording:
            return
        self._recording = False
        if keywords.get("adapter_names") is not None:  # PEFT adds it by a hook of its own, after ours
            self.tensors, self._dx, self._shared = {}, {}, True
            return
        self.tensors["y"] = _copy(y)
        if y.requires_grad:
            y.register_hook(_keep(self.tensors, "dy"))

    def contents(self) -> dict[str, Any]:
        """The tensors to write. dA and dB are dropped if another call adds to them.

        dx is the sum of its two shares. A backward that asks for x at all asks for both: a share that never came is
        zero, as where one of the paths is detached from x.
        """
        if self.was_gone_around:
            return {**{name: _copy(factor) for name, factor in self._factors().items()}, **self._around}
        tensors = dict(self.tensors)
        if self._dx:
            tensors["dx"] = sum(self._dx.values())
        dropped = ("dA", "dB") if self._shared else ()
        return {name: tensor.contiguous() for name, tensor in tensors.items() if name not in dropped}

    def metadata(self, autocast: Collection[str] = ()) -> dict[str, str]:
        """The metadata of a case. dtype is the coarsest among the tensors; note is shown with the verdict.

        autocast: the dtypes that autocast had while the block ran.
        """
        layer, adapter = self._layer, self._adapter
        r, alpha, use_rslora = layer.r[adapter], layer.lora_alpha[adapter], bool(layer.use_rslora[adapter])
        config = {"r": r, "alpha": alpha, "use_rslora": use_rslora}
        tensors = {"W": self._layer.get_base_layer().weight, **self.contents()}
        inputs = [tensors[name] for name in ("x", "W", "A", "B", "y") if name in tensors]
        dtypes = {str(tensor.dtype).removeprefix("torch.") for tensor in inputs}
        dtypes |= set(autocast) if self.was_gone_around else set()  # nobody knows what the kernel computed in
        notes = [GONE_AROUND] if self.was_gone_around else []
        notes += [f"d{name} never came, although {name} is trained" for name in self._without_a_gradient()]
        if self._shared:
            notes.append(
                "the layer ran more than once before its backward: dA and dB are sums over its calls and are left out"
            )
        if not math.isclose(layer.scaling[adapter], scale(config)):
            notes.append(f"the layer multiplies by {layer.scaling[adapter]:g}, but r and alpha give {scale(config):g}")
        return {
            "protocol": "1",
            "contract": "lora_linear",
            "id": self.name,
            "dtype": max(dtypes, key=_PRECISION.index),
            "config": json.dumps(config),
            "note": "; ".join(notes),
        }

    def _without_a_gradient(self) -> list[str]:
        """Those of A and B that ask for a gradient and got none from this layer's backward."""
        trained = [name for name, factor in self._factors().items() if factor.requires_grad]
        return [name for name in trained if "dy" in self.tensors and f"d{name}" not in self.tensors]


def _keep(tensors: dict[str, Any], name: str, other: Any = None) -> Callable[[Any], None]:
    """A hook that records the first gradient to arrive, or what another tensor is at that moment."""

    def hook(gradient: Any) -> None:
        if name not in tensors:
            tensors[name] = _copy(gradient if other is None else other)

    return hook


def _copy(tensor: Any) -> Any:
    return tensor.detach().to("cpu", copy=True)


def _in_backward(torch: Any) -> bool:
    """Whether autograd is running. Checkpointing then calls the layer again to recompute its first call."""
    return torch._C._current_graph_task_id() != -1


def _generator_state(torch: Any, x: Any) -> Any:
    return torch.cuda.get_rng_state(x.device) if x.is_cuda else torch.get_rng_state()


def _set_generator_state(torch: Any, x: Any, state: Any) -> None:
    if x.is_cuda:
        torch.cuda.set_rng_state(state, x.device)
    else:
        torch.set_rng_state(state)
