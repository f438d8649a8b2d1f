"""A model of Llama 7B's shape takes LoRA training steps on this machine's CPU.

Writes a checkpoint of 13.5 GB with random weights, in bfloat16 shards like those of published models. Then it measures
training steps with `npl-lora bench`, and deletes the checkpoint. The weights stay in the file: they are mapped, and
converted to float32 one layer at a time. With NumPy 2.4.6 on two cores, a step of 1 x 128 tokens took 49 seconds, and
14.56 GB at the peak (1.06 GB without the mapped file). The script took two and a half minutes.

    python examples/seven_billion.py                                       some minutes, 13.5 GB of disk
    python examples/seven_billion.py --hidden 64 --layers 2 --inner 128 --vocabulary 256       the same, small
"""

import argparse
import json
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

BLOCK = 1 << 24  # random numbers, repeated to fill all weights


def main() -> int:
    parser = argparse.ArgumentParser(description="LoRA training steps of a random model of Llama 7B's shape.")
    for name, size in dict(hidden=4096, layers=32, heads=32, inner=11008, vocabulary=32000).items():
        parser.add_argument(f"--{name}", type=int, default=size, metavar="N", help=f"default: {size:,}")
    parser.add_argument("--folder", type=Path, help="where the checkpoint lies meanwhile (default: the system's own)")
    for name, size in dict(batch=1, length=128, rank=8, steps=1).items():
        parser.add_argument(f"--{name}", type=int, default=size, metavar="N", help=f"of the steps (default: {size})")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="seven_billion_", dir=arguments.folder) as name:
        write(Path(name), arguments)
        words = [f"--{word}={getattr(arguments, word)}" for word in ("batch", "length", "rank", "steps")]
        bench = [sys.executable, "-m", "npl_lora", "bench", name, "--coded", "--target-modules=q_proj,v_proj", *words]
        return subprocess.run(bench).returncode


def write(folder: Path, shape: argparse.Namespace) -> None:
    """config.json, a shard for each layer and one for the rest, and their index."""
    rng = np.random.default_rng(0)
    random = to_bfloat16(0.02 * rng.standard_normal(BLOCK, dtype=np.float32))
    shards = list(tensors(shape))
    names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        write_shard(folder / name, shard, random)
        print(f"{name}: {(folder / name).stat().st_size / 1e9:.2f} GB", file=sys.stderr)
    places = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
    index = {"metadata": {"total_size": sum((folder / n).stat().st_size for n in names)}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = dict(model_type="llama", hidden_size=shape.hidden, num_hidden_layers=shape.layers, rms_norm_eps=1e-5)
    config |= dict(num_attention_heads=shape.heads, intermediate_size=shape.inner, vocab_size=shape.vocabulary)
    config |= dict(max_position_embeddings=2048, tie_word_embeddings=False, dtype="bfloat16")
    (folder / "config.json").write_text(json.dumps(config))


def tensors(shape: argparse.Namespace) -> Iterator[dict[str, tuple[int, ...]]]:
    """{name: shape} of each shard."""
    C, F, V = shape.hidden, shape.inner, shape.vocabulary
    linear = {f"self_attn.{name}_proj": (C, C) for name in "qkvo"}
    linear |= {"mlp.gate_proj": (F, C), "mlp.up_proj": (F, C), "mlp.down_proj": (C, F)}
    for i in range(shape.layers):
        norms = dict.fromkeys(("input_layernorm", "post_attention_layernorm"), (C,))
        yield {f"model.layers.{i}.{name}.weight": size for name, size in (linear | norms).items()}
    yield {"model.embed_tokens.weight": (V, C), "model.norm.weight": (C,), "lm_head.weight": (V, C)}


def write_shard(path: Path, shard: dict[str, tuple[int, ...]], random: np.ndarray) -> None:
    """A safetensors file: the length of the header, the header, and the arrays one after another."""
    header, end = {}, 0
    for name, shape in shard.items():
        begin, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shard.items():
            count = int(np.prod(shape))
            if name.endswith("norm.weight"):
                to_bfloat16(np.ones(count, np.float32)).tofile(file)
                continue
            for begin in range(0, count, BLOCK):
                random[: count - begin].tofile(file)


def to_bfloat16(x: np.ndarray) -> np.ndarray:
    """The bits of bfloat16: the upper half of float32's. (Cut off, not rounded: it is random anyway.)"""
    return (x.view(np.uint32) >> 16).astype("<u2")


if __name__ == "__main__":
    sys.exit(main())
