"""Faults of dropout. lora_linear takes the mask as an argument; in lora_dropout the subject draws its own."""

from ...ops import Pullback
from ...ops.namespace import rows
from ..contracts import lora_dropout
from .fault import Fault
from .lora_path import dropped_x, unmasked_low_rank_dx
from .wraps import compose, with_arguments, with_gradients, with_question


def _dx_without_mask(dx, a):
    return dx if a.mask is None else a.dy @ a.W + unmasked_low_rank_dx(a)


def _dx_with_unscaled_mask(dx, a):
    """dx with a mask of 0 and 1 instead of 0 and 1 / (1 - p)."""
    if a.mask is None:
        return dx
    low = unmasked_low_rank_dx(a)
    return a.dy @ a.W + low.__array_namespace__().where(a.mask != 0, low, low * 0.0)


def _dx_with_mask_twice(dx, a):
    return dx if a.mask is None else a.dy @ a.W + a.mask * a.mask * unmasked_low_rank_dx(a)


def _gradients_without_mask(op):
    """dA and dB computed from x instead of x o mask."""

    def gradient(name):
        def change(grad, a):
            if a.mask is None:
                return grad
            plain = {**vars(a), "mask": None}
            dy = plain.pop("dy")
            plain.pop("right")
            return op(**plain)[1](dy, wrt=(name,))[name]

        return change

    return with_gradients(A=gradient("A"), B=gradient("B"))(op)


def _drop(place, wrap=None):
    """Answer lora_dropout with the masks that the answer shows for another place, where wrap drops instead."""

    def changed(answer):
        def wrong(arrays, config, d):
            if f"{place}_mask" not in arrays:  # the layer has no such place
                return answer(arrays, config, d)
            masks = {name: arrays[f"{place}_{name}"] for name in ("mask", "mask_again")}
            wraps = {} if wrap is None else {"lora_linear": wrap, "lora_embedding": wrap}
            return answer({**arrays, **masks}, config, d.wrapped(**wraps))

        return wrong

    return changed


def _mask_output(op):
    """Both paths run without a mask; the mask acts on their sum."""

    def wrong(*, mask=None, **inputs):
        y, pullback = op(**inputs)
        if mask is None:
            return y, pullback
        y = y * mask
        return y, Pullback(lambda dy, wrt: pullback(dy * mask, wrt=wrt), y, pullback.inputs, pullback.frozen)

    return wrong


def _mask_low_rank(op):
    """The mask acts on what the low-rank path adds."""

    def wrong(*, mask=None, **inputs):
        if mask is None:
            return op(**inputs)
        weight = "W" if "W" in inputs else "E"
        base, of_base = op(**{**inputs, "B": inputs["B"] * 0.0})
        low, of_low = op(**{**inputs, weight: inputs[weight] * 0.0})
        y = base + low * mask

        def gradients(dy, wrt):
            grads = of_low(dy * mask, wrt=wrt)
            return {**grads, "x": grads["x"] + of_base(dy, wrt=("x",))["x"]} if "x" in wrt else grads

        return y, Pullback(gradients, y, of_low.inputs, of_low.frozen)

    return wrong


def _mask_rank(op):
    """The mask acts on x A^T. (In an embedding, where that is right, nothing changes.)"""

    def wrong(*, mask=None, **inputs):
        if mask is None or "ids" in inputs:
            return op(**inputs, mask=mask)
        x, W, A, B, s = (inputs[name] for name in ("x", "W", "A", "B", "scale"))
        base, right = op(**{**inputs, "B": B * 0.0})
        h = (x @ A.T) * mask
        y = base + s * (h @ B.T)

        def gradients(dy, wrt):
            dh = (s * (dy @ B)) * mask
            grads = {"x": dy @ W + dh @ A, "A": rows(dh).T @ rows(x), "B": s * (rows(dy).T @ rows(h))}
            return {name: grads[name] for name in wrt}

        return y, Pullback(gradients, y, ("x", "A", "B"), right.frozen)

    return wrong


def _of_first_token(arrays, *names):
    """The first token's mask for all tokens."""

    def shared(mask):
        return mask.__array_namespace__().broadcast_to(mask[:1, :1], mask.shape)

    return {name: shared(arrays[name]) for name in names}


FAULTS = [
    Fault(
        "D1",
        says="dropout is not applied: training computes the same as evaluation",
        wrong="y = x W^T + s (x A^T) B^T",
        right="y = x W^T + s ((x o mask) A^T) B^T",
        hidden_when="p = 0",
        seen_in="meta-pytorch/torchtune#996; paiml/aprender#2170; AnswerDotAI/fsdp_qlora#68",
        parts={
            "lora_linear": with_arguments(mask=lambda a: None),
            "lora_embedding": with_arguments(mask=lambda a: None),
        },
    ),
    Fault(
        "D1",
        variant="embedding",
        says="dropout is not applied in an embedding: training computes the same as evaluation",
        wrong="y = E[ids] + s (A^T)[ids] B^T",
        right="y = E[ids] + s ((A^T)[ids] o mask) B^T",
        hidden_when="p = 0",
        seen_in="PEFT 0.21.2, whose Embedding builds lora_dropout and does not use it",
        parts={"lora_embedding": with_arguments(mask=lambda a: None)},
    ),
    Fault(
        "D1",
        variant="linear",
        says="dropout is not applied in a linear layer: training computes the same as evaluation",
        wrong="y = x W^T + s (x A^T) B^T",
        right="y = x W^T + s ((x o mask) A^T) B^T",
        hidden_when="p = 0",
        seen_in="meta-pytorch/torchtune#996; paiml/aprender#2170",
        parts={"lora_linear": with_arguments(mask=lambda a: None)},
    ),
    Fault(
        "D2",
        says="the dropout mask is missing from dx",
        wrong="dx = dy W + s (dy B) A",
        right="dx = dy W + mask o (s (dy B) A)",
        hidden_when="p = 0",
        seen_in="foundation-model-stack/fms-acceleration#97",
        parts={"lora_linear": with_gradients(x=_dx_without_mask)},
    ),
    Fault(
        "D2",
        variant="unscaled",
        says="dx has the dropout mask without its factor 1 / (1 - p)",
        wrong="dx = dy W + [mask != 0] o (s (dy B) A)",
        right="dx = dy W + mask o (s (dy B) A)",
        hidden_when="p = 0",
        seen_in="foundation-model-stack/fms-acceleration#97",
        parts={"lora_linear": with_gradients(x=_dx_with_unscaled_mask)},
    ),
    Fault(
        "D2",
        variant="twice",
        says="the dropout mask acts on dx twice",
        wrong="dx = dy W + mask o mask o (s (dy B) A)",
        right="dx = dy W + mask o (s (dy B) A)",
        hidden_when="p = 0",
        seen_in="hand-written backward passes",
        parts={"lora_linear": with_gradients(x=_dx_with_mask_twice)},
    ),
    Fault(
        "D3",
        says="dropout acts on the base path as well",
        wrong="y = (x o mask) W^T + s ((x o mask) A^T) B^T",
        right="y = x W^T + s ((x o mask) A^T) B^T",
        hidden_when="p = 0",
        seen_in="axolotl-ai-cloud/axolotl#3528",
        parts={
            "lora_linear": compose(
                with_arguments(x=dropped_x, mask=lambda a: None),
                with_gradients(x=lambda dx, a: dx if a.mask is None else dx * a.mask),
            )
        },
        answers={"lora_dropout": _drop("input")},
    ),
    Fault(
        "D3",
        variant="output",
        says="dropout acts on the sum of the base path and the low-rank path",
        wrong="y = (x W^T + s (x A^T) B^T) o mask",
        right="y = x W^T + s ((x o mask) A^T) B^T",
        hidden_when="p = 0",
        seen_in="axolotl-ai-cloud/axolotl#3528, in an embedding",
        answers={"lora_dropout": _drop("output", _mask_output)},
    ),
    Fault(
        "D7",
        says="dA and dB are computed from x, but the forward used x o mask",
        wrong="dA = s (dy B)^T x, dB = s dy^T (x A^T)",
        right="dA = s (dy B)^T (x o mask), dB = s dy^T ((x o mask) A^T)",
        hidden_when="p = 0",
        seen_in="state-spaces/mamba#1023",
        parts={"lora_linear": _gradients_without_mask},
    ),
    Fault(
        "D10",
        says="every training pass uses the same dropout mask",
        wrong="one mask for all passes",
        right="a new mask in every pass",
        hidden_when="there is one training pass",
        seen_in="modules that keep their mask",
        answers={"lora_dropout": with_question(arrays=lambda t, c: {"mask_again": t["mask"]})},
        objection=lora_dropout.SAME_MASK,
    ),
    Fault(
        "D11",
        says="all tokens have the same dropout mask",
        wrong="y_n = x_n W^T + s ((x_n o mask) A^T) B^T",
        right="y_n = x_n W^T + s ((x_n o mask_n) A^T) B^T",
        hidden_when="p = 0, or there is one token",
        seen_in="minLoRA, which drops columns of A",
        answers={"lora_dropout": with_question(arrays=lambda t, c: _of_first_token(t, "mask", "mask_again"))},
        objection=lora_dropout.SHARED_MASK,
    ),
    Fault(
        "D12",
        says="dropout acts between A and B instead of on x",
        wrong="y = x W^T + s ((x A^T) o mask) B^T",
        right="y = x W^T + s ((x o mask) A^T) B^T",
        hidden_when="p = 0",
        seen_in="six of the layers of the field study",
        answers={"lora_dropout": _drop("rank", _mask_rank)},
    ),
    Fault(
        "D13",
        says="dropout acts on the output of the low-rank path instead of on its input",
        wrong="y = x W^T + (s (x A^T) B^T) o mask",
        right="y = x W^T + s ((x o mask) A^T) B^T",
        hidden_when="p = 0",
        seen_in="three of the layers of the field study",
        answers={"lora_dropout": _drop("low_rank", _mask_low_rank)},
    ),
]
