"""Layers of the forms that people write, all of them right: the constructors, the storage of A and B, the laws of the
scale, the places of dropout. Loaded by test_torch_layers.py, which says of each what the report must hold."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


def uniform(*shape: int, bound: float) -> nn.Parameter:
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))


def zeros(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(*shape))


class BaseRankAlpha(nn.Module):
    """The form of most classes. Those below differ from it in one point."""

    def __init__(self, base_layer: nn.Linear, rank: int, alpha: float):
        super().__init__()
        self.base_layer = base_layer.requires_grad_(False)
        self.lora_A = uniform(rank, base_layer.in_features, bound=1 / math.sqrt(base_layer.in_features))
        self.lora_B = zeros(base_layer.out_features, rank)
        self.scaling = self.law(alpha, rank)

    def law(self, alpha, rank):
        return alpha / rank

    def low_rank(self, x):
        return x @ self.lora_A.T @ self.lora_B.T

    def forward(self, x):
        return self.base_layer(x) + self.scaling * self.low_rank(x)


class SizesRankAlpha(nn.Module):
    def __init__(self, in_features, out_features, r=8, lora_alpha=16):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features), requires_grad=False)
        self.A = uniform(r, in_features, bound=1 / math.sqrt(in_features))
        self.B = zeros(out_features, r)
        self.s = lora_alpha / r

    def forward(self, x):
        return x @ self.weight.T + self.s * (x @ self.A.T @ self.B.T)


class RawWeight(nn.Module):
    def __init__(self, weight: torch.Tensor, rank: int, alpha: float):
        super().__init__()
        self.weight = nn.Parameter(weight.detach(), requires_grad=False)
        self.A = uniform(rank, weight.shape[1], bound=1 / math.sqrt(weight.shape[1]))
        self.B = zeros(weight.shape[0], rank)
        self.s = alpha / rank

    def forward(self, x):
        return F.linear(x, self.weight) + self.s * F.linear(F.linear(x, self.A), self.B)


class RawWeightAndBias(RawWeight):
    def __init__(self, weight, bias, rank, alpha):
        super().__init__(weight, rank, alpha)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    def forward(self, x):
        y = super().forward(x)
        return y if self.bias is None else y + self.bias


class SizesScale(SizesRankAlpha):
    def __init__(self, in_dim, out_dim, rank, scale=1.0):
        super().__init__(in_dim, out_dim, rank, rank * scale)


class SizesRank(SizesRankAlpha):
    def __init__(self, in_features, out_features, rank):
        super().__init__(in_features, out_features, rank, rank)


class OneSquareSize(SizesRankAlpha):
    def __init__(self, dim, rank):
        super().__init__(dim, dim, rank, rank)


class SquareOfInRows(nn.Module):
    def __init__(self, d_model, r, alpha):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(d_model, d_model), requires_grad=False)
        self.A, self.B = uniform(d_model, r, bound=1 / math.sqrt(d_model)), zeros(r, d_model)
        self.s = alpha / r

    def forward(self, x):
        return x @ self.weight + self.s * (x @ self.A @ self.B)


class BaseRank(BaseRankAlpha):
    def __init__(self, linear, rank):
        super().__init__(linear, rank, rank)


class FactorsAsModules(nn.Module):
    def __init__(self, linear: nn.Module, linear_a: nn.Module, linear_b: nn.Module):
        super().__init__()
        self.linear, self.linear_a, self.linear_b = linear.requires_grad_(False), linear_a, linear_b

    def forward(self, x):
        return self.linear(x) + self.linear_b(self.linear_a(x))


class FactorsNamedByALetter(nn.Module):
    def __init__(self, wt: nn.Module, A: nn.Module, B: nn.Module, rank_lora: int, alpha: int):
        super().__init__()
        self.wt, self.A, self.B, self.s = wt.requires_grad_(False), A, B, alpha / rank_lora

    def forward(self, x):
        return self.wt(x) + self.s * self.B(self.A(x))


class AdapterAddedLater(nn.Module):
    def __init__(self, base_layer):
        super().__init__()
        self.base_layer = base_layer.requires_grad_(False)
        self.lora_A, self.lora_B, self.scaling = nn.ParameterDict(), nn.ParameterDict(), {}

    def add_adapter(self, adapter_name, r, lora_alpha):
        self.lora_A[adapter_name] = uniform(r, self.base_layer.in_features, bound=0.1)
        self.lora_B[adapter_name] = zeros(self.base_layer.out_features, r)
        self.scaling[adapter_name] = lora_alpha / r

    def forward(self, x):
        y = self.base_layer(x)
        for name, s in self.scaling.items():
            y = y + s * (x @ self.lora_A[name].T @ self.lora_B[name].T)
        return y


class RankByItsLastWord(SizesRankAlpha):
    def __init__(self, in_features, out_features, weight_rank=4, weight_alpha=8):
        super().__init__(in_features, out_features, weight_rank, weight_alpha)


class ConfigOfAttributes(SizesRankAlpha):
    def __init__(self, config):
        super().__init__(config.in_features, config.out_features, config.lora_rank, config.lora_alpha)


class ConfigOfItems(SizesRankAlpha):
    def __init__(self, cfg):
        super().__init__(cfg["in_dim"], cfg["out_dim"], cfg["r"], cfg["alpha"])


class ConfigNested(SizesRankAlpha):
    def __init__(self, config):
        super().__init__(config.model.d_in, config.model.d_out, config.lora.rank, config.lora["alpha"])


class BaseAndConfig(BaseRankAlpha):
    def __init__(self, base_layer, lora_config):
        super().__init__(base_layer, lora_config.r, lora_config.alpha)


class RowsFirstParametrization(nn.Module):
    """The first size is the number of rows of W, which this author calls features_in."""

    def __init__(self, features_in, features_out, rank=1, alpha=1):
        super().__init__()
        self.lora_A = nn.Parameter(torch.randn(rank, features_out))
        self.lora_B = zeros(features_in, rank)
        self.scale = alpha / rank

    def forward(self, original_weights):
        return original_weights + (self.lora_B @ self.lora_A).view(original_weights.shape) * self.scale


class RowsFirstWithoutAlpha(RowsFirstParametrization):
    def __init__(self, features_in, features_out, rank=1):
        super().__init__(features_in, features_out, rank, rank)


class ColumnsFirstParametrization(nn.Module):
    def __init__(self, in_features, out_features, rank, alpha):
        super().__init__()
        self.A, self.B = nn.Parameter(torch.randn(rank, in_features)), zeros(out_features, rank)
        self.scale = alpha / rank

    def forward(self, weight):
        return weight + self.scale * self.B @ self.A


class PathOnly(nn.Module):
    def __init__(self, in_dim, out_dim, rank, alpha):
        super().__init__()
        self.A = uniform(in_dim, rank, bound=1 / math.sqrt(in_dim))
        self.B = zeros(rank, out_dim)
        self.scale = alpha / rank

    def forward(self, x):
        return self.scale * (x @ self.A @ self.B)


class HandedAPath(nn.Module):
    def __init__(self, original_linear, lora_layer):
        super().__init__()
        self.linear, self.lora = original_linear.requires_grad_(False), lora_layer

    def forward(self, x):
        return self.linear(x) + self.lora(x)


class PathThatAddsTheBasesOutput(PathOnly):
    def forward(self, x, original_output):
        return original_output + super().forward(x)


class InheritsFromLinear(nn.Linear):
    def __init__(self, in_features, out_features, r=0, lora_alpha=1, lora_dropout=0.0, **kwargs):
        super().__init__(in_features, out_features, **kwargs)
        self.lora_A, self.lora_B = uniform(r, in_features, bound=1 / math.sqrt(in_features)), zeros(out_features, r)
        self.scaling, self.lora_dropout = lora_alpha / r, nn.Dropout(lora_dropout)
        self.weight.requires_grad = False

    def forward(self, x):
        return super().forward(x) + self.lora_dropout(x) @ self.lora_A.T @ self.lora_B.T * self.scaling


class AlphaIsAnInt(BaseRankAlpha):
    def __init__(self, base_layer, rank: int, alpha: int):
        assert isinstance(alpha, int)
        super().__init__(base_layer, rank, alpha)


class OnTheGpu(SizesRankAlpha):
    def __init__(self, in_features, out_features, rank, alpha, device="cuda"):
        super().__init__(in_features, out_features, rank, alpha)
        self.to(device)


class FactorsOfInRows(BaseRankAlpha):
    """A (in, r), B (r, out)."""

    def __init__(self, base_layer, rank, alpha):
        super().__init__(base_layer, rank, alpha)
        self.lora_A, self.lora_B = nn.Parameter(self.lora_A.detach().T.clone()), zeros(rank, base_layer.out_features)

    def low_rank(self, x):
        return x @ self.lora_A @ self.lora_B


class FactorsAsLinears(BaseRankAlpha):
    def __init__(self, base_layer, rank, alpha):
        super().__init__(base_layer, rank, alpha)
        del self.lora_A, self.lora_B
        self.lora_down = nn.Linear(base_layer.in_features, rank, bias=False)
        self.lora_up = nn.Linear(rank, base_layer.out_features, bias=False)
        nn.init.zeros_(self.lora_up.weight)

    def low_rank(self, x):
        return self.lora_up(self.lora_down(x))


class OneLinearOneParameter(BaseRankAlpha):
    def __init__(self, base_layer, rank, alpha):
        super().__init__(base_layer, rank, alpha)
        del self.lora_A
        self.lora_A = nn.Linear(base_layer.in_features, rank, bias=False)

    def low_rank(self, x):
        return self.lora_A(x) @ self.lora_B.T


class NamesExchanged(BaseRankAlpha):
    """What multiplies x first is called B."""

    def __init__(self, base_layer, rank, alpha):
        super().__init__(base_layer, rank, alpha)
        self.lora_A, self.lora_B = self.lora_B, self.lora_A

    def low_rank(self, x):
        return x @ self.lora_B.T @ self.lora_A.T


class OnAChild(nn.Module):
    def __init__(self, linear, rank, alpha):
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.lora = PathOnly(linear.in_features, linear.out_features, rank, alpha)

    def forward(self, x):
        return self.linear(x) + self.lora(x)


class KeepsItsProduct(BaseRankAlpha):
    """A buffer of the shape of W is no second W."""

    def __init__(self, base_layer, rank, alpha):
        super().__init__(base_layer, rank, alpha)
        self.register_buffer("delta", torch.zeros(base_layer.out_features, base_layer.in_features))


class RawAlpha(BaseRankAlpha):
    def law(self, alpha, rank):
        return alpha


class NoAlpha(BaseRankAlpha):
    def __init__(self, base_layer, rank):
        super().__init__(base_layer, rank, 1.0)

    def law(self, alpha, rank):
        return 1.0


class FixedTwo(NoAlpha):
    def law(self, alpha, rank):
        return 2.0


class OneOverRank(NoAlpha):
    def law(self, alpha, rank):
        return 1 / rank


class ScaleOverRank(BaseRankAlpha):
    def __init__(self, base_layer, rank, scale):
        super().__init__(base_layer, rank, scale)


class AlphaOverRoot(BaseRankAlpha):
    def law(self, alpha, rank):
        return alpha / math.sqrt(rank)


class TwiceAlphaOverRank(BaseRankAlpha):
    def law(self, alpha, rank):
        return 2 * alpha / rank


class RootAsPower(BaseRankAlpha):
    def law(self, alpha, rank):
        return alpha * rank**-0.5


class OwnAlphaAndDropout(BaseRankAlpha):
    def __init__(self, base_layer, rank):
        super().__init__(base_layer, rank, 16.0)
        self.dropout = nn.Dropout(0.05)

    def low_rank(self, x):
        return super().low_rank(self.dropout(x))


class FixedThird(NoAlpha):
    def law(self, alpha, rank):
        return 0.3


class OddLaw(BaseRankAlpha):
    def law(self, alpha, rank):
        return alpha / (rank + 1.7)


class ScaleIsABuffer(BaseRankAlpha):
    """Made in float32, or in whatever dtype is torch's default."""

    def __init__(self, base_layer, rank, alpha):
        super().__init__(base_layer, rank, alpha)
        del self.scaling
        self.register_buffer("scaling", torch.tensor(alpha / rank))


class RsLora(BaseRankAlpha):
    def __init__(self, base_layer, rank, alpha, use_rslora=False):
        self.use_rslora = use_rslora
        super().__init__(base_layer, rank, alpha)

    def law(self, alpha, rank):
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank


class DropoutOnX(BaseRankAlpha):
    def __init__(self, base_layer, rank, alpha, dropout=0.0):
        super().__init__(base_layer, rank, alpha)
        self.dropout = nn.Dropout(dropout)

    def low_rank(self, x):
        return self.dropout(x) @ self.lora_A.T @ self.lora_B.T


class DropoutOnXA(DropoutOnX):
    def low_rank(self, x):
        return self.dropout(x @ self.lora_A.T) @ self.lora_B.T


class DropoutAfterB(DropoutOnX):
    def low_rank(self, x):
        return self.dropout(x @ self.lora_A.T @ self.lora_B.T)


class DropoutOnColumnsOfA(DropoutOnX):
    def low_rank(self, x):
        kept = F.dropout(torch.ones(1, self.lora_A.shape[1], dtype=x.dtype), self.dropout.p, self.training)
        return x @ (self.lora_A * kept).T @ self.lora_B.T


class DrawsItsOwnMask(DropoutOnX):
    """Without torch's dropout."""

    def low_rank(self, x):
        p = self.dropout.p if self.training else 0.0
        return (x * torch.bernoulli(torch.full_like(x, 1 - p)) / (1 - p)) @ self.lora_A.T @ self.lora_B.T


class StartsWithAZero(BaseRankAlpha):
    def __init__(self, base_layer, rank, alpha):
        super().__init__(base_layer, rank, alpha)
        nn.init.normal_(self.lora_B, std=0.1)
        nn.init.zeros_(self.lora_A)


class FreezesNothing(BaseRankAlpha):
    def __init__(self, base_layer, rank, alpha):
        super().__init__(base_layer, rank, alpha)
        base_layer.requires_grad_(True)


class TrainsItsBias(BaseRankAlpha):
    def __init__(self, base_layer, rank, alpha):
        super().__init__(base_layer, rank, alpha)
        if base_layer.bias is not None:
            base_layer.bias.requires_grad_(True)


class NormalA(BaseRankAlpha):
    def __init__(self, base_layer, rank, alpha):
        super().__init__(base_layer, rank, alpha)
        nn.init.normal_(self.lora_A)


class UniformByRank(BaseRankAlpha):
    def __init__(self, base_layer, rank, alpha):
        super().__init__(base_layer, rank, alpha)
        nn.init.uniform_(self.lora_A, -1 / math.sqrt(rank), 1 / math.sqrt(rank))


class Merges(BaseRankAlpha):
    merged = False

    def merge(self):
        if not self.merged:
            self.base_layer.weight.data += self.scaling * self.lora_B @ self.lora_A
        self.merged = True

    def unmerge(self):
        if self.merged:
            self.base_layer.weight.data -= self.scaling * self.lora_B @ self.lora_A
        self.merged = False

    def forward(self, x):
        return self.base_layer(x) if self.merged else super().forward(x)


class MergesForGood(BaseRankAlpha):
    """There is no way back, and the second call does nothing since B is zero then."""

    def merge_weights(self):
        with torch.no_grad():
            self.base_layer.weight += self.scaling * self.lora_B @ self.lora_A
            self.lora_B.zero_()


class MergesInEval(BaseRankAlpha):
    merged = False

    def train(self, mode: bool = True):
        super().train(mode)
        if mode == self.merged:
            update = self.scaling * self.lora_B @ self.lora_A
            self.base_layer.weight.data += -update if mode else update
            self.merged = not mode
        return self

    def forward(self, x):
        return self.base_layer(x) if self.merged else super().forward(x)


class MergesToNew(BaseRankAlpha):
    def to_linear(self) -> nn.Linear:
        base = self.base_layer
        new = nn.Linear(base.in_features, base.out_features, bias=base.bias is not None).to(base.weight.dtype)
        with torch.no_grad():
            new.weight.copy_(base.weight + self.scaling * self.lora_B @ self.lora_A)
            if base.bias is not None:
                new.bias.copy_(base.bias)
        return new


class LoraEmbedding(nn.Module):
    def __init__(self, num_embeddings, embedding_dim, r, alpha):
        super().__init__()
        self.embedding = nn.Embedding(num_embeddings, embedding_dim).requires_grad_(False)
        self.lora_A, self.lora_B = zeros(r, num_embeddings), nn.Parameter(torch.randn(embedding_dim, r))
        self.scaling = alpha / r

    def forward(self, ids):
        return self.embedding(ids) + self.scaling * F.embedding(ids, self.lora_A.T) @ self.lora_B.T


class EmbeddingOfIdsInRows(nn.Embedding):
    def __init__(self, vocab, emb_dim, rank, alpha):
        super().__init__(vocab, emb_dim)
        self.weight.requires_grad = False
        self.lora_A, self.lora_B = zeros(vocab, rank), nn.Parameter(torch.randn(rank, emb_dim))
        self.scaling = alpha / rank

    def forward(self, ids):
        return self.weight[ids] + self.scaling * self.lora_A[ids] @ self.lora_B


class Conv2dWithMatrices(nn.Conv2d):
    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, rank=2, alpha=2):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding)
        self.requires_grad_(False)
        size = in_channels * self.kernel_size[0] * self.kernel_size[1]
        self.lora_A, self.lora_B = uniform(rank, size, bound=1 / math.sqrt(size)), zeros(rank, out_channels)
        self.scaling = alpha / rank

    def forward(self, x):
        update = (self.lora_B.T @ self.lora_A).view(self.weight.shape)
        return F.conv2d(x, self.weight + self.scaling * update, self.bias, self.stride, self.padding)


class LoraConv2d(nn.Module):
    def __init__(self, conv: nn.Conv2d, r, alpha):
        super().__init__()
        places = dict(stride=conv.stride, padding=conv.padding, dilation=conv.dilation)
        self.conv = conv.requires_grad_(False)
        self.lora_A = nn.Conv2d(conv.in_channels, r, conv.kernel_size, bias=False, **places)
        self.lora_B = nn.Conv2d(r, conv.out_channels, 1, bias=False)
        nn.init.zeros_(self.lora_B.weight)
        self.scaling = alpha / r

    def forward(self, x):
        return self.conv(x) + self.scaling * self.lora_B(self.lora_A(x))


class DoraLinear(BaseRankAlpha):
    def __init__(self, base_layer, rank, alpha):
        super().__init__(base_layer, rank, alpha)
        self.magnitude = nn.Parameter(base_layer.weight.detach().norm(dim=1))

    def forward(self, x):
        V = self.base_layer.weight + self.scaling * self.lora_B @ self.lora_A
        V = V * (self.magnitude / V.detach().norm(dim=1))[:, None]
        return F.linear(x, V, self.base_layer.bias)


class DoraWithDropout(DoraLinear):
    def __init__(self, base_layer, rank, alpha, dropout):
        super().__init__(base_layer, rank, alpha)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        return super().forward(self.dropout(x))


class Conv2dWithDropout(LoraConv2d):
    def __init__(self, conv, r, alpha, dropout):
        super().__init__(conv, r, alpha)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        return self.conv(x) + self.scaling * self.lora_B(self.lora_A(self.dropout(x)))


class DoraOverTheOtherAxis(DoraLinear):
    """m is the norm of each column of W, and so is what it divides by: another definition."""

    def __init__(self, base_layer, rank, alpha):
        super().__init__(base_layer, rank, alpha)
        self.magnitude = nn.Parameter(base_layer.weight.detach().norm(dim=0))

    def forward(self, x):
        V = self.base_layer.weight + self.scaling * self.lora_B @ self.lora_A
        return F.linear(x, V * (self.magnitude / V.detach().norm(dim=0)), self.base_layer.bias)


class LoraConv1D(nn.Module):
    """For GPT-2's Conv1D, whose weight is (in, out)."""

    def __init__(self, base_layer: Any, rank, alpha):
        super().__init__()
        self.base_layer = base_layer.requires_grad_(False)
        fan_in, fan_out = base_layer.weight.shape
        self.lora_A, self.lora_B = nn.Parameter(torch.randn(fan_in, rank)), zeros(rank, fan_out)
        self.scaling = alpha / rank

    def forward(self, x):
        return self.base_layer(x) + self.scaling * (x @ self.lora_A @ self.lora_B)


def build(in_features, out_features, rank, alpha, dropout, bias):
    return DropoutOnX(nn.Linear(in_features, out_features, bias=bias), rank, alpha, dropout)


class DoraByInput(DoraLinear):
    """m is the norm of each column of W, as in the paper's formula, where PEFT takes each row."""

    def __init__(self, base_layer, rank, alpha):
        super().__init__(base_layer, rank, alpha)
        self.magnitude = nn.Parameter(base_layer.weight.detach().norm(dim=0))

    def forward(self, x):
        V = self.base_layer.weight + self.scaling * self.lora_B @ self.lora_A
        return F.linear(x, V * (self.magnitude / V.detach().norm(dim=0)), self.base_layer.bias)


class StartsAsHanded(BaseRankAlpha):
    def __init__(self, base_layer, rank, alpha):
        super().__init__(base_layer, rank, alpha)
        nn.init.normal_(self.lora_B)
        self.base_layer.weight.data -= self.scaling * (self.lora_B @ self.lora_A).detach()


class TakesAWeightOfAnyName(nn.Module):
    """A parametrization; only what it does with its input says so."""

    def __init__(self, out_features: int, in_features: int, rank: int, alpha: float):
        super().__init__()
        self.lora_A = uniform(rank, in_features, bound=1 / math.sqrt(in_features))
        self.lora_B = zeros(out_features, rank)
        self.scaling = alpha / rank

    def forward(self, base):
        return base + self.scaling * (self.lora_B @ self.lora_A)


class OnADeviceThatTorchLacks(SizesRankAlpha):
    """Its callers always name a device."""

    def __init__(self, in_features, out_features, rank, alpha, device="gpu"):
        super().__init__(in_features, out_features, rank, alpha)
        self.to(device)


class LeavesItsStart(nn.Module):
    """Who builds the model sets its numbers, as where a checkpoint is loaded."""

    def __init__(self, in_features, out_features, rank, alpha):
        super().__init__()
        self.base = nn.Linear(in_features, out_features, bias=False).requires_grad_(False)
        self.down = nn.Linear(in_features, rank, bias=False)
        self.up = nn.Linear(rank, out_features, bias=False)
        self.s = alpha / rank

    def forward(self, x):
        return self.base(x) + self.s * self.up(self.down(x))


class LeavesItsMemory(SizesRankAlpha):
    def __init__(self, in_features, out_features, rank, alpha):
        super().__init__(in_features, out_features, rank, alpha)
        self.A, self.B = nn.Parameter(torch.empty(rank, in_features)), nn.Parameter(torch.empty(out_features, rank))


class WaitsToBeTrained(SizesRankAlpha):
    """The model's own code freezes W and trains A and B, by their names."""

    def __init__(self, in_features, out_features, rank, alpha):
        super().__init__(in_features, out_features, rank, alpha)
        self.weight.requires_grad_(True)
        self.A.requires_grad_(False)
        self.B.requires_grad_(False)


class TrainsBAlone(BaseRankAlpha):
    def __init__(self, base_layer, rank, alpha):
        super().__init__(base_layer, rank, alpha)
        self.lora_A.requires_grad_(False)


class StartsFromSingularVectors(nn.Module):
    """There are no more of them than min(in, out), so the rank can be no larger."""

    def __init__(self, base_layer: nn.Linear, rank: int, alpha: float):
        super().__init__()
        self.base_layer = base_layer.requires_grad_(False)
        rank = min(rank, *base_layer.weight.shape)
        U, S, Vh = torch.linalg.svd(base_layer.weight.detach().float(), full_matrices=False)
        root, self.s = S[:rank].sqrt(), alpha / rank
        self.lora_A, self.lora_B = nn.Parameter(root[:, None] * Vh[:rank]), nn.Parameter(U[:, :rank] * root)
        base_layer.weight.data -= self.s * (self.lora_B @ self.lora_A).detach()

    def forward(self, x):
        return self.base_layer(x) + self.s * (x @ self.lora_A.T @ self.lora_B.T)


class TaskByTask(nn.Module):
    """Each task adds a pair of factors."""

    def __init__(self, base_layer: nn.Linear, rank: int, alpha: float):
        super().__init__()
        self.base_layer, self.rank, self.s = base_layer.requires_grad_(False), rank, alpha / rank
        self.down, self.up = nn.ParameterList(), nn.ParameterList()

    def add_task(self):
        for old in (*self.down, *self.up):
            old.requires_grad_(False)
        out, in_ = self.base_layer.weight.shape
        self.down.append(uniform(self.rank, in_, bound=1 / math.sqrt(in_)))
        self.up.append(zeros(out, self.rank))

    def forward(self, x):
        return self.base_layer(x) + sum(self.s * (x @ A.T @ B.T) for A, B in zip(self.down, self.up, strict=True))


class WithABottleneck(BaseRankAlpha):
    """Another adapter after it, which is trained too and starts at nothing."""

    def __init__(self, base_layer, rank, alpha):
        super().__init__(base_layer, rank, alpha)
        width = base_layer.out_features
        self.narrow, self.wide = nn.Linear(width, 2 * rank + 1), zeros(width, 2 * rank + 1)

    def forward(self, x):
        y = super().forward(x)
        return y + torch.tanh(self.narrow(y)) @ self.wide.T


class MergesLater(BaseRankAlpha):
    def merge(self):
        raise NotImplementedError


class OverConv1D(nn.Module):
    """GPT-2's Conv1D, which has a size nf, under a name that a convolution might have."""

    def __init__(self, conv_layer, rank, alpha):
        super().__init__()
        self.conv = conv_layer.requires_grad_(False)
        in_, out = conv_layer.weight.shape[0], conv_layer.nf
        self.A, self.B, self.s = uniform(in_, rank, bound=1 / math.sqrt(in_)), zeros(rank, out), alpha / rank

    def forward(self, x):
        return self.conv(x) + self.s * (x @ self.A @ self.B)


class MakesItsConvolution(nn.Module):
    """It is handed a class, and its factors are those of loralib: (r k, in k) and (out k, r k)."""

    def __init__(self, conv_module, in_channels, out_channels, kernel_size, r, lora_alpha, **more):
        super().__init__()
        self.conv = conv_module(in_channels, out_channels, kernel_size, **more)
        self.conv.weight.requires_grad_(False)
        self.lora_A = uniform(r * kernel_size, in_channels * kernel_size, bound=1.0)
        self.lora_B, self.s = zeros(out_channels * kernel_size, r * kernel_size), lora_alpha / r

    def forward(self, x):
        W = self.conv.weight + self.s * (self.lora_B @ self.lora_A).view(self.conv.weight.shape)
        return F.conv2d(x, W, self.conv.bias, padding=self.conv.padding)


class GivesItsWeight(nn.Module):
    """A projection that is no layer: who multiplies with it calls it without an input. It takes useful ranks alone."""

    def __init__(self, proj, rank):
        super().__init__()
        if rank > min(proj.shape):
            raise ValueError(f"rank {rank} is larger than {min(proj.shape)}")
        self.proj = proj.requires_grad_(False)
        self.down, self.up = uniform(rank, proj.shape[1], bound=1.0), zeros(proj.shape[0], rank)

    def forward(self):
        return self.proj + self.up @ self.down


class Conv2dWithKernelInBothMatrices(nn.Module):
    """B A is (out k, in k), and viewed as the kernel; the convolution takes what else is given."""

    def __init__(self, in_channels, out_channels, kernel_size, r, alpha, **kwargs):
        super().__init__()
        assert isinstance(kernel_size, int)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, **kwargs).requires_grad_(False)
        size = in_channels * kernel_size
        self.lora_A, self.lora_B = (
            uniform(r * kernel_size, size, bound=size**-0.5),
            zeros(out_channels * kernel_size, r * kernel_size),
        )
        self.scaling = alpha / r

    def forward(self, x):
        update = (self.lora_B @ self.lora_A).view(self.conv.weight.shape)
        return self.conv._conv_forward(x, self.conv.weight + self.scaling * update, self.conv.bias)


class Conv2dThatHandsItsWordsOn(Conv2dWithKernelInBothMatrices):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)


class Conv2dThatPadsByHalf(nn.Module):
    """Its kernel is one number, and y is as large as x."""

    def __init__(self, in_channels, out_channels, kernel_size, rank, alpha):
        super().__init__()
        half = kernel_size // 2
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=half).requires_grad_(False)
        self.lora_A = nn.Conv2d(in_channels, rank, kernel_size, padding=half, bias=False)
        self.lora_B = nn.Conv2d(rank, out_channels, 1, bias=False)
        nn.init.zeros_(self.lora_B.weight)
        self.scaling = alpha / rank

    def forward(self, x):
        return self.conv(x) + self.scaling * self.lora_B(self.lora_A(x))


class WeightIsLoadedLater(Merges):
    """Its weight and bias are memory as it is, which may hold any number."""

    def __init__(self, in_features, out_features, rank, alpha):
        base = nn.Linear(in_features, out_features)
        base.weight, base.bias = nn.Parameter(torch.empty_like(base.weight)), nn.Parameter(torch.empty_like(base.bias))
        super().__init__(base, rank, alpha)
