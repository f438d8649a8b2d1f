"""Gemma, Gemma 2 and Gemma 3, as what differs from Llama.

    x_0     = sqrt(C) E[tokens]
    Gemma     the same blocks as Llama's
    Gemma 2   h_i = x_i + norm(attention(norm(x_i))),  x_(i+1) = h_i + norm(mlp(norm(h_i)))
              scores are over sqrt(query_pre_attn_scalar) in the place of sqrt(D); every second layer has a window;
              scores and logits z are c tanh(z / c)
    Gemma 3   as Gemma 2, without the c; q and k are normalised by head; five layers of six have a window, and angles
              of their own

Every norm multiplies by 1 + w, and the activation is GELU in its tanh form. Attention and MLP are Llama's.

Derivation. For y = c E[tokens], dE is c times that of E[tokens]. 1 + w changes as w does, so dw is Llama's.

Source: Gemma Team, "Gemma", 2024, section 2; "Gemma 2", 2024, section 2; "Gemma 3 Technical Report", 2025, section 2.
"""

from ..ops import Pullback
from ..ops.compose import Stage, chain, recompute, residual
from ..support.array import Array
from ._cache import Cache
from ._causal import output_layer
from ._gemma_config import EMBEDDING, HEAD, KINDS, NORM, PREFIX, TARGETS, Config, modules, norms
from ._scope import Scope
from .llama import attention, mlp, rms_norm
from .llama import block as llama_block


def block(layer: Scope, config: Config, i: int, key_mask: Array | None, cache: Cache | None) -> Stage:
    """h = x + norm(attention(norm(x))),  y = h + norm(mlp(norm(h))).  x (B, T, C) -> y (B, T, C)."""
    attend = attention(layer.at("self_attn"), config, i, key_mask, cache)
    before, after, before_mlp, after_mlp = (
        rms_norm(layer, config, f"{name}_layernorm")
        for name in ("input", "post_attention", "pre_feedforward", "post_feedforward")
    )
    return chain(
        residual(chain(before, attend, after)), residual(chain(before_mlp, mlp(layer.at("mlp"), config), after_mlp))
    )


def logits(model: Scope, config: Config) -> Stage:
    """x (..., C) -> logits (..., V), within plus and minus config.logit_cap if there is one."""
    head = output_layer(model, HEAD, EMBEDDING)
    if config.logit_cap is None:
        return head
    return chain(head, scaled(1.0 / config.logit_cap), model.activation("tanh"), scaled(config.logit_cap))


def scaled(factor: float) -> Stage:
    """y = factor x, and dx = factor dy."""

    def run(x: Array) -> tuple[Array, Pullback]:
        y = factor * x
        return y, Pullback(lambda dy, wrt: {"x": factor * dy} if "x" in wrt else {}, y, inputs=("x",))

    return run


def hidden(
    model: Scope, config: Config, *, key_mask: Array | None = None, recomputed: bool = False, cache: Cache | None = None
) -> Stage:
    """tokens (B, T) -> the last norm's output (B, T, C). The arguments are those of `_family.CausalFamily.hidden`."""
    make = block if config.has_four_norms else llama_block
    blocks = [make(model.at(f"model.layers.{i}"), config, i, key_mask, cache) for i in range(config.n_layers)]
    return chain(
        model.embedding(EMBEDDING, config.padding_idx),
        scaled(config.width**0.5),
        *(map(recompute, blocks) if recomputed else blocks),
        rms_norm(model, config, NORM),
    )


__all__ = ["EMBEDDING", "HEAD", "KINDS", "PREFIX", "TARGETS", "Config", "hidden", "logits", "modules", "norms"]
