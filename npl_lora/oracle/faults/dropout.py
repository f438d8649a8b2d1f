"""Faults of dropout. lora_linear is given the mask; in lora_dropout the subject draws its own."""

from ..contracts import lora_dropout
from .fault import Array, Fault, asked, backward, given, in_steps


def _unmasked(a) -> Array:
    return (a.scale * (a.dy @ a.B)) @ a.A


def _not_masked(dx, a):
    return dx if a.mask is None else a.dy @ a.W + _unmasked(a)


def _masked_unscaled(dx, a):
    """The mask of 0 and 1 in the place of 0 and 1 / (1 - p)."""
    if a.mask is None:
        return dx
    low = _unmasked(a)
    return a.dy @ a.W + low.__array_namespace__().where(a.mask != 0, low, low * 0.0)


def _masked_x(a):
    return a.x if a.mask is None else a.x * a.mask


FAULTS = [
    Fault(
        "D1",
        "dropout is not applied: training equals evaluation",
        "y = x W^T + s (x A^T) B^T",
        "y = x W^T + s ((x o mask) A^T) B^T",
        "p = 0",
        "meta-pytorch/torchtune#996; paiml/aprender#2170; AnswerDotAI/fsdp_qlora#68",
        parts={"lora_linear": given(mask=lambda a: None), "lora_embedding": given(mask=lambda a: None)},
    ),
    Fault(
        "D1",
        "dropout is not applied in an embedding: training equals evaluation",
        "y = E[ids] + s (A^T)[ids] B^T",
        "y = E[ids] + s ((A^T)[ids] o mask) B^T",
        "p = 0",
        "PEFT 0.21.2, whose Embedding builds lora_dropout and does not use it",
        variant="embedding",
        parts={"lora_embedding": given(mask=lambda a: None)},
    ),
    Fault(
        "D1",
        "dropout is not applied in a linear layer: training equals evaluation",
        "y = x W^T + s (x A^T) B^T",
        "y = x W^T + s ((x o mask) A^T) B^T",
        "p = 0",
        "meta-pytorch/torchtune#996; paiml/aprender#2170",
        variant="linear",
        parts={"lora_linear": given(mask=lambda a: None)},
    ),
    Fault(
        "D2",
        "the dropout mask is missing from dx",
        "dx = dy W + s (dy B) A",
        "dx = dy W + mask o (s (dy B) A)",
        "p = 0",
        "foundation-model-stack/fms-acceleration#97",
        parts={"lora_linear": backward(x=_not_masked)},
    ),
    Fault(
        "D2",
        "dx has the dropout mask without its 1 / (1 - p)",
        "dx = dy W + [mask != 0] o (s (dy B) A)",
        "dx = dy W + mask o (s (dy B) A)",
        "p = 0",
        "foundation-model-stack/fms-acceleration#97",
        variant="unscaled",
        parts={"lora_linear": backward(x=_masked_unscaled)},
    ),
    Fault(
        "D3",
        "dropout acts on the base path too",
        "y = (x o mask) W^T + s ((x o mask) A^T) B^T",
        "y = x W^T + s ((x o mask) A^T) B^T",
        "p = 0",
        "axolotl-ai-cloud/axolotl#3528",
        parts={
            "lora_linear": in_steps(
                given(x=_masked_x, mask=lambda a: None),
                backward(x=lambda dx, a: dx if a.mask is None else dx * a.mask),
            )
        },
    ),
    Fault(
        "D7",
        "dA is computed from x where the forward saw x o mask",
        "dA = s (dy B)^T x",
        "dA = s (dy B)^T (x o mask)",
        "p = 0",
        "state-spaces/mamba#1023",
        parts={"lora_linear": lambda op: _unmasked_gradients(op)},
    ),
]


FAULTS += [
    Fault(
        "D4",
        "dropout acts in evaluation too",
        "y_eval = x W^T + s ((x o mask) A^T) B^T",
        "y_eval = x W^T + s (x A^T) B^T",
        "p = 0",
        "huggingface/peft#3766; meta-pytorch/torchtune#1049",
        answers={"lora_dropout": lambda answer: _live_in_evaluation(answer)},
    ),
    Fault(
        "D5",
        "evaluation is multiplied by 1 - p, though training divides by it",
        "y_eval = x W^T + (1 - p) s (x A^T) B^T",
        "y_eval = x W^T + s (x A^T) B^T",
        "p = 0",
        "ooples/AiDotNet#256",
        answers={"lora_dropout": lambda answer: _scaled_in_evaluation(answer)},
    ),
    Fault(
        "D9",
        "what dropout keeps is not divided by 1 - p",
        "mask of 0 and 1",
        "mask of 0 and 1 / (1 - p)",
        "p = 0",
        "hand-written dropout invites it",
        answers={"lora_dropout": lambda answer: _unscaled(answer)},
    ),
    Fault(
        "D10",
        "every training pass has the same dropout mask",
        "mask drawn once",
        "mask drawn in every pass",
        "one training pass",
        "a mask kept on the module invites it",
        answers={"lora_dropout": asked(arrays=lambda t, c: {"mask_again": t["mask"]})},
        objection=lora_dropout.SAME_MASK,
    ),
]


def _live_in_evaluation(answer):
    def wrong(arrays, config, d):
        dropped = answer({**arrays, "mask": arrays["mask_eval"]}, config, d)
        return {**answer(arrays, config, d), "y_eval": dropped["y"]}

    return wrong


def _scaled_in_evaluation(answer):
    def wrong(arrays, config, d):
        weaker = d.wrapped(scale=lambda scale: lambda config: (1.0 - config["p"]) * scale(config))
        return {**answer(arrays, config, d), "y_eval": answer(arrays, config, weaker)["y_eval"]}

    return wrong


def _unscaled(answer):
    def wrong(arrays, config, d):
        masks = {name: arrays[name] * (1.0 - config["p"]) for name in ("mask", "mask_again")}
        return answer({**arrays, **masks}, config, d)

    return wrong


def _unmasked_gradients(op):
    """dA and dB as if nothing had been dropped."""

    def gradient(name):
        def change(grad, a):
            if a.mask is None:
                return grad
            plain = {**vars(a), "mask": None}
            dy = plain.pop("dy")
            plain.pop("right")
            return op(**plain)[1](dy, wrt=(name,))[name]

        return change

    return backward(A=gradient("A"), B=gradient("B"))(op)
