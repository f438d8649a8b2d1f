"""Records one step of a user's training run, for `npl-lora judge`: one dump for each LoRA layer of a PEFT model.

    with npl_lora.oracle.dumps.capture(model, "dumps", layers=["q_proj"]):
        loss = model(**batch).loss
        loss.backward()

Recorded for each layer, from its first call with gradients enabled:

    x, y           the input and the output
    W, b, A, B     the weights at that call
    mask           the dropout mask: the generator is reset, and dropout is applied to ones with the same random numbers
    dy             the gradient that reaches y
    dx             this layer's share of the gradient of x. Other layers may use x too, so the base layer and the LoRA
                   path each get an alias of x, and the gradients of the two aliases come from this layer alone
    dA, dB         the gradients that this backward adds to A.grad and B.grad

Recording does not change a bit of the step. An alias is the same memory and has one user, so autograd adds gradients in
the same order as without it. The sum of the two shares of dx is computed here, away from x.grad.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...support.extras import require
from ..definition import scale

_PRECISION = ("float64", "float32", "float16", "bfloat16")  # finest first


@contextmanager
def capture(model: Any, folder: str | Path, layers: Iterable[str] | None = None) -> Iterator[Path]:
    """Record one step of a PEFT model's LoRA layers. When the block ends without an exception, write
    folder/<layer>.safetensors for each layer.

    layers: names of modules, or the ends of names ("q_proj", "layers.0.mlp.up_proj"); every LoRA layer by default. The
    recorded tensors stay in main memory until the block ends: a copy of x, y, dx, dy and W for each layer. A layer
    that had no backward in the block is written without its gradients.

    Raises ValueError, before anything runs, if a chosen layer is not plain LoRA on a linear layer (DoRA and other
    variants, merged, disabled or several adapters, a quantised base), if a name matches no layer, or if the folder
    already holds dumps. Raises RuntimeError, after the block, if none of the layers ran, or if the dropout mask could
    not be reproduced.
    """
    torch = require("torch", "torch", "capture")
    save_file = require("safetensors.torch", "torch", "capture").save_file
    folder = Path(folder)
    chosen = _choose(model, layers)
    if folder.is_dir() and any(folder.glob("*.safetensors")):
        raise ValueError(f"{folder} already holds dumps: name another folder, or empty it")
    recorders = [_Recorder(torch, name, layer) for name, layer in chosen]
    try:
        yield folder
    finally:
        for recorder in recorders:
            recorder.stop()
    if problem := next((recorder.problem for recorder in recorders if recorder.problem), ""):
        raise RuntimeError(problem)
    recorded = [recorder for recorder in recorders if "y" in recorder.tensors]
    if not recorded:
        raise RuntimeError(f"none of the {len(recorders)} LoRA layers ran inside capture with gradients enabled")
    folder.mkdir(parents=True, exist_ok=True)
    for recorder in recorded:
        save_file(recorder.contents(), folder / f"{recorder.name}.safetensors", recorder.metadata())


def _choose(model: Any, layers: Iterable[str] | None) -> list[tuple[str, Any]]:
    """The chosen LoRA layers. Raises ValueError for a layer that cannot be captured."""
    kind = require("peft.tuners.lora", "torch", "capture").LoraLayer
    lora_layers = {name: module for name, module in model.named_modules() if isinstance(module, kind)}
    if not lora_layers:
        raise ValueError("the model has no LoRA layers")
    endings = list(lora_layers) if layers is None else [layers] if isinstance(layers, str) else list(layers)
    for ending in endings:
        if not any(_matches(name, ending) for name in lora_layers):
            example = next(iter(lora_layers))
            raise ValueError(
                f"layers names {ending!r}, but no LoRA layer has a name with that ending (one is {example})"
            )
    chosen = [(name, layer) for name, layer in lora_layers.items() if any(_matches(name, e) for e in endings)]
    for name, layer in chosen:
        if problem := _obstacle(layer) or _sharing(layer, lora_layers.values()):
            raise ValueError(f"{name} {problem}: capture records plain LoRA on linear layers; pass layers= to choose")
    return chosen


def _sharing(layer: Any, layers: Iterable[Any]) -> str:
    """An obstacle if another layer uses the same A or B, or nothing: their gradients are sums over both layers."""
    mine = {id(p) for factors in (layer.lora_A, layer.lora_B) for p in factors.parameters()}
    others = (p for other in layers if other is not layer for f in (other.lora_A, other.lora_B) for p in f.parameters())
    return "shares A or B with another layer" if any(id(p) in mine for p in others) else ""


def _matches(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f".{ending}")


def _obstacle(layer: Any) -> str:
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


class _Recorder:
    """Hooks on one layer. They record tensors on the CPU, under the contract's names."""

    def __init__(self, torch: Any, name: str, layer: Any) -> None:
        self.name = name
        self.tensors: dict[str, Any] = {}
        self._torch = torch
        self._layer = layer
        self._adapter = next(adapter for adapter in layer.active_adapters if adapter in layer.lora_A)
        self._recording = False
        self._dx: list[Any] = []  # the gradients of the two aliases of x
        self._shared = False
        self.problem = ""
        dropout = layer.lora_dropout[self._adapter]
        self._hooks = [
            layer.register_forward_pre_hook(self._before_layer, with_kwargs=True),
            layer.get_base_layer().register_forward_pre_hook(self._before_base),
            dropout.register_forward_pre_hook(self._before_dropout),
            dropout.register_forward_hook(self._after_dropout),
            layer.register_forward_hook(self._after_layer),
        ]

    def stop(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def _keep(self, name: str) -> Callable[[Any], None]:
        """A hook that records the first gradient to arrive."""

        def hook(gradient: Any) -> None:
            self.tensors.setdefault(name, _copy(gradient))

        return hook

    def _before_layer(self, layer: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        """Start recording if this is the first call with gradients enabled. A call from within a backward is a
        recomputation, not a second use."""
        plain = self._torch.is_grad_enabled() and not _obstacle(layer) and keywords.get("adapter_names") is None
        again = "y" in self.tensors
        self._shared |= plain and again and "dy" not in self.tensors and not _in_backward(self._torch)
        self._recording = plain and not again
        if not self._recording:
            return
        A, B = (factors[self._adapter].weight for factors in (layer.lora_A, layer.lora_B))
        base = layer.get_base_layer()
        weight = base.weight.T if layer.fan_in_fan_out else base.weight
        self.tensors |= {"W": _copy(weight), "A": _copy(A), "B": _copy(B)}
        if base.bias is not None:
            self.tensors["b"] = _copy(base.bias)
        for name, parameter in (("dA", A), ("dB", B)):
            if parameter.requires_grad:
                self._hooks.append(parameter.register_hook(self._keep(name)))

    def _alias(self, x: Any) -> Any:
        """The same numbers for one user: the gradient of the alias is that user's share of dx."""
        if not x.requires_grad:
            return x
        alias = x.view_as(x)
        alias.register_hook(lambda gradient: self._dx.append(_copy(gradient)))
        return alias

    def _before_base(self, base: Any, arguments: tuple[Any, ...]) -> Any:
        if not self._recording:
            return None
        self.tensors["x"] = _copy(arguments[0])
        return (self._alias(arguments[0]), *arguments[1:])

    def _before_dropout(self, dropout: Any, arguments: tuple[Any, ...]) -> Any:
        if not self._recording:
            return None
        self._state_before = _generator_state(self._torch, arguments[0])
        return (self._alias(arguments[0]),)

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

    def _after_layer(self, layer: Any, arguments: tuple[Any, ...], y: Any) -> None:
        if not self._recording:
            return
        self._recording = False
        self.tensors["y"] = _copy(y)
        if y.requires_grad:
            y.register_hook(self._keep("dy"))

    def contents(self) -> dict[str, Any]:
        """The tensors to write. dx is the sum of its two shares. dA and dB are dropped if another call adds to them."""
        tensors = dict(self.tensors)
        if len(self._dx) >= 2:
            tensors["dx"] = self._dx[0] + self._dx[1]
        dropped = ("dA", "dB") if self._shared else ()
        return {name: tensor.contiguous() for name, tensor in tensors.items() if name not in dropped}

    def metadata(self) -> dict[str, str]:
        """The metadata of a case. dtype is the coarsest among the tensors; note is shown with the verdict."""
        layer, adapter = self._layer, self._adapter
        r, alpha, use_rslora = layer.r[adapter], layer.lora_alpha[adapter], bool(layer.use_rslora[adapter])
        config = {"r": r, "alpha": alpha, "use_rslora": use_rslora}
        dtypes = {str(self.tensors[name].dtype).removeprefix("torch.") for name in ("x", "W", "A", "B", "y")}
        notes = []
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
