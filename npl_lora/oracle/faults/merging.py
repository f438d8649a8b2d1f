"""Faults of merging and unmerging."""

from .fault import Fault, given


def _does_nothing(op):
    """W comes back as it went in; the pullback is nobody's business here."""

    def wrong(W, A, B, *, scale, fan_in_fan_out=False):
        return op(W, A, B * 0.0, scale=scale, fan_in_fan_out=fan_in_fan_out)

    return wrong


FAULTS = [
    Fault(
        "M4",
        "the low-rank update is added twice: merged into W, and once more",
        "W + 2 s B A",
        "W + s B A",
        "B = 0",
        "EricLBuehler/candle-lora#26; Lightning-AI/litgpt#513",
        parts={
            "merge": given(scale=lambda a: 2.0 * a.scale),
            "lora_linear": given(W=lambda a: a.W + a.scale * (a.B @ a.A)),
        },
    ),
    Fault(
        "M5",
        "the merge is done on a copy, or never: the weight is as it was",
        "W' = W",
        "W' = W + s B A",
        "B = 0",
        "EricLBuehler/candle-lora#26; microsoft/LoRA#61; Lightning-AI/lit-llama#185",
        parts={"merge": _does_nothing, "unmerge": _does_nothing},
    ),
    Fault(
        "M5",
        "the merge is never done, and the unmerge is",
        "W' = W, then W - s B A",
        "W' = W + s B A, then W",
        "B = 0",
        "ml-explore/mlx-examples#425",
        variant="merge-only",
        parts={"merge": _does_nothing},
    ),
    Fault(
        "M6",
        "the update stays in the weight after unmerging",
        "W + s B A after unmerging",
        "W after unmerging",
        "B = 0",
        "huggingface/peft#3498, #3504",
        parts={"unmerge": _does_nothing},
    ),
    Fault(
        "M17",
        "unmerging adds the update again where it should take it away",
        "W + 2 s B A after unmerging",
        "W after unmerging",
        "B = 0",
        "hand-written merges invite it",
        parts={"unmerge": lambda op: lambda W, A, B, **how: op(W, -A, B, **how)},
    ),
]
