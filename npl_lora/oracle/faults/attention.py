"""Faults of attention and of the gated MLP around LoRA."""

import functools

import numpy as np

from ...ops import Pullback
from .fault import Fault
from .wraps import ATTENTION, as_numpy, with_arguments, with_gradients, with_parts, with_question


def _tile_heads(op):
    """Query head h uses key/value head h mod G instead of h // (H / G)."""

    def wrong(q, k, v, **settings):
        H, G = q.shape[-3], k.shape[-3]
        order = sorted(range(H), key=lambda h: (h % G, h // G))
        back = sorted(range(H), key=lambda i: order[i])
        y, pullback = op(q[..., order, :, :], k, v, **settings)

        def gradients(dy, wrt):
            grads = pullback(dy[..., order, :, :], wrt=wrt)
            return {**grads, "q": grads["q"][..., back, :, :]} if "q" in grads else grads

        return y[..., back, :, :], Pullback(gradients, y, pullback.inputs)

    return wrong


def _default_scale(a):
    return a.q.shape[-1] ** -0.5


def _scaled_by_width(arrays, config):
    return {"attention": with_arguments(scale=lambda a: arrays["x"].shape[-1] ** -0.5)}


def _scaled_by_share(arrays, config):
    return {"attention": with_arguments(scale=lambda a: (arrays["x"].shape[-1] // config["n_heads"]) ** -0.5)}


def _softmax_plus_one(op):
    """A key of zeros that every query sees, with a value of zeros: its score is 0, and exp(0) = 1."""

    @functools.wraps(op)
    def wrong(q, k, v, *, key_mask=None, **settings):
        xp = k.__array_namespace__()
        k, v = (xp.concat((xp.zeros_like(t[..., :1, :]), t), axis=-2) for t in (k, v))
        if key_mask is not None:
            mask = as_numpy(key_mask)
            key_mask = xp.asarray(np.concatenate((np.ones_like(mask[..., :1]), mask), axis=-1))
        y, pullback = op(q, k, v, key_mask=key_mask, **{**settings, "offset": settings.get("offset", 0) + 1})

        def gradients(dy, wrt):
            grads = pullback(dy, wrt=wrt)
            return {name: grad if name == "q" else grad[..., 1:, :] for name, grad in grads.items()}

        return y, Pullback(gradients, y, pullback.inputs)

    return wrong


def _three_equal_parts(op):
    """One A of 3 r rows, and one B of all rows of q, k and v, which is cut in three as if q, k and v were equally wide.

    That is lora_attention with the whole A for each of the three, and each B as wide as that: zero but for the r
    columns of the part that the row fell to. A_o and B_o get zeros, to have the same rank.
    """

    def wrong(*, A_q, A_k, A_v, A_o, B_q, B_k, B_v, B_o, **others):
        xp, r = A_q.__array_namespace__(), A_q.shape[0]
        B = dict(B_q=B_q, B_k=B_k, B_v=B_v)
        part = iter(_part_of_each_row(sum(b.shape[0] for b in B.values())))
        fell_to = {n: xp.asarray([[next(part)] for _ in range(b.shape[0])]) for n, b in B.items()}
        whole_A = xp.concat((A_q, A_k, A_v), axis=0)
        wide_B = {
            n: xp.concat([xp.where(fell_to[n] == j, b, xp.zeros_like(b)) for j in range(3)], axis=-1)
            for n, b in B.items()
        }
        more_A, more_B = (xp.concat((t, xp.zeros_like(t), xp.zeros_like(t)), axis=a) for t, a in ((A_o, 0), (B_o, -1)))
        y, pullback = op(A_q=whole_A, A_k=whole_A, A_v=whole_A, A_o=more_A, B_o=more_B, **wide_B, **others)

        def gradients(dy, wrt):
            grads = pullback(dy, wrt={*wrt, "A_q", "A_k", "A_v", "A_o", "B_o", *B})
            dA = grads["A_q"] + grads["A_k"] + grads["A_v"]
            found = {**grads, "A_q": dA[:r], "A_k": dA[r : 2 * r], "A_v": dA[2 * r :]}
            found |= {"A_o": grads["A_o"][:r], "B_o": grads["B_o"][:, :r]}
            for n in B:
                shares = [grads[n][:, j * r : (j + 1) * r] for j in range(3)]
                found[n] = xp.where(fell_to[n] == 0, shares[0], xp.where(fell_to[n] == 1, shares[1], shares[2]))
            return {name: found[name] for name in wrt}

        return y, Pullback(gradients, y, pullback.inputs, pullback.frozen)

    return wrong


def _part_of_each_row(rows):
    """0, 1 or 2 for each row: the longer parts come first."""
    lengths = [rows // 3 + (j < rows % 3) for j in range(3)]
    return [j for j, length in enumerate(lengths) for _ in range(length)]


def _with_first_mask(first, *others):
    def masks(arrays, config):
        return {f"mask_{n}": arrays[f"mask_{first}"] for n in others if f"mask_{n}" in arrays}

    return with_question(arrays=masks)


FAULTS = [
    Fault(
        "L15",
        says="the fused B of q, k and v is cut into three equal parts, although k and v are narrower than q",
        wrong="rows (H + 2 G) D / 3 each: q's last rows get A_k's product, k's rows A_v's",
        right="H D rows with A_q, then G D with A_k, then G D with A_v",
        hidden_when="there are as many key/value heads as query heads",
        seen_in="Lightning-AI/litgpt#357; whittle-org/whittle#259",
        parts={"lora_attention": _three_equal_parts},
    ),
    Fault(
        "T11",
        says="the causal mask is lost when there is a padding mask, so queries see the future",
        wrong="visible = key_mask",
        right="visible = key_mask and causal",
        hidden_when="there is no padding, or no causal mask",
        seen_in="unslothai/unsloth-zoo#963",
        parts={"attention": with_arguments(causal=lambda a: a.causal and a.key_mask is None)},
    ),
    Fault(
        "T13",
        says="query head h uses key/value head h mod G instead of h // (H / G)",
        wrong="[kv0, kv1, kv0, kv1]",
        right="[kv0, kv0, kv1, kv1]",
        hidden_when="G = 1 or G = H",
        seen_in="apple/axlearn#842; ekzhang/jax-js#180; onnx/onnx#7274",
        parts={"attention": _tile_heads},
    ),
    Fault(
        "T14",
        says="the scores are not divided by sqrt(D)",
        wrong="softmax(q k^T)",
        right="softmax(q k^T / sqrt(D))",
        hidden_when="D = 1",
        seen_in="NVIDIA/Megatron-LM#848",
        parts={"attention": with_arguments(scale=lambda a: 1.0)},
    ),
    Fault(
        "T14",
        variant="twice",
        says="the scores are divided by sqrt(D) twice",
        wrong="softmax(q k^T / D)",
        right="softmax(q k^T / sqrt(D))",
        hidden_when="D = 1",
        seen_in="NVIDIA/Megatron-LM#848",
        parts={"attention": with_arguments(scale=lambda a: 1.0 / a.q.shape[-1])},
    ),
    Fault(
        "T14",
        variant="backward",
        says="the backward of attention lacks the factor 1 / sqrt(D)",
        wrong="dq = dS k, dk = dS^T q",
        right="dq = dS k / sqrt(D), dk = dS^T q / sqrt(D)",
        hidden_when="D = 1",
        seen_in="ServiceNow/Fast-LLM#228",
        parts={
            "attention": with_gradients(q=lambda g, a: g / _default_scale(a), k=lambda g, a: g / _default_scale(a)),
        },
    ),
    Fault(
        "T14",
        variant="width",
        says="the scores are divided by sqrt(C) of the model's width, not by sqrt(D) of a head's",
        wrong="softmax(q k^T / sqrt(C))",
        right="softmax(q k^T / sqrt(D))",
        hidden_when="C = D",
        seen_in="lucidrains/vit-pytorch#65; karpathy/ng-video-lecture#6; FareedKhan-dev/train-llm-from-scratch#3",
        answers=dict.fromkeys(ATTENTION, with_parts(_scaled_by_width)),
    ),
    Fault(
        "T14",
        variant="share",
        says="the scores are divided by sqrt(C / H) of the model's width C, although a head has another size",
        wrong="softmax(q k^T / sqrt(C / H))",
        right="softmax(q k^T / sqrt(D))",
        hidden_when="C = H D",
        seen_in="hand-written attention with a head size of its own",
        answers=dict.fromkeys(ATTENTION, with_parts(_scaled_by_share)),
    ),
    Fault(
        "T14",
        variant="multiplied",
        says="the scores are multiplied by sqrt(D), not divided",
        wrong="softmax(q k^T sqrt(D))",
        right="softmax(q k^T / sqrt(D))",
        hidden_when="D = 1",
        seen_in="esceptico/perceiver-io#9",
        parts={"attention": with_arguments(scale=lambda a: float(a.q.shape[-1]) ** 0.5)},
    ),
    Fault(
        "A17",
        says="the sum of the softmax has one 1 more, as softmax1 has: a key that is not there",
        wrong="P = exp(Z) / (1 + sum(exp(Z)))",
        right="P = exp(Z) / sum(exp(Z))",
        hidden_when="nothing hides it",
        seen_in="hand-written attention",
        parts={"attention": _softmax_plus_one},
    ),
    Fault(
        "A1",
        says="the causal mask is not applied",
        wrong="visible = all keys",
        right="visible = keys up to the query's position",
        hidden_when="no test is causal",
        seen_in="unslothai/unsloth-zoo#963",
        parts={"attention": with_arguments(causal=lambda a: False)},
    ),
    Fault(
        "A2",
        says="key_mask is ignored, so queries attend to padding",
        wrong="visible = all keys",
        right="visible = keys whose key_mask is true",
        hidden_when="there is no padding",
        seen_in="MeetKai/functionary#265",
        parts={"attention": with_arguments(key_mask=lambda a: None)},
    ),
    Fault(
        "G1",
        says="GELU is computed by its tanh approximation, but the exact one is asked for",
        wrong="z (1 + tanh(...)) / 2",
        right="z Phi(z)",
        hidden_when="the activation is gelu_tanh",
        seen_in="hand-written MLPs",
        parts={"glu": with_arguments(activation=lambda a: {"gelu": "gelu_tanh"}.get(a.activation, a.activation))},
    ),
    Fault(
        "G1",
        variant="exact",
        says="GELU is computed exactly, but its tanh approximation is asked for",
        wrong="z Phi(z)",
        right="z (1 + tanh(...)) / 2",
        hidden_when="the activation is gelu",
        seen_in="hand-written MLPs",
        parts={"glu": with_arguments(activation=lambda a: {"gelu_tanh": "gelu"}.get(a.activation, a.activation))},
    ),
    Fault(
        "G2",
        says="the activation is SiLU whatever the configuration says",
        wrong="silu(gate) o up",
        right="act(gate) o up",
        hidden_when="the activation is silu",
        seen_in="foundation-model-stack/fms-acceleration#97",
        parts={"glu": with_arguments(activation=lambda a: "silu")},
    ),
    Fault(
        "D14",
        says="the projections of one input share a dropout mask, that of the first",
        wrong="x o mask_q for q, k and v",
        right="x o mask_n for each n of q, k, v",
        hidden_when="there is no dropout",
        seen_in="hand-written blocks with fused projections",
        answers={
            "lora_attention_projections": _with_first_mask("q", "k", "v"),
            "lora_mlp_projections": _with_first_mask("gate", "up"),
        },
    ),
]
