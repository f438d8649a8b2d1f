"""Writing safetensors: the same arrays and metadata give the same bytes. (The library orders metadata at random.)

Eight bytes, the length of the header; the header, a JSON object {name: {dtype, shape, data_offsets}} with strings under
`__metadata__`, its names sorted, padded with spaces to a multiple of eight; then the arrays, row-major and
little-endian, those of the widest dtype first, so that each begins at a multiple of its item size, and by name.

Source: https://github.com/huggingface/safetensors#format.
"""

import json
import struct
from collections.abc import Mapping

import numpy as np

_DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "bool": "BOOL"}


def encode(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a safetensors file. Raises KeyError for a dtype that no case has."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    data = b""
    for name in sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name)):
        array, begin = arrays[name], len(data)
        data += _bytes(array)
        header[name] = {
            "dtype": _DTYPES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [begin, len(data)],
        }
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def _bytes(array: np.ndarray) -> bytes:
    """Row-major and little-endian. As whole numbers, for ml_dtypes' own dtypes know no byte order."""
    size = array.dtype.itemsize
    return np.ascontiguousarray(array).view(f"u{size}").astype(f"<u{size}").tobytes()
