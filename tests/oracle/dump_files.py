"""Writing dumps for tests: a lora_linear step with answers computed here in plain NumPy, and any case with answers."""

import json

import ml_dtypes  # noqa: F401 (NumPy knows bfloat16 by its name from here on)
import numpy as np
from oracle.variants import plain
from safetensors.numpy import save_file

from npl_lora.oracle import Case

LORA = {"r": 3, "alpha": 7.0, "use_rslora": False}


def metadata(contract="lora_linear", dtype="float32", config=LORA, **more):
    about = {"protocol": "1", "contract": contract, "id": f"{contract}/step/{dtype}", "dtype": dtype}
    return {**about, "config": json.dumps(config), **more}


def step(dtype="float32", leading=(4, 16), in_=40, out=50, r=3, seed=0, mask=False, bias=True, **config):
    """A step in general position: {name: array} with inputs and right answers, rounded to dtype at every store."""
    rng = np.random.default_rng(seed)

    def normal(*shape, std=1.0):
        return (std * rng.standard_normal(shape)).astype(dtype)

    arrays = {"x": normal(*leading, in_), "W": normal(out, in_, std=in_**-0.5), "A": normal(r, in_, std=in_**-0.5)}
    arrays |= {"B": normal(out, r, std=r**-0.5), "dy": normal(*leading, out)}
    if bias:
        arrays["b"] = normal(out)
    if mask:
        arrays["mask"] = (2.0 * (rng.random((*leading, in_)) < 0.5)).astype(dtype)
    case = Case("lora_linear", "step", dtype, {**LORA, "r": r, **config}, arrays)
    return {**arrays, **plain(case)}


def write(path, arrays, **about):
    """The dump at path."""
    save_file({name: np.array(array, order="C") for name, array in arrays.items()}, path, metadata(**about))
    return path
