"""Faults of dropout. lora_linear is given the mask; in lora_dropout the subject draws its own."""

from ._fault import Array, Fault, backward, given, in_steps


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
