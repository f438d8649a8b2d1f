"""What a fused projection in torch is handed: the factors of q, k and v, each a part of one tensor, as other fused
projections keep them."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .fused import Groups


class Part(nn.Module):
    """A linear layer whose weight is some rows of a tensor that it shares."""

    def __init__(self, whole: nn.Parameter, rows: slice) -> None:
        super().__init__()
        self.whole, self.rows = whole, rows
        self.out_features, self.in_features = self.weight.shape
        self.bias = None

    @property
    def weight(self) -> torch.Tensor:
        """Its own rows: a view."""
        return self.whole[self.rows]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight)


class OfImages(nn.Module):
    """A layer that takes x of four axes alone, (batch, height, width, in), for x of any number."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(x.reshape(1, 1, -1, x.shape[-1]))
        return y.reshape(*x.shape[:-1], y.shape[-1])


def parts(size: int, columns: int, groups: Groups, home: Mapping[str, Any]) -> list[Part]:
    """A linear layer of so many outputs and inputs for each group that has factors."""
    count = sum(groups)
    whole = nn.Parameter(torch.randn(count * size, columns, **home))
    return [Part(whole, slice(k * size, (k + 1) * size)) for k in range(count)]


def takes_images_alone(layer: nn.Module, in_: int) -> bool:
    """Whether forward raises for x of three axes, and not for four."""
    if list(inspect.signature(layer.forward).parameters)[1:]:
        return False
    return not _takes(layer, (1, 2, in_)) and _takes(layer, (1, 1, 2, in_))


def _takes(layer: nn.Module, shape: tuple[int, ...]) -> bool:
    try:
        like = next(layer.parameters())
        with torch.no_grad():
            return bool(layer(torch.zeros(shape, dtype=like.dtype, device=like.device)).ndim == len(shape))
    except Exception:  # whatever a stranger's forward raises
        return False
