"""Faults of attention and of the gated MLP around LoRA."""

from ...ops import Pullback
from .fault import Fault
from .wraps import with_arguments, with_gradients


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


def _skip_rotation(op):
    def wrong(x, **settings):
        return x, Pullback(lambda dy, wrt: {"x": dy} if "x" in wrt else {}, x, inputs=("x",))

    return wrong


def _mirror(x):
    """Negate the second half. A rotation by phi between two mirrors is a rotation by -phi."""
    half = x.shape[-1] // 2
    return x.__array_namespace__().concat((x[..., :half], -x[..., half:]), axis=-1)


def _rotate_backwards(op):
    def wrong(x, **settings):
        y, pullback = op(_mirror(x), **settings)
        gradients = lambda dy, wrt: {"x": _mirror(pullback(_mirror(dy))["x"])}  # noqa: E731
        return _mirror(y), Pullback(gradients, y, inputs=("x",))

    return wrong


def _default_scale(a):
    return a.q.shape[-1] ** -0.5


def _rotate_forwards_in_backward(op):
    def wrong(x, **settings):
        y, right = op(x, **settings)
        return y, Pullback(lambda dy, wrt: {"x": op(dy, **settings)[0]}, y, right.inputs)

    return wrong


FAULTS = [
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
        "A3",
        says="rope is not applied",
        wrong="q k^T",
        right="(R q) (R k)^T",
        hidden_when="rope_theta is null",
        seen_in="hand-written attention",
        parts={"rope": _skip_rotation},
    ),
    Fault(
        "A4",
        says="rope rotates the other way: the signs of sin are swapped",
        wrong="u_a cos + u_b sin",
        right="u_a cos - u_b sin",
        hidden_when="there is only one position",
        seen_in="hand-written attention",
        parts={"rope": _rotate_backwards},
    ),
    Fault(
        "A5",
        says="the backward of rope rotates forwards by phi instead of back by -phi",
        wrong="dx = R dy",
        right="dx = R^T dy",
        hidden_when="the test checks the value only",
        seen_in="hand-written attention",
        parts={"rope": _rotate_forwards_in_backward},
    ),
    Fault(
        "A6",
        says="rope's base is 10000 whatever rope_theta is",
        wrong="theta = 10000",
        right="theta = rope_theta",
        hidden_when="rope_theta = 10000",
        seen_in="hand-written attention",
        parts={"rope": with_arguments(theta=lambda a: 10000.0)},
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
]
