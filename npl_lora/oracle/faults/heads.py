"""Faults of attention's heads: how features are cut into heads and joined, and how grouped heads share keys."""

import functools

from ...ops import Pullback
from ...ops.compose import join_heads, split_heads
from .fault import Fault
from .wraps import ATTENTION, with_parts


def _viewed(t, D):
    """(..., T, H D) cut by view(..., H, T, D) without a transpose, and joined rightly."""
    view = t.__array_namespace__().reshape(t, (*t.shape[:-2], t.shape[-1] // D, t.shape[-2], D))
    return join_heads(view)[0]


def _viewed_back(t, D):
    """(..., T, H D) cut rightly, and joined by view(..., T, H D) without a transpose. It undoes _viewed."""
    return t.__array_namespace__().reshape(split_heads(D)(t)[0], t.shape)


def _cut_as_features_by_heads(t, D):
    """Head h gets the features h, h + H, h + 2 H, ...: the rows of a (D, H) for an (H, D)."""
    return _transposed(t, D)


def _joined_as_features_by_heads(t, D):
    return _transposed(t, t.shape[-1] // D)


def _transposed(t, rows):
    """The features of each token, as a matrix of so many rows, transposed."""
    xp = t.__array_namespace__()
    return xp.reshape(xp.reshape(t, (*t.shape[:-1], rows, t.shape[-1] // rows)).mT, t.shape)


def _at_the_split(change, undo):
    """q, k and v changed before they are cut into heads, and their gradients changed back."""

    def parts(arrays, config):
        D = arrays["Wq"].shape[0] // config["n_heads"]

        def projected(op):
            @functools.wraps(op)
            def wrong(x, W, *args, **how):
                y, pullback = op(x, W, *args, **how)
                if W is arrays["Wo"]:
                    return y, pullback
                y, inputs, frozen = change(y, D), pullback.inputs, pullback.frozen
                return y, Pullback(lambda dy, wrt: pullback(undo(dy, D), wrt=wrt), y, inputs, frozen)

            return wrong

        return {"lora_linear": projected, "dora_linear": projected}

    return dict.fromkeys(ATTENTION, with_parts(parts))


def _at_the_join(change, undo):
    """The joined heads changed before they enter Wo, and their gradient changed back."""

    def parts(arrays, config):
        D = arrays["Wq"].shape[0] // config["n_heads"]

        def projected(op):
            @functools.wraps(op)
            def wrong(x, W, *args, **how):
                if W is not arrays["Wo"]:
                    return op(x, W, *args, **how)
                y, pullback = op(change(x, D), W, *args, **how)

                def gradients(dy, wrt):
                    grads = pullback(dy, wrt=wrt)
                    return {**grads, "x": undo(grads["x"], D)} if "x" in grads else grads

                return y, Pullback(gradients, y, pullback.inputs, pullback.frozen)

            return wrong

        return {"lora_linear": projected, "dora_linear": projected}

    return dict.fromkeys(ATTENTION, with_parts(parts))


def _with_group_gradients(grouped):
    """The right value, and gradients of k and v by grouped(those of each query head, G)."""

    def wrap(op):
        @functools.wraps(op)
        def wrong(q, k, v, **settings):
            H, G = q.shape[-3], k.shape[-3]
            y, right = op(q, k, v, **settings)
            own = [h // (H // G) for h in range(H)]
            _, each = op(q, k[..., own, :, :], v[..., own, :, :], **settings)

            def gradients(dy, wrt):
                of_heads = each(dy, wrt=wrt & {"k", "v"})
                return {**right(dy, wrt=wrt), **{name: grouped(grad, G) for name, grad in of_heads.items()}}

            return y, Pullback(gradients, y, right.inputs)

        return wrong

    return wrap


def _first_of_group(grad, G):
    return grad[..., [g * (grad.shape[-3] // G) for g in range(G)], :, :]


def _as_if_tiled(grad, G):
    return sum(grad[..., [first + g for g in range(G)], :, :] for first in range(0, grad.shape[-3], G))


def _first_head_for_all(op):
    @functools.wraps(op)
    def wrong(q, k, v, **settings):
        first = [0] * k.shape[-3]
        y, pullback = op(q, k[..., first, :, :], v[..., first, :, :], **settings)

        def to_the_first(grad):
            xp = grad.__array_namespace__()
            total = xp.sum(grad, axis=-3, keepdims=True)
            return xp.concat((total, xp.zeros_like(grad[..., 1:, :, :])), axis=-3)

        def gradients(dy, wrt):
            grads = pullback(dy, wrt=wrt)
            return {name: grad if name == "q" else to_the_first(grad) for name, grad in grads.items()}

        return y, Pullback(gradients, y, pullback.inputs)

    return wrong


FAULTS = [
    Fault(
        "A11",
        says="q, k and v are cut into heads without moving the head axis, so a head gets pieces of several tokens",
        wrong="q.view(B, H, T, D)",
        right="q.view(B, T, H, D).transpose(1, 2)",
        hidden_when="there is one head or one token",
        seen_in="reczoo/FuxiCTR#30; 649453932/Chinese-Text-Classification-Pytorch#53",
        answers=_at_the_split(_viewed, _viewed_back),
    ),
    Fault(
        "A11",
        variant="join",
        says="the heads are joined without moving the head axis back, so a token gets pieces of several tokens",
        wrong="z.view(B, T, H D)",
        right="z.transpose(1, 2).view(B, T, H D)",
        hidden_when="there is one head or one token",
        seen_in="jsbaan/transformer-from-scratch#6; ajhalthor/Transformer-Neural-Network#4",
        answers=_at_the_join(_viewed_back, _viewed),
    ),
    Fault(
        "A12",
        says="q, k and v are cut into heads as (D, H): head h gets every H-th feature",
        wrong="q.view(B, T, D, H)",
        right="q.view(B, T, H, D)",
        hidden_when="H = 1 or D = 1",
        seen_in="hand-written attention",
        answers=_at_the_split(_cut_as_features_by_heads, _joined_as_features_by_heads),
    ),
    Fault(
        "A12",
        variant="join",
        says="the heads are joined as (D, H): every H-th feature is of one head",
        wrong="feature d H + h of Wo's input is z[h, d]",
        right="feature h D + d of Wo's input is z[h, d]",
        hidden_when="H = 1 or D = 1",
        seen_in="hand-written attention",
        answers=_at_the_join(_joined_as_features_by_heads, _cut_as_features_by_heads),
    ),
    Fault(
        "A13",
        says="the gradient of a shared key/value head is that of the first query head of its group",
        wrong="dk_g = dk of query head g H / G",
        right="dk_g = the sum over the query heads of group g, dv_g likewise",
        hidden_when="there are as many key/value heads as query heads",
        seen_in="hand-written backward passes of attention",
        parts={"attention": _with_group_gradients(_first_of_group)},
    ),
    Fault(
        "A13",
        variant="tiled",
        says="the gradients of shared key/value heads are summed over the query heads h mod G, not h // (H / G)",
        wrong="dk_g = the sum over the query heads g, g + G, ..., dv_g likewise",
        right="dk_g = the sum over the query heads g H / G ... (g + 1) H / G - 1, dv_g likewise",
        hidden_when="G = 1 or G = H",
        seen_in="hand-written backward passes of attention",
        parts={"attention": _with_group_gradients(_as_if_tiled)},
    ),
    Fault(
        "A14",
        says="all query heads use key/value head 0",
        wrong="softmax(q_h k_0^T / sqrt(D)) v_0",
        right="softmax(q_h k_g^T / sqrt(D)) v_g with g = h // (H / G)",
        hidden_when="G = 1",
        seen_in="PSAL-POSTECH/ONNXim#34",
        parts={"attention": _first_head_for_all},
    ),
]
