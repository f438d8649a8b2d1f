"""Where an adapter's files are, and one sentence on what to do if they are not there.

A pickle (.bin, .pt) is never opened, since it can run code.
"""

import re
from pathlib import Path

from ..support.quoting import quote_name

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_SAVE_AGAIN = (
    "load it with PEFT's PeftModel.from_pretrained and save it with save_pretrained(FOLDER), which writes safetensors"
)


def find_problem(folder: Path) -> str:
    """What keeps an adapter from being read from this path, and what to do; "" if both of PEFT's files are there."""
    if not folder.is_dir():
        return _no_folder(folder)
    if (folder / CONFIG).exists() and (folder / TENSORS).exists():
        return ""
    if (folder / "adapters.safetensors").exists():
        return (
            f"{folder} holds an adapter of mlx-lm, expected one of PEFT; merge it there, with mlx_lm.fuse, and use the "
            "merged model without an adapter"
        )
    if within := _adapters_in(folder):
        return f"{folder} has no {CONFIG} of its own, but its folders have: give {' or '.join(within)} instead"
    if not (folder / CONFIG).exists():
        return f"{folder} has no {CONFIG}: expected the folder that PEFT's save_pretrained or `npl-lora train` wrote"
    if pickles := sorted(path.name for path in folder.glob("adapter_model*") if path.suffix in _PICKLES):
        return (
            f"{folder} has {quote_name(pickles[0])}, a pickle, and no {TENSORS}; a pickle can run code and is never "
            f"opened here: {_SAVE_AGAIN}"
        )
    return f"{folder} has {CONFIG} and no {TENSORS}: copy that file there too, from where the adapter was saved"


def _no_folder(path: Path) -> str:
    if path.is_file():
        if path.suffix in _PICKLES:
            return f"{path} is a pickle, which can run code and is never opened here: {_SAVE_AGAIN}"
        return f"{path} is a file, expected the folder with {CONFIG} and {TENSORS}"
    if path.exists():
        return f"{path} is neither a folder nor a file, expected the folder with {CONFIG} and {TENSORS}"
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(path), re.ASCII) and not path.parent.exists():
        return (
            f"there is no folder {path} here; if that is a name on the Hugging Face Hub, download it first, with "
            f"`hf download {path} --local-dir FOLDER`, and give FOLDER"
        )
    return f"there is no folder {path}"


def _adapters_in(folder: Path) -> list[str]:
    """The folders in this one that have an adapter, the latest three checkpoints first."""
    found = [path.parent for path in folder.glob(f"*/{CONFIG}")]

    def step(path: Path) -> int:
        number = re.search(r"\d{1,18}$", path.name, re.ASCII)
        return int(number[0]) if number else -1

    return [quote_name(str(path)) for path in sorted(found, key=lambda path: (-step(path), path.name))[:3]]
