"""Faults of merging and unmerging."""

from .fault import Fault
from .wraps import with_arguments


def _do_nothing(op):
    """Return W unchanged. No contract uses the pullback."""

    def wrong(W, A, B, *, scale, fan_in_fan_out=False):
        return op(W, A, B * 0.0, scale=scale, fan_in_fan_out=fan_in_fan_out)

    return wrong


FAULTS = [
    Fault(
        "M4",
        says="the low-rank update is added twice: once merged into W, and once more",
        wrong="W + 2 s B A",
        right="W + s B A",
        hidden_when="B = 0",
        seen_in="EricLBuehler/candle-lora#26; Lightning-AI/litgpt#513",
        parts={
            "merge": with_arguments(scale=lambda a: 2.0 * a.scale),
            "lora_linear": with_arguments(W=lambda a: a.W + a.scale * (a.B @ a.A)),
        },
    ),
    Fault(
        "M5",
        says="the merge works on a copy, or never runs: the weight is unchanged",
        wrong="W_merged = W",
        right="W_merged = W + s B A",
        hidden_when="B = 0",
        seen_in="EricLBuehler/candle-lora#26; microsoft/LoRA#61; Lightning-AI/lit-llama#185",
        parts={"merge": _do_nothing, "unmerge": _do_nothing},
    ),
    Fault(
        "M5",
        variant="merge-only",
        says="the merge never runs, but the unmerge does",
        wrong="W_merged = W, W_unmerged = W - s B A",
        right="W_merged = W + s B A, W_unmerged = W",
        hidden_when="B = 0",
        seen_in="ml-explore/mlx-examples#425",
        parts={"merge": _do_nothing},
    ),
    Fault(
        "M6",
        says="the update stays in the weight after unmerging",
        wrong="W_unmerged = W + s B A",
        right="W_unmerged = W",
        hidden_when="B = 0",
        seen_in="huggingface/peft#3498, #3504",
        parts={"unmerge": _do_nothing},
    ),
    Fault(
        "M17",
        says="unmerging adds the update again instead of subtracting it",
        wrong="W_unmerged = W + 2 s B A",
        right="W_unmerged = W",
        hidden_when="B = 0",
        seen_in="hand-written merges",
        parts={"unmerge": lambda op: lambda W, A, B, **settings: op(W, -A, B, **settings)},
    ),
    Fault(
        "M17",
        variant="twice",
        says="unmerging subtracts the update twice",
        wrong="W_unmerged = W - s B A",
        right="W_unmerged = W",
        hidden_when="B = 0, or the merge adds it twice as well",
        seen_in="huggingface/peft#3774, whose merge adds it twice as well",
        parts={"unmerge": lambda op: lambda W, A, B, *, scale, **how: op(W, A, B, scale=2.0 * scale, **how)},
    ),
    Fault(
        "M18",
        says="the adapted layer loses the bias of the base layer",
        wrong="y = x W^T + s (x A^T) B^T",
        right="y = x W^T + b + s (x A^T) B^T",
        hidden_when="there is no bias",
        seen_in="hand-written layers that build a new nn.Linear without the bias",
        parts={"lora_linear": with_arguments(b=lambda a: None), "dora_linear": with_arguments(b=lambda a: None)},
    ),
]
