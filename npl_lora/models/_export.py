"""A model written as a Hugging Face folder: config.json, model.safetensors, and the tokenizer's files.

The files are written to a temporary folder, which is renamed when it is complete.

Source: transformers 5.23.0 for the names of the files and their contents.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from ..support.extras import require
from ..support.files import write_atomically
from ..support.finite import describe_first_nonfinite
from ._config import ModelError
from ._gguf import GGUF
from ._huggingface import count_dtypes
from ._pretrained import Pretrained
from ._tokenizer import load_tokenizer

DTYPES = ("float32", "float16", "bfloat16")
_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
}
_COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)


def own_dtype(path: str | Path) -> str:
    """The dtype of most of a file's values if it is one of DTYPES, otherwise float32, for example if quantised."""
    path = Path(path)
    names = GGUF(path).dtypes() if path.suffix == ".gguf" else count_dtypes(path)
    most = max(names, key=lambda name: names[name], default="float32")
    return most if most in DTYPES else "float32"


def export(
    model: Pretrained,
    source: str | Path,
    folder: str | Path,
    dtype: str = "float32",
    allow_nonfinite: bool = False,
) -> None:
    """Write a model into a new folder, with the tokenizer of `source`, where the model was loaded from.

    Raises ModelError if the folder exists and is not empty. Unless allow_nonfinite, it also refuses a tensor that is
    not finite, or that overflows in the dtype.
    """
    source, folder = Path(source), Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelError(f"{folder} is there already, and is not written over")
    new = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)  # left by a process that was killed
    new.mkdir(parents=True)
    try:
        encode = require("safetensors.numpy", "models", "a checkpoint").save
        write_atomically(new / "model.safetensors", encode(_narrowed(model, dtype, allow_nonfinite), {"format": "pt"}))
        about = {**model.about, "dtype": dtype}
        about.pop("torch_dtype", None)  # its older name
        about.pop("quantization_config", None)  # what is written is decoded
        if path_is_gguf := source.suffix == ".gguf":
            about |= {"architectures": [_ARCHITECTURES[model.kind]]}
            about |= _special_ids(GGUF(source))
        _write_json(new / "config.json", about)
        if path_is_gguf:
            _write_tokenizer(source, new)
        else:
            for name in _COPIED:
                if (source / name).exists():
                    shutil.copyfile(source / name, new / name)
        os.replace(new, folder)
    except BaseException as error:
        shutil.rmtree(new, ignore_errors=True)
        if isinstance(error, OSError) and str(error.filename).startswith(str(new)):
            error.filename = str(folder / Path(error.filename).name)
        raise


def _narrowed(model: Pretrained, dtype: str, allow_nonfinite: bool) -> dict[str, np.ndarray]:
    kind = np.dtype(require("ml_dtypes", "models", "a bfloat16 file").bfloat16 if dtype == "bfloat16" else dtype)
    with np.errstate(over="ignore", invalid="ignore"):  # checked below
        narrow = {n: np.ascontiguousarray(array.astype(kind, copy=False)) for n, array in model.base.items()}
    if not allow_nonfinite and (problem := describe_first_nonfinite(narrow, model.base)):
        raise ModelError(f"nothing is written: {problem}")
    return narrow


def _special_ids(file: GGUF) -> dict[str, int]:
    found = {name: file.field(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos")}
    return {f"{name}_token_id": int(token) for name, token in found.items() if token is not None}


def _write_tokenizer(source: Path, folder: Path) -> None:
    """tokenizer.json, and a tokenizer_config.json that makes transformers read it."""
    tokenizer = load_tokenizer(source)
    write_atomically(folder / "tokenizer.json", tokenizer.as_json().encode())
    about: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    if tokenizer.template is not None:
        about |= {**tokenizer.template.names, "chat_template": tokenizer.template.source}
    _write_json(folder / "tokenizer_config.json", about)


def _write_json(path: Path, found: dict[str, Any]) -> None:
    write_atomically(path, (json.dumps(found, indent=2, ensure_ascii=False) + "\n").encode())
