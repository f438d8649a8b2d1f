"""What capture records of a LoRA layer, whoever wrote it: PEFT's, whose configuration is read, and any other, which the
rules of adoption read."""

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...support.extras import require
from ..adoption.words import OFF
from ..definition import scale

_LORA = "peft.tuners.lora"


@dataclass(frozen=True)
class Unread:
    """A layer that looks like LoRA and can't be judged. why: the rest of "was not judged, because ..."."""

    name: str
    why: str


@dataclass(frozen=True)
class PeftLayer:
    """PEFT's. name: in the model. module: what is called. takes_more: whether a call with more than x is still this
    layer."""

    name: str
    module: Any
    takes_more: bool = True

    @property
    def _adapter(self) -> str:
        return next(adapter for adapter in self.module.active_adapters if adapter in self.module.lora_A)

    def obstacle(self) -> str:
        """Why the layer does not compute x W^T + b + s (x~ A^T) B^T at present, or nothing."""
        layer, linear = self.module, require("torch.nn", "torch", "capture").Linear
        if not isinstance(layer, require(_LORA, "torch", "capture").Linear):
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

    def base(self) -> dict[str, Any]:
        """W (out, in), and b if there is one."""
        base = self.module.get_base_layer()
        weight = base.weight.T if self.module.fan_in_fan_out else base.weight
        return {"W": weight} if base.bias is None else {"W": weight, "b": base.bias}

    def factors(self) -> dict[str, tuple[Any, bool]]:
        """A and B as the layer stores them, and whether that is transposed."""
        both = {"A": self.module.lora_A, "B": self.module.lora_B}
        return {name: (factor[self._adapter].weight, False) for name, factor in both.items()}

    def config(self) -> dict[str, Any]:
        """r, alpha, use_rslora."""
        layer, adapter = self.module, self._adapter
        use_rslora = bool(layer.use_rslora[adapter])
        return {"r": layer.r[adapter], "alpha": layer.lora_alpha[adapter], "use_rslora": use_rslora}

    def note(self) -> str:
        """What is worth knowing of its scale."""
        s, right = self.module.scaling[self._adapter], scale(self.config())
        return "" if math.isclose(s, right) else f"the layer multiplies by {s:g}, but r and alpha give {right:g}"


@dataclass(frozen=True)
class AdoptedLayer:
    """Somebody's own, read by probing; the methods are those of PeftLayer. standing: where its tensors are. s, says:
    its scale, and a sentence on it."""

    name: str
    module: Any
    standing: Any
    s: float
    says: str
    takes_more: bool = False

    def obstacle(self) -> str:
        for flag, off in OFF.items():
            if getattr(self.module, flag, None) is off:
                return f"has {flag} = {off}"
        return "" if self.s else "multiplies B A by 0"

    def base(self) -> dict[str, Any]:
        roles, sizes = self.standing.roles, self.standing.sizes
        if roles.W is None:  # the low-rank path alone
            A = self._held(roles.A.path)
            return {"W": A.new_zeros(()).expand(sizes.out, sizes.in_)}
        W = self._held(roles.W.path)
        base = {"W": W.T if roles.W.transposed else W}
        return {**base, "b": self._held(roles.biases[0])} if roles.biases else base

    def factors(self) -> dict[str, tuple[Any, bool]]:
        both = {"A": self.standing.roles.A, "B": self.standing.roles.B}
        return {name: (self._held(held.path), held.transposed) for name, held in both.items()}

    def config(self) -> dict[str, Any]:
        r = self.standing.sizes.rank
        return {"r": r, "alpha": self.s * r, "use_rslora": False}

    def note(self) -> str:
        path_alone = "" if self.standing.roles.W is not None else "the low-rank path alone: W is zero here; "
        return f"{path_alone}{self.says}"

    def _held(self, path: str) -> Any:
        from ..adoption.torch_layers import held

        return held(self.module, path)


LoraLayer = PeftLayer | AdoptedLayer


def find_lora(torch: Any, model: Any) -> list[LoraLayer | Unread]:
    """Every LoRA layer of a model, and what looks like one and can't be read."""
    found: list[LoraLayer | Unread] = []
    for name, module in model.named_modules():
        if _is_peft(module):
            found.append(_unless_off(PeftLayer(name, module)))
    with _untouched(torch):
        from ..adoption.models import find_layers
        from ..adoption.standing_scale import scale_of

        for seen in find_layers(model, _is_peft):
            name = seen.name or type(seen.module).__name__
            if seen.standing is None:
                found.append(Unread(name, seen.why))
            else:
                scale_and_words = scale_of(seen.module, seen.standing)
                found.append(_unless_off(AdoptedLayer(name, seen.module, seen.standing, *scale_and_words)))
    return _without_sharing(found)


def _unless_off(layer: LoraLayer) -> LoraLayer | Unread:
    why = layer.obstacle()
    return Unread(layer.name, f"it {why}") if why else layer


def _is_peft(module: Any) -> bool:
    """Whether this is a layer of PEFT's, by its bases: PEFT need not be there."""
    return any(base.__name__ == "LoraLayer" and base.__module__.startswith(_LORA) for base in type(module).__mro__)


@contextmanager
def _untouched(torch: Any) -> Iterator[None]:
    """Probing draws and computes: afterwards random numbers, threads and autocast are as they were."""
    threads, numpy_state, python_state = torch.get_num_threads(), np.random.get_state(), random.getstate()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices), torch.autocast("cpu", enabled=False):
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)
            torch.set_num_threads(threads)


def _without_sharing(found: list[LoraLayer | Unread]) -> list[LoraLayer | Unread]:
    """Where two layers have the same A or B, both are unread: their gradients are sums over both layers."""
    users: dict[int, int] = {}
    mine = {id(one): {id(t) for t, _ in one.factors().values()} for one in found if not isinstance(one, Unread)}
    for factors in mine.values():
        for factor in factors:
            users[factor] = users.get(factor, 0) + 1
    return [
        Unread(one.name, "it shares A or B with another layer")
        if any(users[factor] > 1 for factor in mine.get(id(one), ()))
        else one
        for one in found
    ]
