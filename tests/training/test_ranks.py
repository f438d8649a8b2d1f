"""Many ranks, as threads of one process: what they compute together is what one computes, and where they must agree."""

import argparse
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import tiny

import npl_lora
from npl_lora.adapters import LoRAConfig
from npl_lora.cli import matrix
from npl_lora.models import load
from npl_lora.oracle.libraries.library import Library
from npl_lora.oracle.power import Counts, false_alarms, misses
from npl_lora.support import ranks as _ranks
from npl_lora.support.extras import MissingExtraError
from npl_lora.support.ranks import ALONE, ManyRanks, RanksError
from npl_lora.training import data, loop
from npl_lora.training.run import Run
from npl_lora.training.step import Recipe, State, gradients

CONFIG = LoRAConfig(r=2, lora_alpha=3, target_modules=["q_proj", "down_proj"], init_lora_weights=False)


class Threads:
    """What mpi4py's communicator is to a rank, between threads. Reduce leaves nothing to rely on but on the root."""

    def __init__(self, rank, size, barrier, slots):
        self.rank, self.size, self.barrier, self.slots = rank, size, barrier, slots

    def allgather(self, value):
        self.slots[self.rank] = value
        self.barrier.wait()
        found = list(self.slots)
        self.barrier.wait()
        return found

    def Reduce(self, mine, whole, root):
        parts = self.allgather(mine.copy())
        whole[...] = sum(parts) if self.rank == root else np.nan

    def Bcast(self, array, root):
        array[...] = self.allgather(array.copy())[root]


def together(size, work):
    """work(ranks) by every rank at once: what each returns or raises."""
    barrier, slots = threading.Barrier(size, timeout=60), [None] * size

    def one(rank):
        try:
            return work(ManyRanks(Threads(rank, size, barrier, slots)))
        except Exception as error:
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(one, range(size)))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load(tiny.folder(tmp_path_factory.mktemp("model")), dtype=np.float64)


def rows(count, seed=0):
    """Of several lengths, with labels that do not count."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(count):
        tokens = rng.integers(0, tiny.CONFIG["vocab_size"], rng.integers(2, 8))
        found.append(data.Row(tokens, np.where(rng.random(tokens.size) < 0.8, tokens, data.IGNORED)))
    return found


@pytest.mark.slow
@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 3), st.sampled_from([0.0, 0.5]), st.integers(0, 99))
def test_gradients_are_those_of_one(model, size, count, micro, dropout, seed):
    adapter = model.attach(LoRAConfig.from_json({**CONFIG.as_json(), "lora_dropout": dropout}), rng=1)
    state, recipe = State(adapter, micro_batches=5), Recipe(steps=1, seed=seed)
    batches = data.batch_at(rows(count, seed), 0, count, micro, seed, 0)
    found = together(size, lambda ranks: gradients(model, state, batches, recipe, ranks=ranks))
    if len(batches) < size:
        sentence = f"a batch has {len(batches)} micro-batches, expected at least one for each of {size} ranks"
        assert [str(error) for error in found] == [sentence] * size
        return
    loss, grads = gradients(model, state, batches, recipe)
    flat = np.concatenate([grads[name].ravel() for name in grads])
    for its_loss, its_grads in found:
        assert abs(its_loss - loss) <= 1e-12 * abs(loss)
        its = np.concatenate([its_grads[name].ravel() for name in grads])
        assert np.linalg.norm(its - flat) <= 1e-12 * np.linalg.norm(flat)
        assert all(its_grads[name].shape == g.shape and its_grads[name].dtype == g.dtype for name, g in grads.items())
        for name in grads:
            np.testing.assert_array_equal(its_grads[name], found[0][1][name])  # to the bit, between ranks


@pytest.mark.slow
@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 3))
def test_held_out_rows_give_the_same_bits(model, size, count, micro):
    """Also where there are fewer of them than ranks."""
    adapter, how = model.attach(CONFIG, rng=1), dict(micro=micro, padding=0)
    alone = loop.evaluate_rows(model, adapter, rows(count), **how)
    assert (
        together(size, lambda ranks: loop.evaluate_rows(model, adapter, rows(count), **how, ranks=ranks))
        == [alone] * size
    )


@given(st.integers(1, 5), st.integers(0, 12))
def test_each_is_done_once_and_told_in_order(size, count):
    done = []

    def work(thing):
        done.append(thing)
        return thing**2

    assert together(size, lambda ranks: ranks.each(work, range(count))) == [[i**2 for i in range(count)]] * size
    assert sorted(done) == list(range(count))


def digest(run):
    return {name: p.tobytes() for name, p in run.state.adapter.parameters.items()}


def trained(model, folder, ranks=ALONE, steps=6, **how):
    run = Run(
        model,
        model.attach(CONFIG, rng=1),
        rows(12),
        rows(5, seed=1),
        Recipe(steps=6, lr=0.05, seed=3),
        folder,
        batch=4,
        micro_batch=1,
        every=2,
        ranks=ranks,
        **how,
    )
    events = []
    for event in run.go():
        events.append(event)
        if event.step == steps:
            break
    return run, [event.metrics.loss for event in events if event.metrics is not None]


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_a_run_and_one_that_goes_on_with_another_number_of_ranks(model, tmp_path, size):
    _, alone = trained(model, tmp_path / "alone")
    found = together(size, lambda ranks: trained(model, tmp_path / "many", ranks))
    for run, losses in found:
        np.testing.assert_allclose(losses, alone, rtol=1e-9)  # six steps of AdamW upon 1e-15
        assert digest(run) == digest(found[0][0])
    together(size, lambda ranks: trained(model, tmp_path / "on", ranks, steps=4))
    _, rest = trained(model, tmp_path / "on", resume=True)
    np.testing.assert_allclose(rest, alone[4:], rtol=1e-9)
    lines = [(tmp_path / name / "metrics.csv").read_text().splitlines() for name in ("many", "on")]
    assert [[line.split(",")[0] for line in its] for its in lines] == [["step", *"0123456"]] * 2


def test_micro_batches_that_are_too_few_are_refused_before_the_first_step(model, tmp_path):
    how = dict(batch=4, micro_batch=2)
    args = model, model.attach(CONFIG, rng=1), rows(8), rows(2), Recipe(steps=1), tmp_path
    found = together(3, lambda ranks: Run(*args, **how, ranks=ranks))
    sentence = "a batch of 4 rows, 2 at a time, is 2 micro-batches, expected at least one for each of 3 ranks"
    assert [str(error) for error in found] == [sentence] * 3
    assert list(tmp_path.iterdir()) == []


def test_ranks_that_part_are_told(model, tmp_path):
    def go(ranks):
        run = Run(
            model, model.attach(CONFIG, rng=ranks.rank), rows(8), [], Recipe(steps=1), tmp_path / "out", ranks=ranks
        )
        next(run.go())

    found = together(2, go)
    assert all(isinstance(error, RanksError) for error in found)
    assert str(found[0]) == "the adapter after step 0 of rank 1 differs from that of rank 0"


@pytest.mark.slow
def test_power_counts_the_same():
    def counted(ranks=ALONE):
        counts = Counts()
        false_alarms(40, ("float64",), counts, lambda *seen: None, ranks)
        misses(("float64",), counts, lambda *seen: None, ranks)
        return counts

    alone = counted()
    assert alone.answers == 40
    assert together(3, counted) == [alone] * 3


@pytest.mark.slow
def test_the_matrix_is_the_same(monkeypatch, tmp_path, capsys):
    """Each library by one rank, one that cannot be opened among them; rank 0 writes and prints."""
    examples = Path(npl_lora.__file__).parents[1] / "examples"
    targets = [examples / "my_lora.py", tmp_path / "none.py", examples / "my_lora_with_a_fault.py"]
    monkeypatch.setattr(matrix, "LIBRARIES", {str(target): Library(str(target), ("numpy",)) for target in targets})

    def written(name, ranks=ALONE):
        file = tmp_path / f"{name}-{ranks.rank}.json"
        status = matrix._run(argparse.Namespace(names=[], markdown_file=None, json_file=file), ranks)
        return status, file.read_text() if file.exists() else None

    alone = written("alone")
    table = capsys.readouterr().out
    found = together(2, lambda ranks: written("many", ranks))
    assert found == [alone, (1, None)]
    assert capsys.readouterr().out == table


@pytest.mark.parametrize("environment", [{}, {"PMI_SIZE": "1"}, {"OMPI_COMM_WORLD_SIZE": "many"}])
def test_a_plain_run_never_asks_for_mpi(monkeypatch, environment):
    monkeypatch.setattr(_ranks, "require", None)
    for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert _ranks.join_ranks() is ALONE


@pytest.mark.parametrize("name", ["PMI_SIZE", "OMPI_COMM_WORLD_SIZE"])
def test_under_mpiexec_mpi4py_is_missed_in_one_sentence(monkeypatch, name):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    monkeypatch.setenv(name, "2")
    with pytest.raises(MissingExtraError, match=r"a run under mpiexec needs mpi4py: pip install 'npl-lora\[mpi\]'"):
        _ranks.join_ranks()


def test_the_command_line_does_not_import_mpi():
    code = "import sys, npl_lora.cli\nprint([name for name in ('mpi4py', 'threadpoolctl') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
