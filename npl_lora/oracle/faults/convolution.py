"""Faults of convolutions with LoRA."""

from ...ops import Pullback
from .fault import Fault
from .wraps import with_arguments


def _with_settings_of_A(**low_rank_path):
    """A's convolution has some settings of its own; W's convolution has those of the question."""

    def wrap(op):
        def wrong(x, W, A, B, *, scale, ops, **settings):
            base, base_pullback = op(x, W, A, B * 0.0, scale=scale, ops=ops, **settings)
            low, low_pullback = op(x, W * 0.0, A, B, scale=scale, ops=ops, **{**settings, **low_rank_path})
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


def _flip(t):
    return t[:, :, ::-1, ::-1]


def _convolve(op):
    """A true convolution: the kernels are rotated by half a turn."""

    def wrong(x, W, A, B, **settings):
        y, pullback = op(x, _flip(W), _flip(A), B, **settings)

        def gradients(dy, wrt):
            grads = pullback(dy, wrt=wrt)
            return {**grads, **{name: _flip(grads[name]) for name in ("A", "W") if name in grads}}

        return y, Pullback(gradients, y, pullback.inputs, pullback.frozen)

    return wrong


FAULTS = [
    Fault(
        "M14",
        says="A's convolution ignores the dilation: it is built with dilation 1",
        wrong="conv(x, A) with dilation 1",
        right="conv(x, A) with W's dilation",
        hidden_when="the dilation is 1",
        seen_in="huggingface/peft#3697, #3758",
        parts={"lora_conv2d": _with_settings_of_A(dilation=(1, 1))},
    ),
    Fault(
        "C1",
        says="the kernels are rotated by half a turn: a true convolution instead of a cross-correlation",
        wrong="sum over (i, j) of x[h - i, w - j] W[i, j]",
        right="sum over (i, j) of x[h + i, w + j] W[i, j]",
        hidden_when="the kernel is 1 x 1",
        seen_in="frameworks, which differ in what they call a convolution",
        parts={"lora_conv2d": _convolve},
    ),
    Fault(
        "C2",
        says="the strides of rows and columns are swapped",
        wrong="stride (sw, sh)",
        right="stride (sh, sw)",
        hidden_when="both strides are equal",
        seen_in="hand-written convolutions",
        parts={"lora_conv2d": with_arguments(stride=lambda a: tuple(reversed(a.stride)))},
    ),
    Fault(
        "C3",
        says="the padding of rows and columns is swapped",
        wrong="padding (pw, ph)",
        right="padding (ph, pw)",
        hidden_when="both paddings are equal",
        seen_in="hand-written convolutions",
        parts={"lora_conv2d": with_arguments(padding=lambda a: tuple(reversed(a.padding)))},
    ),
]
