"""LoRALinear: a frozen linear layer with a trainable low-rank path next to it.

    y = x W^T + b + s (xd A^T) B^T        W (out, in), b (out,) frozen; A (r, in), B (out, r) trained

The mathematics, forward and backward, is ops.lora_linear's. This file holds the arrays.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, section 4.1.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from .. import ops
from ..lora.init import factors, uniform
from ..lora.masks import check_dropout, dropout_mask
from ..lora.scale import check_alpha, lora_scale
from ..ops.checks import check_inputs, check_integer, floating_dtype
from .parameters import count, format_counts, frozen_copy, read_only


class LoRALinear:
    """y = x W^T + b + scale (xd A^T) B^T, where xd is x in evaluation and x o mask in training.

    in_features, out_features, rank: at least 1.
    alpha: any finite number; by default the rank, so that the scale alpha / rank is 1.
    use_rslora: the scale is alpha / sqrt(rank).
    dropout: 0 <= dropout < 1, on the low-rank path only. It acts in calls that are given a generator.
    weight: (out, in), copied. By default it is drawn from U(-1/sqrt(in), 1/sqrt(in)), as in torch.nn.Linear.
    bias: False for none, True to draw one in the same way, or an array (out,), which is copied. Weight and bias are
        frozen: their arrays are read-only.
    init: how A is drawn, "course", "kaiming" or "gaussian" (see lora/init.py). B is 0, so a new layer equals its base.
    rng: a Generator or an integer seed; with None the numbers differ every time. A is drawn first, so it is the same
        whether a weight is given or not.
    dtype: of all parameters, a real floating dtype. A call follows NumPy's promotion of x and the parameters.

    Attributes: W, b (or None), A, B, rank, alpha, scale, dropout, in_features, out_features, and the properties below.
    Raises TypeError and ValueError for arguments that do not fit together.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        *,
        alpha: float | None = None,
        use_rslora: bool = False,
        dropout: float = 0.0,
        bias: Any = False,
        init: str = "course",
        rng: np.random.Generator | int | None = None,
        dtype: Any = np.float32,
        weight: Any = None,
    ) -> None:
        self.in_features = check_integer("in_features", in_features, 1)
        self.out_features = check_integer("out_features", out_features, 1)
        self.rank = check_integer("rank", rank, 1)
        self.alpha = self.rank if alpha is None else check_alpha(alpha)
        self.scale = lora_scale(self.rank, self.alpha, use_rslora)
        self.dropout = check_dropout(dropout)
        dtype, rng = floating_dtype(dtype), np.random.default_rng(rng)

        shape = (self.out_features, self.in_features)
        self.A, self.B = factors(*shape, self.rank, init, rng, dtype)
        if weight is None:
            weight = uniform(shape, self.in_features, rng, dtype)
        self.W = frozen_copy("weight", weight, shape, dtype)
        if bias is True:
            bias = uniform(shape[:1], self.in_features, rng, dtype)
        no_bias = bias is None or bias is False
        self.b = None if no_bias else frozen_copy("bias", bias, shape[:1], dtype)
        self._merged_weight: np.ndarray | None = None

    def __call__(self, x: Any, *, rng: np.random.Generator | None = None) -> tuple[Any, ops.Pullback]:
        """y, pullback = layer(x); pullback(dy) -> {"x": dx, "A": dA, "B": dB}.

        Shapes: x (..., in) -> y (..., out). Without rng the call is evaluation, and dropout is the identity. With rng
        it is training: if dropout is not 0, a new mask is drawn from rng. The layer has no other switch, so training
        without rng is training without dropout.

        While the layer is merged, the call is ops.linear, and its pullback differentiates x alone.
        Raises TypeError and ValueError for an x that does not fit, and ValueError for an rng while merged if dropout is
        not 0.
        """
        check_inputs(W=(self.W, "out in"), x=(x, "... in"))  # W first, so that an error names x
        rng = rng if self.dropout else None  # with nothing to drop, training and evaluation are the same
        if self._merged_weight is not None:
            if rng is not None:
                raise ValueError("rng is given, expected None while merged: dropout needs the low-rank path")
            y, pullback = ops.linear(x, self._merged_weight, self.b)
            return y, _MergedPullback(pullback, y, inputs=("x",))
        mask = None if rng is None else dropout_mask(x.shape, self.dropout, rng, x.real.dtype)
        return ops.lora_linear(x, self.W, self.A, self.B, scale=self.scale, b=self.b, mask=mask)

    @property
    def trainable(self) -> dict[str, np.ndarray]:
        """The layer's own arrays that training changes, not copies, under the names of their gradients."""
        return {"A": self.A, "B": self.B}

    @property
    def frozen(self) -> dict[str, np.ndarray]:
        """The arrays that training leaves alone."""
        return {"W": self.W} if self.b is None else {"W": self.W, "b": self.b}

    @property
    def n_trainable(self) -> int:
        """The number of trained parameters, r (in + out)."""
        return count(self.trainable)

    @property
    def n_frozen(self) -> int:
        """The number of frozen parameters: in x out, plus out for a bias."""
        return count(self.frozen)

    @property
    def merged(self) -> bool:
        """Whether the layer computes with the merged weight."""
        return self._merged_weight is not None

    def merge(self) -> None:
        """Compute with W' = W + s B A from now on: one product, no low-rank path, no gradient for A and B.

        W' is computed from the A and B of this moment. W, A and B are kept, because W cannot be recovered from W': in
        floating point (W + D) - D is not exactly W. Raises RuntimeError when the layer is merged already.
        """
        if self.merged:
            raise RuntimeError("the layer is merged already, expected unmerge() before another merge()")
        merged_weight, _ = ops.merge(self.W, self.A, self.B, scale=self.scale)
        self._merged_weight = read_only(merged_weight)

    def unmerge(self) -> None:
        """Drop W' and compute with W and the low-rank path again, bit by bit. Raises RuntimeError when not merged."""
        if not self.merged:
            raise RuntimeError("the layer is not merged, expected merge() before unmerge()")
        self._merged_weight = None

    def __repr__(self) -> str:
        fields = [f"in_features={self.in_features}", f"out_features={self.out_features}", f"rank={self.rank}"]
        fields += [f"alpha={self.alpha}", f"scale={self.scale}"]
        if self.dropout:
            fields.append(f"dropout={self.dropout}")
        if self.merged:
            fields.append("merged")
        return f"LoRALinear({', '.join([*fields, format_counts(self.n_trainable, self.n_frozen)])})"


class _MergedPullback(ops.Pullback):
    """The pullback of a merged layer. When asked for dA or dB, it says why it has none."""

    __slots__ = ()

    def __call__(self, dy: Any, wrt: Iterable[str] | None = None) -> dict[str, Any]:
        if wrt is not None and not isinstance(wrt, str):  # the base class refuses a string
            wrt = tuple(wrt)
            if missing := ", ".join(name for name in ("A", "B") if name in wrt):
                raise ValueError(f"wrt names {missing}, expected x alone until unmerge(): A and B are merged")
        return super().__call__(dy, wrt)
