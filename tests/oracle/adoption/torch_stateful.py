"""Layers that are right on one clean call; some of them are wrong afterwards, each in one way."""

import torch
import torch.nn.functional as F
from oracle.adoption.torch_forms import BaseRankAlpha, Merges, SizesRankAlpha


def linear_terms(saved, dy, s):
    """dx, dA and dB of y = x W^T + s (x A^T) B^T, from x, W, A, B and h = x A^T."""
    x, W, A, B, h = saved
    x2, h2, dy2 = (t.reshape(-1, t.shape[-1]) for t in (x, h, dy))
    dh = s * (dy2 @ B)
    return (dy2 @ W + dh @ A).reshape(x.shape), dh.T @ x2, s * (dy2.T @ h2)


class Path(torch.autograd.Function):
    """The forward and backward of a layer, by hand."""

    @staticmethod
    def forward(ctx, x, W, A, B, s):
        h = x @ A.T
        ctx.s = s
        ctx.save_for_backward(x, W, A, B, h)
        return x @ W.T + s * (h @ B.T)

    @staticmethod
    def backward(ctx, dy):
        dx, dA, dB = linear_terms(ctx.saved_tensors, dy, ctx.s)
        return dx, None, dA, dB, None


class ByHand(SizesRankAlpha):
    function = Path

    def __init__(self, in_features, out_features, r, lora_alpha):
        super().__init__(in_features, out_features, r, lora_alpha)

    def forward(self, x):
        return self.function.apply(x, self.weight, self.A, self.B, self.s)


class KeepsItsCacheUpToDate(BaseRankAlpha):
    """The product B A, in evaluation, as long as A and B are the same in every number."""

    def forward(self, x):
        if self.training:
            return super().forward(x)
        now = (self.lora_A.detach().clone(), self.lora_B.detach().clone())
        if not hasattr(self, "seen") or not all(map(torch.equal, self.seen, now)):
            self.seen, self.product = now, now[1] @ now[0]
        return self.base_layer(x) + self.scaling * F.linear(x, self.product)


class Caches(BaseRankAlpha):
    """The product in evaluation, and in training too if `in_training`."""

    in_training = False

    def key(self):
        return ()

    def forward(self, x):
        if self.training and not self.in_training:
            return super().forward(x)
        if getattr(self, "seen", None) != self.key():
            self.seen, self.product = self.key(), (self.lora_B @ self.lora_A).detach()
        y = self.base_layer(x) + self.scaling * F.linear(x, self.product)
        low = self.scaling * self.low_rank(x.detach())
        return y + (low - low.detach() if self.training else 0.0)


class CachesForGood(Caches):
    pass


class CachesByVersion(Caches):
    def key(self):
        return self.lora_A._version, self.lora_B._version


class CachesByPointer(Caches):
    def key(self):
        return self.lora_A.data_ptr(), self.lora_B.data_ptr()


class CachesByPointerInTraining(CachesByPointer):
    in_training = True


class CachesOnlyA(Caches):
    """It notices another A, and no other B."""

    def key(self):
        return (self.lora_A.sum().item(),)


class SpoilsItsBackward(Path):
    @staticmethod
    def backward(ctx, dy):
        found = linear_terms(ctx.saved_tensors, dy, ctx.s)
        ctx.saved_tensors[4].data.mul_(ctx.s)  # a buffer used again
        return found[0], None, found[1], found[2], None


class SecondBackwardDiffers(ByHand):
    function = SpoilsItsBackward


class WritesIntoDy(Path):
    @staticmethod
    def backward(ctx, dy):
        dx, dA, dB = linear_terms(ctx.saved_tensors, dy, ctx.s)
        dy.data.mul_(ctx.s)
        return dx, None, dA, dB, None


class OverwritesDy(ByHand):
    function = WritesIntoDy


class WritesIntoX(Path):
    @staticmethod
    def forward(ctx, x, W, A, B, s):
        kept = x.clone()
        y = Path.forward(ctx, kept, W, A, B, s)
        x.data.mul_(0.5)
        return y


class OverwritesX(ByHand):
    function = WritesIntoX


class KeepsLastX(ByHand):
    """What the backward needs is kept on the layer: the second call takes the place of the first."""

    def forward(self, x):
        layer = self

        class Kept(Path):
            @staticmethod
            def forward(ctx, x, W, A, B, s):
                layer.kept = (x, W, A, B, x @ A.T)
                return Path.forward(ctx, x, W, A, B, s)

            @staticmethod
            def backward(ctx, dy):
                dx, dA, dB = linear_terms(layer.kept, dy, ctx.s)
                return dx, None, dA, dB, None

        return Kept.apply(x, self.weight, self.A, self.B, self.s)


class ForgetsItsUnmerge(Merges):
    """eval() merges, train() does not take the update away again."""

    merge = unmerge = None

    def train(self, mode: bool = True):
        super().train(mode)
        if not mode and not self.merged:
            self.base_layer.weight.data += self.scaling * self.lora_B @ self.lora_A
        self.merged = not mode
        return self


class ScalesOnceMore(BaseRankAlpha):
    """Each eval() doubles the scale, for the calls after it."""

    def eval(self):
        self.scaling = self.scaling * 2
        return super().eval()


class AddsByIndex(BaseRankAlpha):
    """index_add takes one dtype alone, and under autocast there are two."""

    def low_rank(self, x):
        rows = super().low_rank(x).reshape(-1, self.lora_B.shape[0])
        y = x.new_zeros(rows.shape).index_add(0, torch.arange(len(rows)), rows)
        return y.reshape(*x.shape[:-1], -1)


class LeavesAutocastAlone(BaseRankAlpha):
    """Where the base answers in another dtype than x has, nothing is added."""

    def forward(self, x):
        y = self.base_layer(x)
        return y + self.scaling * self.low_rank(x) if y.dtype == x.dtype else y


class ReadsMemory(SizesRankAlpha):
    """x is read as if it lay in memory row by row."""

    def __init__(self, in_features, out_features, r, lora_alpha):
        super().__init__(in_features, out_features, r, lora_alpha)

    def forward(self, x):
        rows = torch.as_strided(x, (x.numel() // x.shape[-1], x.shape[-1]), (x.shape[-1], 1))
        y = rows @ self.weight.T + self.s * (rows @ self.A.T @ self.B.T)
        return y.reshape(*x.shape[:-1], -1)


class ViewsItsInput(SizesRankAlpha):
    """A view of x as rows, which only a contiguous x has."""

    def forward(self, x):
        return super().forward(x.view(-1, x.shape[-1])).view(*x.shape[:-1], -1)


class FreesWhatItSaved(Path):
    """The backward drops what the forward left for it."""

    @staticmethod
    def forward(ctx, x, W, A, B, s):
        ctx.left = [(x, W, A, B, x @ A.T)]
        ctx.s = s
        return x @ W.T + s * (x @ A.T @ B.T)

    @staticmethod
    def backward(ctx, dy):
        if not ctx.left:
            raise RuntimeError("the graph is gone")
        dx, dA, dB = linear_terms(ctx.left.pop(), dy, ctx.s)
        return dx, None, dA, dB, None


class FreesItsGraph(ByHand):
    function = FreesWhatItSaved


class AddsIntoABuffer(Path):
    """dA is added to a buffer that no backward empties."""

    @staticmethod
    def forward(ctx, x, W, A, B, s):
        ctx.sum = torch.zeros_like(A)
        return Path.forward(ctx, x, W, A, B, s)

    @staticmethod
    def backward(ctx, dy):
        dx, dA, dB = linear_terms(ctx.saved_tensors, dy, ctx.s)
        ctx.sum += dA
        return dx, None, ctx.sum.clone(), dB, None


class DoublesItsMemory(ByHand):
    function = AddsIntoABuffer


class RemembersItsInput(BaseRankAlpha):
    """The same x again, as checkpointing hands it over, gives another h."""

    last = None

    def low_rank(self, x):
        again = self.training and x is self.last
        self.last = x
        return F.linear(F.linear(x, self.lora_A) * x.new_tensor(0.5 if again else 1.0), self.lora_B)


class CachesByVersionInTraining(CachesByVersion):
    in_training = True


class WritesIntoXLater(Path):
    @staticmethod
    def backward(ctx, dy):
        found = linear_terms(ctx.saved_tensors, dy, ctx.s)
        ctx.saved_tensors[0].data.copy_(found[0])  # dx in the place of x
        return found[0], None, found[1], found[2], None


class OverwritesXInBackward(ByHand):
    function = WritesIntoXLater


class Switches(BaseRankAlpha):
    """Adapters by name; the constructor's own is called default."""

    def __init__(self, base_layer, rank, alpha):
        super().__init__(base_layer, rank, alpha)
        self.others_A, self.others_B = torch.nn.ParameterDict(), torch.nn.ParameterDict()
        self.active = "default"

    def add_adapter(self, name):
        self.others_A[name] = torch.nn.Parameter(torch.randn_like(self.lora_A))
        self.others_B[name] = torch.nn.Parameter(torch.zeros_like(self.lora_B))

    def set_adapter(self, name):
        self.active = name

    def factors(self):
        if self.active == "default":
            return self.lora_A, self.lora_B
        return self.others_A[self.active], self.others_B[self.active]

    def low_rank(self, x):
        A, B = self.factors()
        return F.linear(F.linear(x, A), B)


class AddsItsAdaptersUnderOtherRules(Switches):
    """No rule knows what this wants besides a name, so it is not asked."""

    def add_adapter(self, name, rank):
        super().add_adapter(name)

    def set_adapter(self, name):
        raise KeyError(name)


class CachesWithoutAName(Switches):
    """The product in evaluation, whatever adapter was added to it."""

    def forward(self, x):
        if self.training:
            return super().forward(x)
        A, B = self.factors()
        key = (A.sum().item(), B.sum().item()) if self.active == "default" else ()
        if getattr(self, "seen", None) != key:
            self.seen, self.product = key, (B @ A).detach()
        return self.base_layer(x) + self.scaling * F.linear(x, self.product)


class SwitchesNothing(Switches):
    def set_adapter(self, name):
        self.chosen = name


class SwitchesOnlyB(Switches):
    """The first switch alone finds A."""

    def set_adapter(self, name):
        self.active_A = getattr(self, "active_A", name)
        super().set_adapter(name)

    def factors(self):
        A, B = super().factors()
        return (A if self.active == "default" else self.others_A[self.active_A]), B


class FreezesForGood(Switches):
    """Switching freezes the adapter that was in use, and never thaws one."""

    def set_adapter(self, name):
        for t in self.factors() if self.active not in ("default", name) else ():
            t.requires_grad_(False)
        super().set_adapter(name)
