"""What holds of every LoRA layer besides its numbers, each by its own sentence: where it starts, what is trained and
saved, and what a call leaves as it was."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..one_line import describe
from .framework import Pass
from .fused_groups import groups_kept
from .initial import describe_start, left_to_the_caller
from .kinds import CONV2D, EMBEDDING
from .layer import Layer
from .merging import find_merging, hidden_methods, merging_facts
from .wanted import PROBE, Wanted

_START = 1e-4  # relative; a fresh layer computes in float32
_COUNTED = (512, 512, 4)  # in, out, r
_COUNTED_FUSED = (512, 1536, 4)
_WITHOUT_A_CALL = ("parameters", "saved", "base-without-bias")


@dataclass(frozen=True)
class Fact:
    """name: of what is asked. wrong: a sentence if it does not hold, else ""."""

    name: str
    wrong: str = ""


Asked = Callable[[Layer], Iterator[str]]  # yields what is wrong, in sentences


def facts(layer: Layer, more: Mapping[str, Asked]) -> list[Fact]:
    """Every fact that can be asked of a layer. more: those of its framework, by name."""
    asked: dict[str, Asked] = {
        "start": _start,
        "parameters": _parameters,
        "saved": _saved,
        "base-without-bias": _base_without_bias,
        "calls": _calls,
        "step": _step,
        "evaluation": _evaluation,
        "changed-in-place": _changed_in_place,
    }
    asked["merging"] = _merging
    if layer.constructor.squares_alone:
        asked = {"sizes": _sizes, **asked}
    if layer.kind.groups:
        asked["groups"] = groups_kept
    asked = {**asked, **more}
    if (called := Fact("call", _first_wrong("call", _call, layer))).wrong:  # the rest would say the same
        asked = {name: one for name, one in asked.items() if name in _WITHOUT_A_CALL}
        return [called, *(Fact(name, _first_wrong(name, one, layer)) for name, one in asked.items())]
    return [Fact(name, _first_wrong(name, one, layer)) for name, one in asked.items()]


def statements(layer: Layer) -> list[str]:
    """What is worth knowing and no fault."""
    said = [_trained(layer), _trained_biases(layer)]
    there = layer.framework.tensors(layer.fresh())
    fixed = [name for name, path in _factors(layer) if not there[path].trained and there[path].kind != "plain"]
    if len(fixed) == 1:
        said.append(f"{fixed[0]} is not trained, as in LoRA-FA.")
    if _left_to_the_caller(layer):
        said.append(f"W is trained, and A and B are not ({layer.framework.frozen}): the caller must change both.")
    if layer.fixed_rank is not None:
        said.append(f"Its rank is always {layer.fixed_rank}.")
    if layer.path_alone:
        said.append("The class is the low-rank path alone: the check adds a linear layer to it.")
    if getattr(layer.framework, "of_images_alone", False):
        said.append("It takes x of four axes alone, and is asked so.")
    if layer.constructor.exchanged:
        said.append("Its input and output sizes are exchanged: the first is the number of rows of W.")
    if not layer.constructor.has("A"):
        said.append(describe_start(layer))
    if starts_as_handed(layer):
        said.append("W is changed so that the start is the base that was handed over, as PiSSA does.")
    if layer.own_dropout:
        said.append("Its dropout has a probability of its own: no parameter sets it.")
    if layer.dropout_place not in ("", "x", "elsewhere"):
        said.append(f"Dropout acts {layer.dropout_place}, where PEFT has it on x.")
    return [sentence for sentence in said if sentence]


def _first_wrong(name: str, fact: Asked, layer: Layer) -> str:
    try:
        return next(fact(layer), "")
    except Exception as error:  # a stranger's code may raise anything
        return f"{name}: {describe(error).rstrip('.')}"


def _probe(layer: Layer, **changes: Any) -> Wanted:
    return layer.probe.but(bias=not layer.takes_no_bias, **changes)


def _input(layer: Layer) -> np.ndarray:
    rng, in_ = np.random.default_rng(0), layer.probe.in_
    if layer.kind is EMBEDDING:
        return rng.integers(in_, size=(1, 5))
    shape = (1, in_, 4, 3) if layer.kind is CONV2D else (1, 5, in_)
    return rng.normal(size=shape).astype(np.float32)


def _call(layer: Layer) -> Iterator[str]:
    """The layer can be called at all, as a sequence model calls it."""
    x = _input(layer)
    try:
        layer.framework.value(layer.fresh(), x)
    except Exception as error:  # a stranger's forward may raise anything
        yield f"called with x of shape {x.shape} it raised {describe(error)}"


def _sizes(layer: Layer) -> Iterator[str]:
    """A weight need not be square."""
    wanted = PROBE.but(kind=layer.kind.name, bias=not layer.takes_no_bias)
    layer.constructor.squares_alone = False  # which refuses other sizes
    raised = layer.raises(wanted)
    layer.constructor.squares_alone = True
    yield f"it works for a square W alone: with in = {wanted.in_} and out = {wanted.out} a call raises {raised}"


def _start(layer: Layer) -> Iterator[str]:
    """A fresh layer is its base, and one factor alone is zero."""
    constructor = layer.constructor
    if constructor.has("A") or constructor.hands_parts or left_to_the_caller(layer):
        return  # the factors, or their numbers, come from the caller
    fresh, framework = layer.fresh(), layer.framework
    A, B = framework.read(fresh, layer.roles.A.path), framework.read(fresh, layer.roles.B.path)
    if not A.any() and not B.any():
        yield "A and B are both zero at the start, so both gradients are zero: nothing is ever learned"
    if A.any() and B.any():
        if not starts_as_handed(layer):
            yield "neither A nor B is zero at the start, so a fresh layer is not its base"
        return
    if A.any() and A.min() >= 0.0:
        yield "A has no negative number at the start"
    if not np.isfinite(A).all() or not np.isfinite(B).all():
        yield "A or B is not finite at the start"
    x = _input(layer)
    base = _base_value(layer, fresh, x)
    if not np.allclose(framework.value(fresh, x), base, rtol=_START, atol=_START * float(np.max(np.abs(base)))):
        yield "a fresh layer is not its base: y differs from x W^T + b"


def starts_as_handed(layer: Layer) -> bool:
    """Whether A and B are both there at the start, and W was changed so that W + s B A is the base that was handed in,
    as PiSSA does."""
    of_handed = getattr(layer.framework, "value_of_handed", None)
    if of_handed is None or not layer.constructor.has("base") or layer.path_alone:
        return False
    fresh = layer.fresh()
    if not all(layer.framework.read(fresh, path).any() for _, path in _factors(layer)):
        return False
    try:
        y, right = layer.framework.value(fresh, _input(layer)), of_handed(_input(layer))
    except Exception:  # a stranger's forward may raise anything, which is said elsewhere
        return False
    return bool(np.allclose(y, right, rtol=_START, atol=_START * float(np.max(np.abs(right)))))


def _base_value(layer: Layer, built: Any, x: np.ndarray) -> np.ndarray:
    """y of the base alone, from its weight and bias."""
    framework, W = layer.framework, layer.roles.W
    assert W is not None
    weight = framework.read(built, W.path)
    weight = weight.T if W.transposed else weight
    y = {"embedding": lambda: weight[x], "conv2d": lambda: _pointwise(x, weight)}.get(
        layer.kind.name, lambda: x @ weight.T
    )
    there = framework.tensors(built)
    biases = [framework.read(built, path) for path in layer.roles.biases[:1] if path in there]
    axes = (-1, 1, 1) if layer.kind is CONV2D else (-1,)
    return sum((b.reshape(axes) for b in biases), start=y())


def _pointwise(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """A convolution whose kernel is one by one, as the probe's is."""
    return np.einsum("nihw,oi->nohw", x, weight[:, :, 0, 0])


def _parameters(layer: Layer) -> Iterator[str]:
    """A and B are parameters: as constructed, in another dtype, on another device."""
    homes: dict[str, Mapping[str, str]] = {"": {}, **layer.framework.other_homes}
    for words, changes in homes.items():
        if changes and not layer.constructor.has("base", "weight", *changes):
            continue
        try:
            there = layer.framework.tensors(layer.build(_probe(layer, **changes)))
        except Exception:  # a constructor that refuses another home says so to who asks for it
            continue
        lost = [name for name, held in _factors(layer) if there[held].kind == "plain"]
        if lost:
            yield f"{_and(lost)} {_are(lost)} not parameters{words}: never trained and never saved"
        if all(there[path].kind == "buffer" for _, path in _factors(layer)):
            yield f"A and B are buffers, not parameters{words}: never trained"
        if not any(there[path].trained for _, path in _factors(layer)) and not _left_to_the_caller(layer):
            yield f"neither A nor B is trained: {layer.framework.frozen}"


def _left_to_the_caller(layer: Layer) -> bool:
    """Whether A and B are parameters that wait for training, while W is trained: nothing is frozen on purpose yet."""
    there = layer.framework.tensors(layer.fresh())
    waiting = all(there[path].kind == "parameter" and not there[path].trained for _, path in _factors(layer))
    return waiting and layer.roles.W is not None and there[layer.roles.W.path].trained


def _saved(layer: Layer) -> Iterator[str]:
    """A and B are saved with the layer."""
    saved = layer.framework.saved(layer.fresh())
    lost = [name for name, path in _factors(layer) if path not in saved]
    if lost:
        yield f"{_and(lost)} {_are(lost)} not in the state dict: never saved"


def _base_without_bias(layer: Layer) -> Iterator[str]:
    """A base layer without a bias is taken."""
    if not layer.takes_no_bias and layer.constructor.has("base", "weight"):
        yield f"a base layer without bias is refused: {layer.refusal}"
    if layer.takes_no_bias and layer.constructor.has("base", "weight"):
        fresh = layer.build(_probe(layer))
        there = layer.framework.tensors(fresh)
        if any(layer.framework.read(fresh, path).any() for path in layer.roles.biases if path in there):
            yield "a base layer without bias gets one here, and it is not zero"


def _calls(layer: Layer) -> Iterator[str]:
    """A call changes nothing: in training, in evaluation and in training again, W keeps its bits and its kind."""
    built, framework, W = layer.fresh(), layer.framework, layer.roles.W
    assert W is not None
    rng = np.random.default_rng(1)
    for _, path in _factors(layer):
        _write_normal(layer, built, path, rng)
    before, kind, x = framework.read(built, W.path), framework.tensors(built)[W.path].kind, _input(layer)
    first = framework.value(built, x)
    if framework.tensors(built).get(W.path) is None or framework.tensors(built)[W.path].kind != kind:
        yield "after a call in training W is no parameter any more"
    if not np.array_equal(framework.read(built, W.path), before):
        yield "a call in training changes W"
    framework.evaluate(built, x)
    again = framework.value(built, x)
    if not np.allclose(first, again, rtol=_START, atol=_START * float(np.max(np.abs(first)))):
        yield "after a call in evaluation, y in training is another one"


def _step(layer: Layer) -> Iterator[str]:
    """A step of training, a call included, changes A and B, and no frozen W."""
    built, framework, W = layer.fresh(), layer.framework, layer.roles.W
    assert W is not None
    rng, x = np.random.default_rng(2), _input(layer)
    for _, path in _factors(layer):
        _write_normal(layer, built, path, rng)
    paths = [path for _, path in _factors(layer)]
    if not any(framework.tensors(built)[path].trained for path in paths):
        return  # which is said of the parameters
    before = {path: framework.read(built, path) for path in (*paths, W.path)}
    frozen = not framework.tensors(built)[W.path].trained
    dy = rng.normal(size=framework.value(built, x).shape).astype(np.float32)
    framework.step(built, Pass(x, dy, {}))
    trained = [(name, path) for name, path in _factors(layer) if framework.tensors(built)[path].trained]
    still = [name for name, path in trained if np.array_equal(framework.read(built, path), before[path])]
    if still:
        yield f"a step of the optimiser does not change {_and(still)}"
    if frozen and not np.array_equal(framework.read(built, W.path), before[W.path]):
        yield "a step of training changes W, which is frozen"


def _evaluation(layer: Layer) -> Iterator[str]:
    """There is dropout in training, and none in evaluation."""
    if not layer.dropout_place:
        return
    built, without, framework, x = layer.fresh(dropout=0.5), layer.fresh(), layer.framework, _input(layer)
    rng = np.random.default_rng(3)
    for _, path in _factors(layer):
        _write_normal(layer, built, path, rng)
    _copy_numbers(layer, built, without)
    right = framework.value(without, x)
    if not np.allclose(framework.evaluate(built, x), right, rtol=1e-3, atol=1e-3 * float(np.max(np.abs(right)))):
        yield "dropout acts in evaluation too, or evaluation adds another low-rank path"
    if not layer.own_dropout and np.array_equal(framework.value(built, x, own_dropout=True), right):
        yield f"the parameter {layer.constructor.parameter('dropout')} has no effect in training"


def _changed_in_place(layer: Layer) -> Iterator[str]:
    """After A or B was changed, y is that of the new numbers. (torch has more ways to change them: torch_states.)"""
    framework, x, rng = layer.framework, _input(layer), np.random.default_rng(6)
    for name, path in _factors(layer):
        built, right = layer.fresh(), layer.fresh()
        for other in (layer.roles.A.path, layer.roles.B.path):
            _write_normal(layer, built, other, rng)
        framework.evaluate(built, x)
        framework.value(built, x)  # last, since a layer may have merged for the evaluation
        _write_normal(layer, built, path, rng)
        _copy_numbers(layer, built, right)
        y = framework.value(right, x)  # without dropout, so that of the evaluation too
        for mode, call in {"": framework.value, " in evaluation": framework.evaluate}.items():
            if not np.allclose(call(built, x), y, rtol=_START, atol=_START * float(np.max(np.abs(y)))):
                yield f"after {name} was changed, y{mode} is not that of the new {name}"


def _write_normal(layer: Layer, built: Any, path: str, rng: np.random.Generator) -> None:
    shape = layer.framework.tensors(built)[path].shape
    layer.framework.write(built, path, rng.normal(size=shape).astype(np.float32))


def _copy_numbers(layer: Layer, of: Any, to: Any) -> None:
    """Give one layer the numbers of another."""
    roles, framework = layer.roles, layer.framework
    paths = [roles.A.path, roles.B.path, roles.m, *roles.biases, *([] if roles.W is None else [roles.W.path])]
    for path in filter(framework.tensors(to).get, filter(None, paths)):
        framework.write(to, path, framework.read(of, path).astype(np.float32))


def _merging(layer: Layer) -> Iterator[str]:
    yield from hidden_methods(layer)
    if (merging := find_merging(layer)) is not None:
        yield from merging_facts(layer, merging)


def _trained(layer: Layer) -> str:
    in_, out, rank = _COUNTED_FUSED if layer.kind.groups else _COUNTED
    wanted = _probe(layer, in_=in_, out=out, rank=rank)
    tensors = layer.framework.tensors(layer.build(wanted))
    sizes = [(int(np.prod(t.shape)), t.trained) for t in tensors.values() if t.kind == "parameter"]
    trained, total = sum(n for n, one in sizes if one), sum(n for n, _ in sizes)
    where = f"at in = {in_}, out = {out}, r = {rank}"
    count, of = (sum(groups), len(groups)) if (groups := layer.kind.groups) else (1, 1)
    factors = count * rank * (in_ + out // of) + (out if layer.roles.m is not None else 0)
    names = "A and B" if layer.roles.m is None else "A, B and m"
    W_is_trained = layer.roles.W is not None and tensors[layer.roles.W.path].trained
    rest = ": freezing the rest is left to the caller" if W_is_trained else " of these"
    note = "" if trained <= factors else f" {names} are {factors:,}{rest}."
    return f"Trained: {trained:,} of {total:,} parameters {where}.{note}"


def _trained_biases(layer: Layer) -> str:
    """PEFT trains none unless its config says so."""
    if not layer.takes_bias or layer.roles.W is None:
        return ""
    there = layer.framework.tensors(layer.build(layer.probe.but(bias=True)))
    trained = [path for path in layer.roles.biases if path in there and there[path].trained]
    if not trained or there[layer.roles.W.path].trained:
        return ""
    return f"{_and(trained)} {_are(trained)} trained, and W is frozen; PEFT trains no bias by default."


def _factors(layer: Layer) -> list[tuple[str, str]]:
    return [("A", layer.roles.A.path), ("B", layer.roles.B.path)]


def _and(names: list[str]) -> str:
    return " and ".join(names)


def _are(names: list[str]) -> str:
    return "are" if len(names) > 1 else "is"
