"""lora_scaled_embedding: an embedding that multiplies what it looks up by a scale of its own, with LoRA inside."""

from collections.abc import Mapping

from ...ops import Pullback
from ..definition import RIGHT, Definition
from . import lora_embedding
from .contract import Array, Config, Contract, gradients, lora
from .lora_embedding import table


def forward(arrays: Mapping[str, Array], config: Config, d: Definition = RIGHT) -> tuple[Array, Pullback]:
    """y = e (E[ids] + s (A^T)[ids] B^T): e stands before both paths."""
    e = config["embed_scale"]
    looked_up, right = lora_embedding.forward(arrays, config, d)
    y = e * looked_up
    return y, Pullback(lambda dy, wrt: right(e * dy, wrt=wrt), y, right.inputs, right.frozen)


def answer(arrays: Mapping[str, Array], config: Config, d: Definition = RIGHT) -> dict[str, Array]:
    """y, dA, dB."""
    y, pullback = forward(arrays, config, d)
    return {"y": y, **gradients(pullback(arrays["dy"]))}


_ROWS = [[2, 0, 2, 8, 9], [5, 2, 0, 0, 7]]

CONTRACT = Contract(
    "lora_scaled_embedding",
    answer,
    {
        "repeated-ids": lambda draw: table(draw, _ROWS, 10, 12, lora(4, 11, padding_idx=None, embed_scale=3.5)),
        "padding-rslora": lambda draw: table(
            draw, _ROWS, 11, 5, lora(3, 2, use_rslora=True, padding_idx=0, embed_scale=2.25)
        ),
    },
    forward,
    exact={
        "exact-repeated-ids": lambda draw: table(
            draw, [[3, 0, 3], [4, 3, 0]], 6, 5, lora(2, 8, padding_idx=None, embed_scale=2.0)
        )
    },
    terms={"y": ("e E[ids]", "e s (A^T)[ids] B^T")},
)
