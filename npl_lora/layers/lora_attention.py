"""LoRAAttention: frozen multi-head self-attention, with a trainable low-rank path next to each projection.

    q, k, v = L_q(x), L_k(x), L_v(x);  y = L_o(attention(q, k, v)),  L_n(z) = z W_n^T + s (z A_n^T) B_n^T

The mathematics, forward and backward, is ops.lora_attention's. This file holds the arrays.

Source: Hu et al. 2021, section 4.2; Vaswani et al. 2017, section 3.2.2; Ainslie et al. 2023 for groups.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import ops
from ..lora.init import factors, uniform
from ..lora.scale import check_alpha, lora_scale
from ..ops.checks import check_inputs, check_integer, floating_dtype
from .parameters import count, format_counts, frozen_copy


class LoRAAttention:
    """Self-attention over x (..., T, C) with LoRA on q, k, v and o, without bias and dropout.

    embed_dim: C, which is the number of heads H = n_heads times the head size D.
    n_kv_heads: G, which divides H; by default H. With fewer it is grouped-query attention.
    causal: position t sees the positions up to t.
    rope_theta: the base of rope, None for no rope. With rope, D must be even.
    weights: a mapping with Wq (C, C), Wk and Wv (G D, C) and Wo (C, C), which are copied. By default each is drawn from
        U(-1/sqrt(C), 1/sqrt(C)).
    rank, alpha, use_rslora, init, rng, dtype: as in LoRALinear.

    Attributes: trainable {"A_q", "B_q", ..., "B_o"} and frozen {"Wq", "Wk", "Wv", "Wo"} are the layer's own arrays,
    which a call reads; and rank, alpha, scale, embed_dim, n_heads, n_kv_heads, causal, rope_theta. Raises TypeError and
    ValueError for arguments that do not fit together.
    """

    def __init__(
        self,
        embed_dim: int,
        n_heads: int,
        rank: int,
        *,
        n_kv_heads: int | None = None,
        alpha: float | None = None,
        use_rslora: bool = False,
        causal: bool = True,
        rope_theta: float | None = None,
        init: str = "course",
        rng: np.random.Generator | int | None = None,
        dtype: Any = np.float32,
        weights: Mapping[str, Any] | None = None,
    ) -> None:
        self.embed_dim = check_integer("embed_dim", embed_dim, 1)
        self.n_heads = check_integer("n_heads", n_heads, 1)
        self.n_kv_heads = self.n_heads if n_kv_heads is None else check_integer("n_kv_heads", n_kv_heads, 1)
        if self.embed_dim % self.n_heads:
            raise ValueError(f"embed_dim is {embed_dim}, expected a multiple of n_heads = {n_heads}")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_heads is {n_heads}, expected a multiple of n_kv_heads = {n_kv_heads}")
        self.causal, self.rope_theta = causal, rope_theta
        self.rank = check_integer("rank", rank, 1)
        self.alpha = self.rank if alpha is None else check_alpha(alpha)
        self.scale = lora_scale(self.rank, self.alpha, use_rslora)
        dtype, rng = floating_dtype(dtype), np.random.default_rng(rng)

        C, kv = self.embed_dim, self.n_kv_heads * (self.embed_dim // self.n_heads)
        rows = {"q": C, "k": kv, "v": kv, "o": C}
        self.trainable: dict[str, np.ndarray] = {}
        for n, out in rows.items():
            self.trainable[f"A_{n}"], self.trainable[f"B_{n}"] = factors(out, C, self.rank, init, rng, dtype)
        if weights is None:
            weights = {f"W{n}": uniform((out, C), C, rng, dtype) for n, out in rows.items()}
        if set(weights) != {f"W{n}" for n in rows}:
            got = ", ".join(sorted(weights)) or "nothing"
            raise ValueError(f"weights has {got}, expected Wq, Wk, Wv and Wo")
        self.frozen: dict[str, np.ndarray] = {}
        for n, out in rows.items():
            self.frozen[f"W{n}"] = frozen_copy(f"W{n}", weights[f"W{n}"], (out, C), dtype)

    def __call__(self, x: Any, key_mask: Any = None) -> tuple[Any, ops.Pullback]:
        """y, pullback = layer(x); pullback(dy) -> {"x": dx, "A_q": dA_q, "B_q": dB_q, ..., "B_o": dB_o}.

        Shapes: x (..., T, C), key_mask (..., T) -> y (..., T, C). key_mask is bool, True where a key may be seen, or
        None. Raises TypeError and ValueError for an x or a key_mask that does not fit.
        """
        check_inputs(Wq=(self.frozen["Wq"], "HD C"), x=(x, "... T C"))  # Wq first, so that an error names x
        return ops.lora_attention(
            x,
            **self.frozen,
            **self.trainable,
            scale=self.scale,
            n_heads=self.n_heads,
            n_kv_heads=self.n_kv_heads,
            causal=self.causal,
            rope_theta=self.rope_theta,
            key_mask=key_mask,
        )

    @property
    def n_trainable(self) -> int:
        """The number of trained parameters: r (in + out), summed over the four projections."""
        return count(self.trainable)

    @property
    def n_frozen(self) -> int:
        """The number of frozen parameters."""
        return count(self.frozen)

    def __repr__(self) -> str:
        fields = [f"embed_dim={self.embed_dim}", f"n_heads={self.n_heads}", f"n_kv_heads={self.n_kv_heads}"]
        fields += [f"rank={self.rank}", f"alpha={self.alpha}", f"scale={self.scale}"]
        return f"LoRAAttention({', '.join([*fields, format_counts(self.n_trainable, self.n_frozen)])})"
