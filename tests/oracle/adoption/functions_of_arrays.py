"""Functions of named arrays that return y alone, right and wrong, in torch, JAX and NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import torch


def numpy_right(x, W, A, B, alpha, r):
    return np.asarray(x @ W.T + alpha / r * (x @ A.T) @ B.T)


def numpy_no_scale(x, W, A, B, scale=1.0):
    return np.dot(x, W.T + np.dot(B, A).T)


def lora_linear(x: torch.Tensor, weight, lora_A, lora_B, scaling):
    return torch.nn.functional.linear(x, weight) + scaling * (x @ lora_A @ lora_B)


def torch_path_floor(x, A, B, alpha, r):
    return alpha // r * torch.matmul(torch.matmul(x, A.T), B.T)


def torch_detached(x, W, A, B, alpha, r):
    return torch.matmul(x, W.T) + alpha / r * x @ A.T.detach() @ B.T


@jax.jit
def jax_bias(x, w, a, b, bias=None, alpha=16.0, rank=8):
    y = jnp.dot(x, w)
    y = y if bias is None else y + bias
    return y + alpha / rank * (x @ a @ b)


def jax_mask(x, W, A, B, mask=None, alpha=16.0, r=8):
    dropped = x if mask is None else jnp.multiply(x, mask)
    return x @ W.T + (dropped @ A.T @ B.T) * alpha / r


def raises(x: np.ndarray, W, A, B):
    return x @ W.T + x @ (B @ A)
