"""Write tests/models/bitsandbytes.json: small weights as bitsandbytes stores them in 4 bits, and what it decodes.

    pip install bitsandbytes==0.50.2
    cd tests && PYTHONPATH=. python models/record_bitsandbytes.py

(On a CPU that version decodes rows shorter than a block wrongly: no such weight is recorded.)
"""

import base64
import json
from importlib.metadata import version
from pathlib import Path

import torch
from bitsandbytes import functional

FILE = Path(__file__).with_name("bitsandbytes.json")
CASES = [
    ("nf4", False, torch.bfloat16, (6, 37), 64),
    ("nf4", True, torch.bfloat16, (5, 67), 64),
    ("fp4", True, torch.float16, (3, 128), 32),
    ("nf4", True, torch.float32, (9, 131), 128),
]


def as_text(tensor):
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    array = tensor.numpy()
    return {"dtype": array.dtype.name, "shape": array.shape, "bytes": base64.b64encode(array.tobytes()).decode()}


def record():
    torch.manual_seed(0)
    cases = []
    for kind, nested, dtype, shape, block in CASES:
        W = (0.1 * torch.randn(shape)).to(dtype)
        packed, state = functional.quantize_4bit(W, blocksize=block, compress_statistics=nested, quant_type=kind)
        arrays = {"W.weight": packed} | {f"W.weight.{k}": t for k, t in state.as_dict(packed=True).items()}
        right = functional.dequantize_4bit(packed, state)
        cases.append({"arrays": {name: as_text(t) for name, t in arrays.items()}, "decoded": as_text(right)})
    return {"made_with": {name: version(name) for name in ("torch", "bitsandbytes")}, "cases": cases}


if __name__ == "__main__":
    FILE.write_text(json.dumps(record(), indent=1) + "\n")
