"""One run: `python -W error::RuntimeWarning -m fuzz.one hypothesis|atheris TARGET RUNS FOLDER`. See `fuzz.__main__`.

FOLDER is for the count of inputs read, in the file `count`, and for what a failing atheris run leaves."""

import resource
import sys
from collections.abc import Callable
from pathlib import Path

SECONDS = 10  # for one input, before libFuzzer calls it hung
MEGABYTES = 128  # that the process may grow by in one input
GROWTH = 512  # and in all with Hypothesis. atheris itself keeps some 16 KiB an input of a target that judges, where the
# same inputs without it leave a process as it was, 51 MiB after 500 and after 2,000


def main(how: str, name: str, runs: str, folder: str) -> None:
    if how == "atheris":
        import atheris

        with atheris.instrument_imports(
            include=["npl_lora.oracle", "npl_lora.support.tensor_file", "npl_lora.models", "npl_lora.training", "json"]
        ):
            from fuzz.targets import TARGETS, WORDS
    else:
        from fuzz.targets import TARGETS, WORDS
    target, begin, read = TARGETS[name], _megabytes(), 0

    def one(data: bytes) -> None:
        nonlocal read
        read += 1
        before = _megabytes()
        target.read(data)
        after = _megabytes()
        grown = after - begin
        assert after - before < MEGABYTES, f"grew by {after - before} MiB in one input"
        assert how == "atheris" or grown < GROWTH, f"grew by {grown} MiB in all"
        if read >= int(runs):
            (Path(folder) / "count").write_text(f"{read} {grown}")

    if how == "atheris":
        _atheris(one, int(runs), target.seeds, WORDS, Path(folder))
    else:
        _hypothesis(one, int(runs), target.seeds)


def _hypothesis(one: Callable[[bytes], None], runs: int, seeds: tuple[bytes, ...]) -> None:
    from fuzz.edits import hostile
    from hypothesis import HealthCheck, given, settings

    at_length = settings(max_examples=runs, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    at_length(given(hostile(seeds))(one))()


def _atheris(
    one: Callable[[bytes], None], runs: int, seeds: tuple[bytes, ...], words: tuple[bytes, ...], folder: Path
) -> None:
    import atheris

    corpus = folder / "corpus"
    corpus.mkdir()
    for i, seed in enumerate(seeds):
        (corpus / f"seed{i}").write_bytes(seed)
    dictionary = folder / "words"
    dictionary.write_text("".join(f'"{_quoted(word)}"\n' for word in words if len(word) < 100))
    options = (
        f"-runs={runs}",
        f"-timeout={SECONDS}",
        f"-artifact_prefix={folder}/",
        f"-dict={dictionary}",
        "-max_len=4096",
        "-seed=1",
    )
    atheris.Setup([sys.argv[0], *options, str(corpus)], one)
    atheris.Fuzz()


def _quoted(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


def _megabytes() -> int:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


if __name__ == "__main__":
    main(*sys.argv[1:])
