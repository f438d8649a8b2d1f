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

A layer may be trained without being called: a fused kernel reads its weights. Of such a layer A, B, dA and dB are
recorded, and a warning names it. A layer that was not called with gradients enabled is named as well.

Recording does not change a bit of the step. An alias is the same memory and has one user, so autograd adds gradients in
the same order as without it. The sum of the two shares of dx is computed here, away from x.grad.
"""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ...support.extras import require
from .recorder import GONE_AROUND, Recorder, obstacle


@contextmanager
def capture(model: Any, folder: str | Path, layers: Iterable[str] | None = None) -> Iterator[Path]:
    """Record one step of a PEFT model's LoRA layers. When the block ends without an exception, write
    folder/<layer>.safetensors for each layer.

    layers: names of modules, or the ends of names ("q_proj", "layers.0.mlp.up_proj"); every LoRA layer by default. The
    recorded tensors stay in main memory until the block ends: a copy of x, y, dx, dy and W for each layer. A layer
    that had no backward in the block is written without its gradients. Warns of each layer that was not called: it
    can't be judged, or only by the identity that holds between dA and dB.

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
    recorders = [Recorder(torch, name, layer) for name, layer in chosen]
    autocast: set[str] = set()
    watch = torch.nn.modules.module.register_module_forward_pre_hook(partial(_see_autocast, torch, autocast))
    try:
        yield folder
    finally:
        watch.remove()
        for recorder in recorders:
            recorder.stop()
    if problem := next((recorder.problem for recorder in recorders if recorder.problem), ""):
        raise RuntimeError(problem)
    recorded = [recorder for recorder in recorders if recorder.was_called or recorder.was_gone_around]
    if not recorded:
        raise RuntimeError(f"none of the {len(recorders)} LoRA layers ran inside capture with gradients enabled")
    folder.mkdir(parents=True, exist_ok=True)
    for recorder in recorded:
        save_file(recorder.contents(), folder / f"{recorder.name}.safetensors", recorder.metadata(autocast))
    _warn([recorder for recorder in recorders if not recorder.was_called])


def _see_autocast(torch: Any, seen: set[str], module: Any, arguments: tuple[Any, ...]) -> None:
    """Add the dtype that autocast has at a module's call, if it is on."""
    for device in ("cpu", "cuda"):
        if torch.is_autocast_enabled(device):
            seen.add(str(torch.get_autocast_dtype(device)).removeprefix("torch."))


def _warn(recorders: list[Recorder]) -> None:
    """Name the layers that were not called."""
    for around, why in (
        (True, f"{GONE_AROUND}, so their y and dx are not judged"),
        (False, "were not called with gradients enabled, so they are not judged"),
    ):
        if names := [recorder.name for recorder in recorders if recorder.was_gone_around is around]:
            warnings.warn(f"LoRA layers that {why}: {', '.join(names)}", stacklevel=4)


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
        if problem := obstacle(layer) or _sharing(layer, lora_layers.values()):
            raise ValueError(f"{name} {problem}: capture records plain LoRA on linear layers; pass layers= to choose")
    return chosen


def _sharing(layer: Any, layers: Iterable[Any]) -> str:
    """An obstacle if another layer uses the same A or B, or nothing: their gradients are sums over both layers."""
    mine = {id(p) for factors in (layer.lora_A, layer.lora_B) for p in factors.parameters()}
    others = (p for other in layers if other is not layer for f in (other.lora_A, other.lora_B) for p in f.parameters())
    return "shares A or B with another layer" if any(id(p) in mine for p in others) else ""


def _matches(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f".{ending}")
