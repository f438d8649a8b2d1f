"""Faults of convolutions with LoRA."""

from ...ops import Pullback
from .fault import Fault, given


def _apart(**low_rank_path):
    """A's convolution with some settings of its own, where W has those that are asked."""

    def wrap(op):
        def wrong(x, W, A, B, *, scale, ops, **how):
            base, base_pullback = op(x, W, A, B * 0.0, scale=scale, ops=ops, **how)
            low, low_pullback = op(x, W * 0.0, A, B, scale=scale, ops=ops, **{**how, **low_rank_path})
            if low.shape != base.shape:
                raise ValueError(f"the paths have shapes {base.shape} and {low.shape}")
            y = base + low

            def gradients(dy, wrt):
                grads = low_pullback(dy, wrt=wrt)
                if "x" in wrt:
                    grads["x"] = grads["x"] + base_pullback(dy, wrt=("x",))["x"]
                return grads

            return y, Pullback(gradients, y, low_pullback.inputs, low_pullback.frozen)

        return wrong

    return wrap


def _flipped(t):
    return t[:, :, ::-1, ::-1]


def _convolution(op):
    """A true convolution: the kernels turned by half a turn."""

    def wrong(x, W, A, B, **how):
        y, pullback = op(x, _flipped(W), _flipped(A), B, **how)

        def gradients(dy, wrt):
            grads = pullback(dy, wrt=wrt)
            return {**grads, **{name: _flipped(grads[name]) for name in ("A", "W") if name in grads}}

        return y, Pullback(gradients, y, pullback.inputs, pullback.frozen)

    return wrong


FAULTS = [
    Fault(
        "M14",
        "A's convolution is built without the dilation: it has dilation 1",
        "conv(x, A) with dilation 1",
        "conv(x, A) with W's dilation",
        "dilation 1",
        "huggingface/peft#3697, #3758",
        parts={"lora_conv2d": _apart(dilation=(1, 1))},
    ),
    Fault(
        "C1",
        "the kernels are turned by half a turn: a convolution in the strict sense, where cross-correlation is asked",
        "sum over (i, j) of x[h - i, w - j] W[i, j]",
        "sum over (i, j) of x[h + i, w + j] W[i, j]",
        "a kernel of one",
        "frameworks differ in the name",
        parts={"lora_conv2d": _convolution},
    ),
    Fault(
        "C2",
        "strides for rows and columns are exchanged",
        "stride (sw, sh)",
        "stride (sh, sw)",
        "equal strides",
        "hand-written convolutions invite it",
        parts={"lora_conv2d": given(stride=lambda a: tuple(reversed(a.stride)))},
    ),
    Fault(
        "C3",
        "padding for rows and columns is exchanged",
        "padding (pw, ph)",
        "padding (ph, pw)",
        "equal padding",
        "hand-written convolutions invite it",
        parts={"lora_conv2d": given(padding=lambda a: tuple(reversed(a.padding)))},
    ),
]
