"""Records one step of a user's training run, for `npl-lora judge`: one dump for each LoRA layer of a torch model.

    with npl_lora.oracle.dumps.capture(model, "dumps", layers=["q_proj"]):
        loss = model(**batch).loss
        loss.backward()

PEFT's layers are known, and their configuration is read. Any other LoRA layer is found by the rules of adoption: its
tensors by names and shapes, its scale by probing a copy.

Recorded for each layer, from its first call with gradients enabled:

    x, y           the input and the output
    W, b, A, B     the weights at that call
    mask           the dropout mask: the generator is reset, and dropout is applied to ones with the same random numbers
    dy             the gradient that reaches y
    dx             this layer's share of the gradient of x. Other layers may use x too, so each use of x in this layer
                   gets an alias of x, and the gradients of the aliases come from this layer alone
    dA, dB         the gradients that this backward adds to A.grad and B.grad

A gradient that nothing computes is zero, as where a path is detached from x, or y does not depend on A in autograd's
graph.

A layer may be trained without being called: a fused kernel reads its weights. Of such a layer A, B, dA and dB are
recorded, and a warning names it. A warning also names each layer that is not judged, and says why: one that was not
called with gradients enabled, or that looks like LoRA and can't be read. `not_judged.json` keeps those sentences.

Recording does not change a bit of the step. An alias is the same memory and has one user, so autograd adds gradients in
the same order as without it. (A Function of the layer's own that uses x several times gets one alias for all.) The sum
of the shares of dx is computed here, away from x.grad.
"""

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ...support.extras import require
from .file import NOT_JUDGED
from .layers import LoraLayer, Unread, find_lora
from .recorder import GONE_AROUND, Recorder

_NOT_CALLED = "it was not called with gradients enabled"


@contextmanager
def capture(model: Any, folder: str | Path, layers: Iterable[str] | None = None) -> Iterator[Path]:
    """Record one step of a model's LoRA layers. When the block ends without an exception, write
    folder/<layer>.safetensors for each layer.

    layers: names of modules, or the ends of names ("q_proj", "layers.0.mlp.up_proj"); every LoRA layer by default. The
    recorded tensors stay in main memory until the block ends: a copy of x, y, dx, dy and W for each layer. A layer
    that had no backward in the block is written without its gradients. Warns of each layer that can't be judged, or
    only by the identity that holds between dA and dB.

    Raises ValueError, before anything runs, if a layer that `layers` names, or every layer, is not plain LoRA on a
    linear layer (DoRA and other variants, merged, disabled or several adapters, a quantised base), if a name matches no
    layer, or if the folder already holds dumps. Raises RuntimeError, after the block, if none of the layers ran.
    """
    torch = require("torch", "torch", "capture")
    save_file = require("safetensors.torch", "torch", "capture").save_file
    folder = Path(folder)
    chosen, unread = _choose(find_lora(torch, model), layers)
    if folder.is_dir() and any(folder.glob("*.safetensors")):
        raise ValueError(f"{folder} already holds dumps: name another folder, or empty it")
    recorders = [Recorder(torch, layer) for layer in chosen]
    autocast: set[str] = set()
    watch = torch.nn.modules.module.register_module_forward_pre_hook(partial(_see_autocast, autocast))
    try:
        yield folder
    finally:
        watch.remove()
        for recorder in recorders:
            recorder.stop()
    recorded = [recorder for recorder in recorders if recorder.was_called or recorder.was_gone_around]
    lost = {recorder.name: recorder.problem or _NOT_CALLED for recorder in recorders if recorder not in recorded}
    if not recorded:
        for recorder in recorders:
            if recorder.problem:
                raise RuntimeError(f"{recorder.name} was not judged, because {recorder.problem}")
        raise RuntimeError(f"none of the {len(recorders)} LoRA layers ran inside capture with gradients enabled")
    folder.mkdir(parents=True, exist_ok=True)
    for recorder in recorded:
        save_file(recorder.contents(), folder / f"{recorder.name}.safetensors", recorder.metadata(autocast))
    not_judged = {**{layer.name: layer.why for layer in unread}, **lost}
    sentences = {name: f"{name} was not judged, because {why}" for name, why in not_judged.items()}
    (folder / NOT_JUDGED).unlink(missing_ok=True)  # of an earlier step
    if sentences:
        (folder / NOT_JUDGED).write_text(json.dumps(sentences, indent=1) + "\n", encoding="utf-8")
    _warn([recorder.name for recorder in recorded if recorder.was_gone_around], not_judged)


def _see_autocast(seen: set[str], module: Any, arguments: tuple[Any, ...]) -> None:
    """Add the dtype that autocast has at a module's call, if it is on."""
    from .uses import autocast_dtypes

    seen |= autocast_dtypes("cpu", "cuda")


def _warn(around: list[str], not_judged: Mapping[str, str]) -> None:
    """Name the layers that were not called, and those that are not judged for another reason."""
    by_reason: dict[str, list[str]] = {}
    for name, why in not_judged.items():
        by_reason.setdefault(why, []).append(name)
    if around:
        said = f"LoRA layers that {GONE_AROUND}, so their y and dx are not judged: {', '.join(around)}"
        warnings.warn(said, stacklevel=4)
    for why, names in by_reason.items():
        if why == _NOT_CALLED:
            said = (
                f"LoRA layers that were not called with gradients enabled, so they are not judged: {', '.join(names)}"
            )
        elif len(names) == 1:
            said = f"{names[0]} was not judged, because {why}"
        else:
            said = f"{len(names)} layers were not judged, each because {why}: {', '.join(names)}"
        warnings.warn(said, stacklevel=4)


def _choose(found: list[LoraLayer | Unread], layers: Iterable[str] | None) -> tuple[list[LoraLayer], list[Unread]]:
    """The chosen LoRA layers: those that are captured, and those that can't be. Raises ValueError."""
    if not found:
        raise ValueError("the model has no LoRA layers")
    endings = None if layers is None else [layers] if isinstance(layers, str) else list(layers)
    for ending in endings or ():
        if not any(_matches(layer.name, ending) for layer in found):
            raise ValueError(
                f"layers names {ending!r}, but no LoRA layer has a name with that ending (one is {found[0].name})"
            )
    chosen = [one for one in found if endings is None or any(_matches(one.name, ending) for ending in endings)]
    unread = [one for one in chosen if isinstance(one, Unread)]
    read = [one for one in chosen if not isinstance(one, Unread)]
    if unread and (endings is not None or not read):
        raise ValueError(
            f"{unread[0].name} can't be judged, because {unread[0].why}: capture records plain LoRA on linear layers"
        )
    return read, unread


def _matches(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f".{ending}")
