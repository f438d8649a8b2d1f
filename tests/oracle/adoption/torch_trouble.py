"""Layers that make trouble: that raise, hang, print, or answer with something else than a tensor."""

import time

import torch
from oracle.adoption.torch_forms import BaseRankAlpha, NoAlpha
from torch import nn


class RaisesWhenBuilt(nn.Module):
    def __init__(self, base_layer, rank, alpha):
        super().__init__()
        raise KeyError("lora")


class RaisesWhenCalled(BaseRankAlpha):
    def forward(self, x):
        raise KeyError("x")


class RefusesItsInput(BaseRankAlpha):
    def forward(self, x):
        raise ValueError("expected a batch of images")


class RaisesByMistake(BaseRankAlpha):
    def forward(self, x):
        return super().forward(x) * {}["routing"]


class NeedsCuda(BaseRankAlpha):
    def forward(self, x):
        return super().forward(x.to("cuda:7"))


class AnswersATuple(BaseRankAlpha):
    def forward(self, x):
        return super().forward(x), None


class AnswersNone(BaseRankAlpha):
    def forward(self, x):
        super().forward(x)


class AnswersAList(BaseRankAlpha):
    def forward(self, x):
        return [super().forward(x)]


class HasNoParameters(nn.Module):
    def __init__(self, base_layer, rank, alpha):
        super().__init__()
        self.call = base_layer.forward

    def forward(self, x):
        return self.call(x)


class WantsMore(BaseRankAlpha):
    def forward(self, x, routing):
        return super().forward(x) * routing


class NeedsTask(BaseRankAlpha):
    def __init__(self, base_layer, rank, alpha, task_names):
        super().__init__(base_layer, rank, alpha)


class Prints(NoAlpha):
    def forward(self, x):
        print("layer " * 200_000)
        return super().forward(x)


class HangsOnLongInputs(NoAlpha):
    def forward(self, x):
        if x.numel() > 400:
            time.sleep(1000)
        return super().forward(x)


class ChangesItsInput(NoAlpha):
    def forward(self, x):
        y = super().forward(x)
        x.data.zero_()
        return y


def build_number(in_features, out_features, rank, alpha):
    return 3


class NotFinite(BaseRankAlpha):
    def __init__(self, base_layer, rank, alpha):
        super().__init__(base_layer, rank, alpha)
        self.lora_A.data = torch.full_like(self.lora_A.data, float("nan"))


class RefusesByAssert(BaseRankAlpha):
    def __init__(self, base_layer, rank, alpha):
        out_features = base_layer.out_features
        assert out_features % 3 == 0
        super().__init__(base_layer, rank, alpha)


class ReturnsTwo(BaseRankAlpha):
    def forward(self, x):
        return self.base_layer(x), self.scaling * self.low_rank(x)
