"""Weights in 4 bits in bitsandbytes' layout, with levels of our own."""

import json

import numpy as np

LEVELS = np.linspace(-1.0, 1.0, 16).astype(np.float32)


def packed(name, W, block, nested=False):
    """{key: array} of a weight in 4 bits, and the weight after that. Its dtype is float32."""
    flat = W.reshape(-1)
    blocks = -(-flat.size // block)
    padded = np.append(flat, np.zeros(2 * blocks * block - flat.size, np.float32))
    largest = np.max(np.abs(padded[: blocks * block].reshape(blocks, block)), axis=1)
    state = {"quant_type": "nf4", "blocksize": block, "dtype": "float32", "shape": list(W.shape)}
    arrays = {f"{name}.quant_map": LEVELS, f"{name}.absmax": largest}
    if nested:
        code, offset = np.linspace(-1.0, 1.0, 256).astype(np.float32), 0.25
        index = np.argmin(np.abs(code - (largest[:, None] - offset)), axis=1).astype(np.uint8)
        largest = code[index] + np.float32(offset)
        arrays |= {f"{name}.absmax": index, f"{name}.nested_quant_map": code}
        arrays[f"{name}.nested_absmax"] = np.ones(-(-blocks // 256), np.float32)
        state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": offset}
    scale = np.repeat(largest, block)[: flat.size]
    q = np.argmin(np.abs(LEVELS - (flat / scale)[:, None]), axis=1)
    pairs = np.append(q, 0)[: 2 * -(-q.size // 2)].reshape(-1, 2)
    arrays[name] = (pairs[:, :1] * 16 + pairs[:, 1:]).astype(np.uint8)
    arrays[f"{name}.quant_state.bitsandbytes__nf4"] = np.frombuffer(json.dumps(state).encode(), np.uint8)
    return arrays, (LEVELS[q] * scale).reshape(W.shape)


def all_packed(arrays, nested=False):
    """A checkpoint with its linear layers in 4 bits, and the same decoded."""
    stored, right = {}, {}
    for name, W in arrays.items():
        if name.endswith("_proj.weight"):
            more, right[name] = packed(name, W, 8, nested)
            stored |= more
        else:
            stored[name] = right[name] = W
    return stored, right
