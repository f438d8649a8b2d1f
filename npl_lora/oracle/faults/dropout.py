"""Faults of dropout. lora_linear takes the mask as an argument; in lora_dropout the subject draws its own."""

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


def _drop_in_evaluation(answer):
    def wrong(arrays, config, d):
        dropped = answer({**arrays, "mask": arrays["mask_eval"]}, config, d)
        return {**answer(arrays, config, d), "y_eval": dropped["y"]}

    return wrong


def _scale_in_evaluation(answer):
    def wrong(arrays, config, d):
        weaker = d.wrapped(scale=lambda scale: lambda config: (1.0 - config["p"]) * scale(config))
        return {**answer(arrays, config, d), "y_eval": answer(arrays, config, weaker)["y_eval"]}

    return wrong


def _keep_unscaled(answer):
    def wrong(arrays, config, d):
        masks = {name: arrays[name] * (1.0 - config["p"]) for name in ("mask", "mask_again")}
        return answer({**arrays, **masks}, config, d)

    return wrong


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
        "D4",
        says="dropout acts in evaluation as well",
        wrong="y_eval = x W^T + s ((x o mask) A^T) B^T",
        right="y_eval = x W^T + s (x A^T) B^T",
        hidden_when="p = 0",
        seen_in="huggingface/peft#3766; meta-pytorch/torchtune#1049",
        answers={"lora_dropout": _drop_in_evaluation},
    ),
    Fault(
        "D5",
        says="evaluation multiplies the low-rank path by 1 - p, although training already divides by 1 - p",
        wrong="y_eval = x W^T + (1 - p) s (x A^T) B^T",
        right="y_eval = x W^T + s (x A^T) B^T",
        hidden_when="p = 0",
        seen_in="ooples/AiDotNet#256",
        answers={"lora_dropout": _scale_in_evaluation},
    ),
    Fault(
        "D9",
        says="the values that dropout keeps are not divided by 1 - p",
        wrong="a mask of 0 and 1",
        right="a mask of 0 and 1 / (1 - p)",
        hidden_when="p = 0",
        seen_in="hand-written dropout",
        answers={"lora_dropout": _keep_unscaled},
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
]
