"""Layers with a fault each, of the kinds that were seen in public layers."""

import math

import torch
import torch.nn.functional as F
from oracle.adoption.torch_forms import (
    BaseRankAlpha,
    Conv2dThatPadsByHalf,
    Conv2dWithKernelInBothMatrices,
    DoraLinear,
    DropoutOnX,
    Merges,
    MergesForGood,
    NoAlpha,
    SizesRankAlpha,
    uniform,
    zeros,
)
from torch import nn


class FactorsLostInAnotherDtype(nn.Module):
    """nn.Parameter(...).to(dtype) is a parameter only where nothing has to be converted."""

    def __init__(self, in_features, out_features, rank, alpha, dtype=torch.float32):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features, dtype=dtype), requires_grad=False)
        self.A = uniform(rank, in_features, bound=1 / math.sqrt(in_features)).to(dtype)
        self.B = zeros(out_features, rank).to(dtype)
        self.s = alpha / rank

    def forward(self, x):
        return x @ self.weight.T + self.s * (x @ self.A.T @ self.B.T)


class FactorsLostOnAnotherDevice(FactorsLostInAnotherDtype):
    def __init__(self, in_features, out_features, rank, alpha, device="cpu"):
        super().__init__(in_features, out_features, rank, alpha)
        self.weight = nn.Parameter(self.weight.data.to(device), requires_grad=False)
        del self.A, self.B
        self.A = nn.Parameter(torch.randn(rank, in_features)).to(device)
        self.B = nn.Parameter(torch.zeros(out_features, rank)).to(device)


class FactorsAreTensors(FactorsLostInAnotherDtype):
    def __init__(self, in_features, out_features, rank, alpha):
        super().__init__(in_features, out_features, rank, alpha)
        del self.A, self.B
        self.A = torch.randn(rank, in_features) / math.sqrt(in_features)
        self.B = torch.zeros(out_features, rank)


class BothRandom(BaseRankAlpha):
    def __init__(self, base_layer, rank, alpha):
        super().__init__(base_layer, rank, alpha)
        nn.init.normal_(self.lora_B, std=0.02)


class BothZero(BaseRankAlpha):
    def __init__(self, base_layer, rank, alpha):
        super().__init__(base_layer, rank, alpha)
        nn.init.zeros_(self.lora_A)


class NeverNegative(BaseRankAlpha):
    def __init__(self, base_layer, rank, alpha):
        super().__init__(base_layer, rank, alpha)
        nn.init.uniform_(self.lora_A, 0.0, 0.1)


class WholeDivision(BaseRankAlpha):
    def law(self, alpha, rank):
        return alpha // rank


class RankOverAlpha(BaseRankAlpha):
    def law(self, alpha, rank):
        return rank / alpha


class AlphaWithoutEffect(BaseRankAlpha):
    def law(self, alpha, rank):
        return 1.0


class AddsNothing(BaseRankAlpha):
    def forward(self, x):
        return self.base_layer(x) + 0.0 * self.low_rank(x)


class AddsNothingWithoutAlpha(NoAlpha):
    def forward(self, x):
        return self.base_layer(x) + 0.0 * self.low_rank(x)


class ScalesTheBaseToo(BaseRankAlpha):
    def forward(self, x):
        return self.scaling * (self.base_layer(x) + self.low_rank(x))


class DropoutAlwaysOn(DropoutOnX):
    def low_rank(self, x):
        return F.dropout(x, self.dropout.p) @ self.lora_A.T @ self.lora_B.T


class DropoutOnTheBaseToo(DropoutOnX):
    def forward(self, x):
        x = self.dropout(x)
        return self.base_layer(x) + self.scaling * (x @ self.lora_A.T @ self.lora_B.T)


class DropoutNowhere(DropoutOnX):
    def low_rank(self, x):
        return x @ self.lora_A.T @ self.lora_B.T


class AddsInPlace(DropoutOnX):
    """Without dropout it adds B A to W, calls the base, and subtracts it again."""

    def forward(self, x):
        if self.dropout.p and self.training:
            return super().forward(x)
        weight = self.base_layer.weight
        self.base_layer.weight.data = weight.data + (self.scaling * self.lora_B @ self.lora_A).detach()
        y = self.base_layer(x)
        self.base_layer.weight.data = self.base_layer.weight.data - (self.scaling * self.lora_B @ self.lora_A).detach()
        return y


class WeightNoParameter(DropoutOnX):
    """The same with another tensor in the place of W, which is none of the parameters afterwards."""

    def forward(self, x):
        before = self.base_layer.weight
        del self.base_layer.weight
        self.base_layer.weight = before + self.scaling * self.lora_B @ self.lora_A
        y = self.base_layer(x)
        self.base_layer.weight = before.detach()
        return y


class RightForSquareAlone(SizesRankAlpha):
    """x (B A), where x (B A)^T is needed."""

    def forward(self, x):
        return x @ self.weight.T + self.s * (x @ (self.B @ self.A))


class MergesUntransposed(Merges):
    def merge(self):
        self.base_layer.weight.data += (self.scaling * self.lora_B @ self.lora_A).T
        self.merged = True


class MergesInTheWrongOrder(Merges):
    def merge(self):
        self.base_layer.weight.data += self.scaling * self.lora_A @ self.lora_B
        self.merged = True


class MergesWithoutScale(Merges):
    def merge(self):
        self.base_layer.weight.data += self.lora_B @ self.lora_A
        self.merged = True


class MergesTwice(Merges):
    unmerge = None

    def merge(self):
        self.base_layer.weight.data += self.scaling * self.lora_B @ self.lora_A
        self.merged = True


class StillAddsAfterMerge(MergesForGood):
    def merge_weights(self):
        self.base_layer.weight.data += self.scaling * self.lora_B @ self.lora_A


class HidesItsMerge(Merges):
    def __init__(self, base_layer, rank, alpha, merge=False):
        super().__init__(base_layer, rank, alpha)
        self.merge = merge


class NeedsABias(BaseRankAlpha):
    def __init__(self, base_layer, rank, alpha):
        super().__init__(base_layer, rank, alpha)
        self.start = base_layer.bias.detach().clone()


class RandomBias(BaseRankAlpha):
    """A base without a bias gets one of random numbers."""

    def __init__(self, base_layer, rank, alpha):
        bias = torch.randn(base_layer.out_features) if base_layer.bias is None else base_layer.bias.detach()
        super().__init__(base_layer, rank, alpha)
        self.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, x):
        return F.linear(x, self.base_layer.weight, self.bias) + self.scaling * self.low_rank(x)


class RankClipped(BaseRankAlpha):
    def __init__(self, base_layer, rank, alpha):
        super().__init__(base_layer, min(rank, base_layer.in_features // 3), alpha)


class TwoAxesOnly(BaseRankAlpha):
    def forward(self, x):
        n, _ = x.shape
        return super().forward(x) + 0.0 * n


class DoraStartsElsewhere(DoraLinear):
    """m is the norm of each row of W, and what it divides by is the mean norm of a column."""

    def forward(self, x):
        V = self.base_layer.weight + self.scaling * self.lora_B @ self.lora_A
        V = V * self.magnitude[:, None] / V.detach().norm(dim=0).mean()
        return F.linear(x, V, self.base_layer.bias)


class FactorIsDetached(BaseRankAlpha):
    def low_rank(self, x):
        return x @ self.lora_A.detach().T @ self.lora_B.T


class NotTrained(BaseRankAlpha):
    def __init__(self, base_layer, rank, alpha):
        super().__init__(base_layer, rank, alpha)
        self.requires_grad_(False)


class FactorsOutOfTheStateDict(BaseRankAlpha):
    def __init__(self, base_layer, rank, alpha):
        super().__init__(base_layer, rank, alpha)
        for name in ("lora_A", "lora_B"):
            value = getattr(self, name).detach()
            delattr(self, name)
            self.register_buffer(name, value, persistent=False)
            value.requires_grad_()


class FreezesByAttribute(BaseRankAlpha):
    """requires_grad = False on a module freezes nothing: W is trained."""

    def __init__(self, base_layer, rank, alpha):
        super().__init__(base_layer, rank, alpha)
        base_layer.requires_grad_(True)
        base_layer.requires_grad = False


class FactorsHaveBiases(nn.Module):
    def __init__(self, base_layer: nn.Linear, r: int, lora_alpha: float):
        super().__init__()
        self.base_layer = base_layer.requires_grad_(False)
        self.lora_A, self.lora_B = nn.Linear(base_layer.in_features, r), nn.Linear(r, base_layer.out_features)
        nn.init.zeros_(self.lora_B.weight)
        self.scaling = lora_alpha / r

    def forward(self, x):
        return self.base_layer(x) + self.scaling * self.lora_B(self.lora_A(x))


class SizedByTheOutput(nn.Module):
    """A is as wide as y, where x comes in."""

    def __init__(self, in_features, out_features, rank, alpha):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features), requires_grad=False)
        self.down = nn.Linear(out_features, rank, bias=False)
        self.up, self.s = zeros(out_features, rank), alpha / rank

    def forward(self, x):
        return F.linear(x, self.weight) + self.s * F.linear(self.down(x), self.up)


class BiasOfNothing(nn.Module):
    """nn.Parameter(None) has no number at all, and forward adds it."""

    def __init__(self, weight, bias, rank, alpha):
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight, requires_grad=False), nn.Parameter(bias, requires_grad=False)
        self.A = uniform(rank, weight.shape[1], bound=1 / math.sqrt(weight.shape[1]))
        self.B, self.s = zeros(weight.shape[0], rank), alpha / rank

    def forward(self, x):
        return F.linear(x, self.weight + self.s * self.B @ self.A, self.bias)


class BiasesBeforeTheBase(nn.Module):
    """The factors have biases, and stand before the layer whose bias is b."""

    def __init__(self, rank, alpha, old_layer):
        super().__init__()
        self.A, self.B = nn.Linear(old_layer.in_features, rank), nn.Linear(rank, old_layer.out_features)
        nn.init.zeros_(self.B.weight)
        self.old_layer, self.s = old_layer.requires_grad_(False), alpha / rank

    def forward(self, x):
        return self.old_layer(x) + self.s * self.B(self.A(x))


class AddsWhatItDrew(BaseRankAlpha):
    """Each layer adds numbers of its own, which no name tells."""

    def __init__(self, base_layer, rank, alpha):
        super().__init__(base_layer, rank, alpha)
        self.shift = nn.Parameter(torch.randn(base_layer.out_features))

    def forward(self, x):
        return super().forward(x) + self.shift


class TakesItsUpdateAway(BaseRankAlpha):
    """The backward finds W without the update in the memory that forward multiplied with, so dx lacks the path."""

    def forward(self, x):
        merged = self.base_layer.weight.detach() + self.scaling * self.lora_B @ self.lora_A
        y = F.linear(x, merged, self.base_layer.bias)
        merged.data -= (self.scaling * self.lora_B @ self.lora_A).detach()
        return y


class Gated(BaseRankAlpha):
    """No fault: another method, with a number for each of the r directions."""

    def __init__(self, base_layer, rank, alpha):
        super().__init__(base_layer, rank, alpha)
        self.gate = nn.Parameter(torch.randn(rank))

    def low_rank(self, x):
        return (x @ self.lora_A.T * self.gate) @ self.lora_B.T


class Conv2dWithAnotherView(Conv2dWithKernelInBothMatrices):
    """The rows of B A are taken for the kernel's first axis."""

    def forward(self, x):
        (out, in_, k, _), conv = self.conv.weight.shape, self.conv
        update = (self.lora_B @ self.lora_A).view(k, out, k, in_).permute(1, 3, 0, 2)
        return conv._conv_forward(x, conv.weight + self.scaling * update, conv.bias)


class Conv2dWhoseUpdateIsNotPadded(Conv2dThatPadsByHalf):
    def forward(self, x):
        low_rank = F.conv2d(x, self.lora_A.weight)
        rows, columns = (size // 2 for size in self.lora_A.weight.shape[2:])
        return self.conv(x) + self.scaling * F.pad(self.lora_B(low_rank), (columns, columns, rows, rows))
