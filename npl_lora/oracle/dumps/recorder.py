"""Hooks on one LoRA layer of a model, which record what a step does there."""

import json
from collections.abc import Callable, Collection
from typing import Any

from .layers import LoraLayer

_PRECISION = ("float64", "float32", "float16", "bfloat16")  # finest first
GONE_AROUND = "got gradients without being called, as where a fused kernel reads the weights"


class Recorder:
    """Hooks on one layer. They record tensors on the CPU, under the contract's names.

    problem: why a call could not be recorded as lora_linear, or "".
    """

    def __init__(self, torch: Any, layer: LoraLayer) -> None:
        self.name = layer.name
        self.tensors: dict[str, Any] = {}
        self.problem = ""
        self._torch = torch
        self._layer = layer
        self._uses: Any = None  # while a call is recorded
        self._dx: dict[str, Any] = {}  # the gradients of the aliases of x
        self._around: dict[str, Any] = {}  # what its parameters show if nobody calls it
        self._zero: set[str] = set()  # gradients that are zero because nothing computes them
        self._dtypes: set[str] = set()  # of autocast in the call
        self._shared = False
        self._has_graph = True  # whether y has one
        self._hooks = [
            layer.module.register_forward_pre_hook(self._before, with_kwargs=True),
            layer.module.register_forward_hook(self._after, with_kwargs=True, always_call=True),
        ]
        for name, (parameter, transposed) in layer.factors().items():
            if parameter.requires_grad:
                self._hooks.append(parameter.register_hook(_keep(self._around, f"d{name}", transposed)))
                self._hooks.append(parameter.register_hook(_keep(self._around, name, transposed, parameter)))

    @property
    def was_called(self) -> bool:
        return "y" in self.tensors

    @property
    def was_gone_around(self) -> bool:
        """Whether it got gradients without being called."""
        return not self.was_called and not self.problem and bool(self._around)

    def stop(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def _before(self, module: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """Start recording if this is the first call with gradients enabled. A call from within a backward is a
        recomputation, not a second use."""
        torch = self._torch
        plain = torch.is_grad_enabled() and not self._layer.obstacle() and keywords.get("adapter_names") is None
        again = "y" in self.tensors
        self._shared |= plain and again and "dy" not in self.tensors and not _in_backward(torch)
        if not plain or again or self.problem:
            return None
        if len(arguments) + len(keywords) > 1 and not self._layer.takes_more:
            self.problem = "it was called with more than x"
            return None
        tensors = [value for value in (*arguments, *keywords.values()) if torch.is_tensor(value)]
        if not tensors:
            self.problem = "it was called without a tensor"
            return None
        from .uses import Uses

        x = tensors[0]
        self._record_inputs(x)
        self._uses = Uses(x, self._watch_alias)
        exchanged = tuple(self._uses.x if value is x else value for value in arguments)
        named = {name: self._uses.x if value is x else value for name, value in keywords.items()}
        self._uses.__enter__()
        return exchanged, named

    def _watch_alias(self, alias: Any, number: int) -> None:
        alias.register_hook(self._keep_gradient(self._dx, str(number), of="x"))

    def _record_inputs(self, x: Any) -> None:
        factors = self._layer.factors()
        tensors = {**self._layer.base(), **{name: _turned(*factor) for name, factor in factors.items()}, "x": x}
        self.tensors = {name: _copy(tensor) for name, tensor in tensors.items()}
        for name, (parameter, transposed) in factors.items():
            if parameter.requires_grad:
                keep = self._keep_gradient(self.tensors, f"d{name}", of=name, transposed=transposed)
                self._hooks.append(parameter.register_hook(keep))

    def _keep_gradient(
        self, tensors: dict[str, Any], name: str, of: str, transposed: bool = False
    ) -> Callable[[Any], None]:
        """A hook for a gradient. A backward that was asked for it and brings None has computed none: it is zero."""
        keep = _keep(tensors, name, transposed)

        def hook(gradient: Any) -> None:
            if gradient is None:
                self._zero.add(f"d{of}")
            else:
                keep(gradient)

        return hook

    def _after(self, module: Any, arguments: tuple[Any, ...], keywords: dict[str, Any], y: Any) -> None:
        if self._uses is None:
            return
        uses, self._uses = self._uses, None
        uses.finish()
        uses.__exit__(None, None, None)
        y = y[0] if isinstance(y, tuple) and y else y
        if keywords.get("adapter_names") is not None:  # PEFT adds it by a hook of its own, after ours
            self.tensors, self._dx, self._shared = {}, {}, True
        elif uses.problem:
            self.tensors, self.problem = {}, uses.problem
        elif self._torch.is_tensor(y):  # not where forward raised
            self._record_output(uses, y)

    def _record_output(self, uses: Any, y: Any) -> None:
        if uses.mask is not None:
            self.tensors["mask"] = _copy(uses.mask)
        self.tensors["y"] = _copy(y)
        self._dtypes = uses.autocast
        self._has_graph = y.requires_grad
        if not y.requires_grad:
            return
        y.register_hook(_keep(self.tensors, "dy"))
        aliases = [alias.grad_fn for alias in uses.aliases]
        reached = _reached(y, until=aliases)
        for name, (parameter, _) in self._layer.factors().items():
            if parameter.requires_grad and parameter.is_leaf and id(parameter) not in reached:
                self._zero.add(f"d{name}")
        if aliases and not any(id(node) in reached for node in aliases):
            self._zero.add("dx")

    def contents(self) -> dict[str, Any]:
        """The tensors to write. dA and dB are dropped if another call adds to them.

        dx is the sum of its shares. A backward that asks for x at all asks for all of them: a share that never came is
        zero, as where one of the paths is detached from x. So is the gradient of what y does not depend on.
        """
        if self.was_gone_around:
            factors = {name: _copy(_turned(*factor)) for name, factor in self._layer.factors().items()}
            return {name: tensor.contiguous() for name, tensor in {**factors, **self._around}.items()}
        tensors = dict(self.tensors)
        if self._dx:
            tensors["dx"] = sum(self._dx.values())
        if "dy" in tensors:
            zeros = {name: self._torch.zeros_like(tensors[name[1:]]) for name in self._zero}
            tensors = {**zeros, **tensors}
        dropped = ("dA", "dB") if self._shared else ()
        return {name: tensor.contiguous() for name, tensor in tensors.items() if name not in dropped}

    def metadata(self, autocast: Collection[str] = ()) -> dict[str, str]:
        """The metadata of a case. dtype is the coarsest among the tensors; note is shown with the verdict.

        autocast: the dtypes that autocast had while the block ran.
        """
        tensors = {"W": self._layer.base()["W"], **self.contents()}
        inputs = [tensors[name] for name in ("x", "W", "A", "B", "y") if name in tensors]
        dtypes = {str(tensor.dtype).removeprefix("torch.") for tensor in inputs} | self._dtypes
        dtypes |= set(autocast) if self.was_gone_around else set()  # nobody knows what the kernel computed in
        notes = [GONE_AROUND] if self.was_gone_around else []
        notes += [f"d{name} never came, although {name} is trained" for name in self._without_a_gradient()]
        if not self._has_graph and self._trained():
            notes.append(f"y has no graph, so no gradient can reach {' and '.join(self._trained())}")
        if self._shared:
            notes.append(
                "the layer ran more than once before its backward: dA and dB are sums over its calls and are left out"
            )
        notes.append(self._layer.note())
        return {
            "protocol": "1",
            "contract": "lora_linear",
            "id": self.name,
            "dtype": max(dtypes, key=_PRECISION.index),
            "config": json.dumps(self._layer.config()),
            "note": "; ".join(filter(None, notes)),
        }

    def _without_a_gradient(self) -> list[str]:
        """Those of A and B that ask for a gradient and got none from this layer's backward."""
        return [name for name in self._trained() if "dy" in self.tensors and f"d{name}" not in self.tensors]

    def _trained(self) -> list[str]:
        return [name for name, (factor, _) in self._layer.factors().items() if factor.requires_grad]


def _keep(tensors: dict[str, Any], name: str, transposed: bool = False, other: Any = None) -> Callable[[Any], None]:
    """A hook that records the first gradient to arrive, or what another tensor is at that moment."""

    def hook(gradient: Any) -> None:
        if name not in tensors and gradient is not None:
            tensors[name] = _copy(_turned(gradient if other is None else other, transposed))

    return hook


def _turned(tensor: Any, transposed: bool) -> Any:
    return tensor.T if transposed else tensor


def _copy(tensor: Any) -> Any:
    return tensor.detach().to("cpu", copy=True)


def _in_backward(torch: Any) -> bool:
    """Whether autograd is running. Checkpointing then calls the layer again to recompute its first call."""
    return torch._C._current_graph_task_id() != -1


def _reached(y: Any, until: list[Any]) -> dict[int, Any]:
    """The nodes of y's graph and its leaves by their ids, which stay theirs as long as somebody holds them."""
    found: dict[int, Any] = {}
    waiting = [y.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or id(node) in found:
            continue
        found[id(node)] = node
        leaf = getattr(node, "variable", None)
        found[id(leaf)] = leaf
        waiting += [] if any(node is one for one in until) else [after for after, _ in node.next_functions]
    return found
