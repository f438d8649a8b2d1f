"""transformers in float64 throughout: one patch, by name.

Its models compute RMSNorm, rotary tables, eager softmax and the loss in float32 whatever the weights' dtype is. Inside
`islands_in_float64()` torch.float32 is float64 and Tensor.float is Tensor.double, so that those parts, which name them,
are float64 too, and so is what is made of whole numbers. `in_float64(model)` makes the frequencies anew: they were made
in float32 with the model.
"""

import contextlib

import torch


@contextlib.contextmanager
def islands_in_float64():
    saved = torch.float32, torch.float, torch.Tensor.float
    torch.float32 = torch.float = torch.float64
    torch.Tensor.float = torch.Tensor.double
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(saved[0])
        torch.float32, torch.float, torch.Tensor.float = saved


def in_float64(model):
    """The model in float64, its rotary frequencies too."""
    model = model.double().eval()
    with islands_in_float64():
        for module in model.modules():
            names = [name for name in module._buffers if name.endswith("inv_freq")]
            anew = type(module)(module.config) if names else module
            for name in names:
                setattr(module, name, torch.nn.Buffer(getattr(anew, name).double(), persistent=False))
    return model
