"""Fused projections of q, k and v, right and wrong. Loaded by test_torch_fused.py."""

import math

import torch
import torch.nn.functional as F
from oracle.adoption.torch_forms import uniform, zeros
from torch import nn


class FactorsOfSomeGroups(nn.Module):
    """A (r * groups, in) and B (out / 3 * groups, r), whose product is a convolution in groups."""

    def __init__(
        self, in_features, out_features, r=0, lora_alpha=1, lora_dropout=0.0, enable_lora: list[bool] = (False,)
    ):
        super().__init__()
        assert out_features % len(enable_lora) == 0
        self.weight = nn.Parameter(torch.randn(out_features, in_features), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(out_features), requires_grad=False)
        self.enabled, self.size, count = enable_lora, out_features // len(enable_lora), sum(enable_lora)
        self.lora_A, self.lora_B = uniform(r * count, in_features, bound=in_features**-0.5), zeros(self.size * count, r)
        self.scaling, self.lora_dropout = lora_alpha / r, nn.Dropout(lora_dropout)

    def update(self):
        """B A of the groups that have factors, (groups, out / 3, in)."""
        count = sum(self.enabled)
        both = F.conv1d(self.lora_A[None], self.lora_B[..., None], groups=count)[0]
        return both.view(count, self.size, -1)

    def place(self, update):
        whole = update.new_zeros(len(self.enabled), *update.shape[1:])
        whole[torch.tensor(self.enabled)] = update
        return whole.view_as(self.weight)

    def forward(self, x):
        low_rank = self.lora_dropout(x) @ self.place(self.update()).T
        return F.linear(x, self.weight, self.bias) + self.scaling * low_rank


class AlphaAlone(FactorsOfSomeGroups):
    def __init__(self, in_features, out_features, r, lora_alpha, enable_lora=[False]):  # noqa: B006
        super().__init__(in_features, out_features, r, r * lora_alpha, 0.0, enable_lora)


class MergesItsGroups(FactorsOfSomeGroups):
    merged = False

    def train(self, mode=True):
        super().train(mode)
        if mode == self.merged:
            update = self.scaling * self.place(self.update())
            self.weight.data += -update if mode else update
            self.merged = not mode
        return self

    def forward(self, x):
        return F.linear(x, self.weight, self.bias) if self.merged else super().forward(x)


class OnABase(nn.Module):
    """The factors are two modules each, handed in, and the base is wrapped."""

    def __init__(self, qkv, linear_a_q, linear_b_q, linear_a_v, linear_b_v):
        super().__init__()
        self.qkv, self.dim = qkv.requires_grad_(False), qkv.out_features // 3
        self.linear_a_q, self.linear_b_q = linear_a_q, linear_b_q
        self.linear_a_v, self.linear_b_v = linear_a_v, linear_b_v

    def forward(self, x):
        qkv = self.qkv(x)
        qkv[..., : self.dim] += self.linear_b_q(self.linear_a_q(x))
        qkv[..., -self.dim :] += self.linear_b_v(self.linear_a_v(x))
        return qkv


class OfImagesAlone(OnABase):
    """The size of a group is taken from the base's inputs, and x has four axes."""

    def __init__(self, qkv, linear_a_q, linear_b_q, linear_a_v, linear_b_v):
        super().__init__(qkv, linear_a_q, linear_b_q, linear_a_v, linear_b_v)
        self.dim = qkv.in_features

    def forward(self, x):
        qkv = self.qkv(x)
        qkv[:, :, :, : self.dim] += self.linear_b_q(self.linear_a_q(x))
        qkv[:, :, :, -self.dim :] += self.linear_b_v(self.linear_a_v(x))
        return qkv


class AllThree(nn.Module):
    def __init__(self, qkv, lora_a_q, lora_b_q, lora_a_k, lora_b_k, lora_a_v, lora_b_v, alpha, rank):
        super().__init__()
        self.qkv, self.s = qkv.requires_grad_(False), alpha / rank
        self.A = nn.ModuleList([lora_a_q, lora_a_k, lora_a_v])
        self.B = nn.ModuleList([lora_b_q, lora_b_k, lora_b_v])

    def forward(self, x):
        return self.qkv(x) + self.s * torch.cat([b(a(x)) for a, b in zip(self.A, self.B, strict=True)], dim=-1)


# Wrong ones


class AnotherGroup(FactorsOfSomeGroups):
    """q's product goes to q, and v's to k."""

    def place(self, update):
        return torch.cat([update, torch.zeros_like(update[:1])]).view_as(self.weight)


class AnothersA(FactorsOfSomeGroups):
    def update(self):
        A = self.lora_A.view(2, -1, self.lora_A.shape[1]).flip(0)
        return self.lora_B.view(2, self.size, -1) @ A


class Shifted(FactorsOfSomeGroups):
    def place(self, update):
        return super().place(update).roll(1, 0)


class OneGroupAlone(FactorsOfSomeGroups):
    def update(self):
        return super().update() * torch.tensor([1.0, 0.0], dtype=self.weight.dtype)[:, None, None]


class WithoutScale(FactorsOfSomeGroups):
    def __init__(self, in_features, out_features, r, lora_alpha, enable_lora: list[bool] = (False,)):
        super().__init__(in_features, out_features, r, lora_alpha, 0.0, enable_lora)
        self.scaling = 1.0


class LosesTheGradientOfV(FactorsOfSomeGroups):
    def update(self):
        q, v = super().update()
        return torch.stack([q, v.detach()])


class MergesShifted(MergesItsGroups):
    def train(self, mode=True):
        nn.Module.train(self, mode)
        if mode == self.merged:
            update = self.scaling * self.place(self.update()).roll(1, 0)
            self.weight.data += -update if mode else update
            self.merged = not mode
        return self


class NoFactorsInOneTensor(nn.Module):
    """Each group has parameters of its own, which no rule tells from each other."""

    def __init__(self, linear, rank, alpha, enable_lora: list[bool]):
        super().__init__()
        out, in_ = linear.weight.shape
        self.linear, self.s = linear.requires_grad_(False), alpha / rank
        self.A = nn.ParameterList([uniform(rank, in_, bound=1 / math.sqrt(in_)) for _ in range(2)])
        self.B = nn.ParameterList([zeros(out // 3, rank) for _ in range(2)])

    def forward(self, x):
        q, v = (self.s * (x @ A.T @ B.T) for A, B in zip(self.A, self.B, strict=True))
        return self.linear(x) + torch.cat([q, torch.zeros_like(q), v], dim=-1)
