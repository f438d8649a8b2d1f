"""Faults of attention and of the gated MLP around LoRA."""

from ...ops import Pullback
from .fault import Fault, backward, given


def _tiled(op):
    """Head h takes key/value head h mod G, where it should take h // (H / G)."""

    def wrong(q, k, v, **how):
        H, G = q.shape[-3], k.shape[-3]
        order = sorted(range(H), key=lambda h: (h % G, h // G))
        back = sorted(range(H), key=lambda i: order[i])
        y, pullback = op(q[..., order, :, :], k, v, **how)

        def gradients(dy, wrt):
            grads = pullback(dy[..., order, :, :], wrt=wrt)
            return {**grads, "q": grads["q"][..., back, :, :]} if "q" in grads else grads

        return y[..., back, :, :], Pullback(gradients, y, pullback.inputs)

    return wrong


def _no_rotation(op):
    def wrong(x, **how):
        return x, Pullback(lambda dy, wrt: {"x": dy} if "x" in wrt else {}, x, inputs=("x",))

    return wrong


def _mirrored(x):
    """The second half negated: turning by phi between two of these is turning by -phi."""
    half = x.shape[-1] // 2
    return x.__array_namespace__().concat((x[..., :half], -x[..., half:]), axis=-1)


def _turned_back(op):
    def wrong(x, **how):
        y, pullback = op(_mirrored(x), **how)
        gradients = lambda dy, wrt: {"x": _mirrored(pullback(_mirrored(dy))["x"])}  # noqa: E731
        return _mirrored(y), Pullback(gradients, y, inputs=("x",))

    return wrong


def _default_scale(a):
    return a.q.shape[-1] ** -0.5


FAULTS = [
    Fault(
        "T11",
        "with a padding mask the causal mask is lost: the future is visible",
        "visible = key_mask",
        "visible = key_mask and causal",
        "no padding, or no causal mask",
        "unslothai/unsloth-zoo#963",
        parts={"attention": given(causal=lambda a: a.causal and a.key_mask is None)},
    ),
    Fault(
        "T13",
        "key/value heads are tiled over the heads, h mod G, where consecutive heads share one, h // (H / G)",
        "[kv0, kv1, kv0, kv1]",
        "[kv0, kv0, kv1, kv1]",
        "G = 1 or G = H",
        "apple/axlearn#842; ekzhang/jax-js#180; onnx/onnx#7274",
        parts={"attention": _tiled},
    ),
    Fault(
        "T14",
        "scores are not divided by sqrt(D)",
        "softmax(q k^T)",
        "softmax(q k^T / sqrt(D))",
        "D = 1",
        "NVIDIA/Megatron-LM#848",
        parts={"attention": given(scale=lambda a: 1.0)},
    ),
    Fault(
        "T14",
        "scores are divided by sqrt(D) twice",
        "softmax(q k^T / D)",
        "softmax(q k^T / sqrt(D))",
        "D = 1",
        "NVIDIA/Megatron-LM#848",
        variant="twice",
        parts={"attention": given(scale=lambda a: 1.0 / a.q.shape[-1])},
    ),
    Fault(
        "T14",
        "the backward of attention lacks 1 / sqrt(D)",
        "dq = dS k",
        "dq = dS k / sqrt(D)",
        "D = 1",
        "ServiceNow/Fast-LLM#228",
        variant="backward",
        parts={
            "attention": backward(q=lambda g, a: g / _default_scale(a), k=lambda g, a: g / _default_scale(a)),
        },
    ),
    Fault(
        "A1",
        "the causal mask is not applied",
        "every key visible",
        "keys up to the query's position visible",
        "no test with causal",
        "unslothai/unsloth-zoo#963",
        parts={"attention": given(causal=lambda a: False)},
    ),
    Fault(
        "A2",
        "key_mask is ignored: padding is attended to",
        "every key visible",
        "keys with key_mask true visible",
        "no padding",
        "MeetKai/functionary#265",
        parts={"attention": given(key_mask=lambda a: None)},
    ),
    Fault(
        "A3",
        "rope is not applied",
        "q k^T",
        "(R q) (R k)^T",
        "rope_theta null",
        "hand-written attention invites it",
        parts={"rope": _no_rotation},
    ),
    Fault(
        "A4",
        "rope turns the other way: the signs of sin are exchanged",
        "u_a cos + u_b sin",
        "u_a cos - u_b sin",
        "one position",
        "hand-written attention invites it",
        parts={"rope": _turned_back},
    ),
    Fault(
        "A5",
        "rope's own backward turns forwards: it should turn by -phi",
        "dx = R dy",
        "dx = R^T dy",
        "a test that asks for the value only",
        "hand-written attention invites it",
        parts={"rope": lambda op: _forward_again(op)},
    ),
    Fault(
        "A6",
        "rope's base is 10000 whatever rope_theta says",
        "theta = 10000",
        "theta = rope_theta",
        "rope_theta = 10000",
        "hand-written attention invites it",
        parts={"rope": given(theta=lambda a: 10000.0)},
    ),
    Fault(
        "G1",
        "GELU is computed by its tanh approximation where the exact one is asked",
        "z (1 + tanh(...)) / 2",
        "z Phi(z)",
        "activation gelu_tanh",
        "hand-written MLPs invite it",
        parts={"glu": given(activation=lambda a: {"gelu": "gelu_tanh"}.get(a.activation, a.activation))},
    ),
    Fault(
        "G1",
        "GELU is computed exactly where its tanh approximation is asked",
        "z Phi(z)",
        "z (1 + tanh(...)) / 2",
        "activation gelu",
        "hand-written MLPs invite it",
        variant="exact",
        parts={"glu": given(activation=lambda a: {"gelu_tanh": "gelu"}.get(a.activation, a.activation))},
    ),
    Fault(
        "G2",
        "the activation is SiLU whatever the configuration says",
        "silu(gate) o up",
        "act(gate) o up",
        "activation silu",
        "foundation-model-stack/fms-acceleration#97",
        parts={"glu": given(activation=lambda a: "silu")},
    ),
]


def _forward_again(op):
    def wrong(x, **how):
        y, right = op(x, **how)
        return y, Pullback(lambda dy, wrt: {"x": op(dy, **how)[0]}, y, right.inputs)

    return wrong
