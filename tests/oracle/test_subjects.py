"""Subjects that misbehave in every way known: none may stop the check, reach into it, or leave a process behind."""

import array
import dataclasses
import gc
import io
import os
import shlex
import signal
import struct
import sys
import threading
import time

import ml_dtypes
import numpy as np
import pytest
from light import light

from npl_lora.oracle.case import Case
from npl_lora.oracle.subjects import TargetError
from npl_lora.oracle.subjects.command import CommandSubject
from npl_lora.oracle.subjects.convert import AnswerError, to_arrays, to_numpy
from npl_lora.oracle.subjects.frames import LIMIT, FrameError, read_frame, write_frame
from npl_lora.oracle.subjects.process import ProcessSubject
from npl_lora.oracle.subjects.targets import load

LONG = 30.0  # seconds that no test lasts

RIGHT = """
import math
import numpy as np

def lora_linear(case):
    x, W, A, B, dy = (case[name] for name in ("x", "W", "A", "B", "dy"))
    s = case.config["alpha"] / case.config["r"]
    h, g = x @ A.T, s * (dy @ B)
    return {"y": x @ W.T + s * (h @ B.T), "dx": dy @ W + g @ A, "dA": g.T @ x, "dB": s * (dy.T @ h)}
"""


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    shapes = dict(x=(4, 6), W=(5, 6), A=(3, 6), B=(5, 3), dy=(4, 5))
    arrays = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    config = {"r": 3, "alpha": 6.0, "use_rslora": False, "nested": [1, [2]]}
    return Case("lora_linear", "lora_linear/test", "float64", config, arrays)


@pytest.fixture
def subject(tmp_path):
    """Opens a subject with this source, and closes it after the test."""
    opened = []

    def open_it(source, attribute="", name="mine.py", **how):
        file = tmp_path / name
        file.write_text(source)
        target = f"{file}:{attribute}" if attribute else str(file)
        opened.append(ProcessSubject(target, **{"timeout": LONG, **how}))
        return opened[-1]

    yield open_it
    for one in opened:
        one.close()


OBEDIENT = (
    RIGHT.replace("lora_linear", "right")
    + """
asked = []

def lora_linear(case):
    asked.append(case.id)
    scope = {**globals(), "case": case, "call": asked.count(case.id)}
    exec("def do():" + case.id.replace("\\n", "\\n    "), scope)
    return scope["do"]()
"""
)


# Where it raises: in its own file, which does not hold the lines that it is told.
PLACE = f" at obedient.py:{len(OBEDIENT.splitlines())}"


@pytest.fixture(scope="module")
def obedient(tmp_path_factory):
    """A subject that does what the case's id says: one process for many tests."""
    file = tmp_path_factory.mktemp("obedient") / "obedient.py"
    file.write_text(OBEDIENT)
    with ProcessSubject(str(file), timeout=LONG) as mine:
        yield mine


@pytest.fixture
def told(obedient, case):
    """Has the obedient subject do these lines."""
    return lambda *lines: obedient.ask(dataclasses.replace(case, id="".join(f"\n{line}" for line in lines)))


def body(*lines):
    """A file with a function lora_linear of these lines, on top of a right one called right."""
    inner = "".join(f"    {line}\n" for line in lines)
    return RIGHT.replace("lora_linear", "right") + f"\ndef lora_linear(case):\n{inner}"


def assert_right(case, answer, calls=2):
    x, W, A, B, dy = (case[name] for name in ("x", "W", "A", "B", "dy"))
    assert answer.error is None
    assert answer.absent is None
    assert len(answer.outputs) == calls
    for outputs in answer.outputs:
        assert list(outputs) == ["y", "dx", "dA", "dB"]
        np.testing.assert_allclose(outputs["y"], x @ (W + 2.0 * B @ A).T)
        np.testing.assert_allclose(outputs["dB"], 2.0 * dy.T @ x @ A.T)


def is_running(pid):
    """A zombie whose new parent has not looked yet does not run."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def assert_ends(pid, within=5.0):
    deadline = time.monotonic() + within
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(pid)


# A Python subject: what it answers.


def test_a_right_subject_is_asked_twice_in_one_process(subject, case):
    mine = subject(RIGHT)
    assert mine.contracts == ("lora_linear",)
    before = case.copy()
    assert_right(case, mine.ask(case))
    assert_right(case, mine.ask(case))
    assert before.config == case.config
    assert all((before[name] == case[name]).all() for name in case.arrays)


def test_every_dtype_arrives_as_it_was_sent(subject, case):
    source = body(
        "return {n: np.float64(case[n].sum()) for n in case.arrays} | {case[n].dtype.name: 0.0 for n in 'aib'}"
    )
    arrays = {
        "a": np.ones((2, 3), ml_dtypes.bfloat16).T,
        "i": np.arange(4),
        "b": np.ones(3, bool),
        "s": np.array(2.0, np.float16),
        "e": np.zeros((0, 3)),
    }
    answer = subject(source).ask(Case("lora_linear", "dtypes", "bfloat16", {}, arrays))
    sums = {name: float(value) for name, value in answer.outputs[0].items()}
    assert sums == {"a": 6.0, "i": 6.0, "b": 3.0, "s": 2.0, "e": 0.0, "bfloat16": 0.0, "int64": 0.0, "bool": 0.0}


def test_state_that_leaks_shows_in_the_second_answer(told):
    first, second = told("out = right(case)", "out['dB'] = out['dB'] * call", "return out").outputs
    np.testing.assert_array_equal(second["dB"], 2.0 * first["dB"])


def test_an_answer_in_a_buffer_used_again_is_seen_as_it_was(told):
    lines = "buffer = right.__dict__.setdefault('buffer', np.zeros(3))", "buffer += 1.0"
    first, second = told(*lines, "return {'y': buffer}").outputs
    assert first["y"].tolist() == [1.0] * 3
    assert second["y"].tolist() == [2.0] * 3


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("raise ValueError('no such\\nthing')", f"ValueError: no such ...{PLACE}"),
        ("raise ValueError('\\nthing\\n')", f"ValueError: thing{PLACE}"),
        ("raise ValueError", f"ValueError: no message{PLACE}"),
        ("raise ValueError('\\x1b[31mred\\x1b[0m \\x07' + 1000 * 'x')", "ValueError: red  " + 295 * "x" + f"…{PLACE}"),
        ("raise type('Mute', (Exception,), {'__str__': None})()", f"Mute: no message{PLACE}"),
        ("return [1.0]", "returned a list, expected a mapping from name to array"),
        ("return None", "returned None, expected a mapping from name to array"),
        ("return {1: np.ones(2)}", "returned a mapping with the key 1, expected names as keys"),
        ("return {'y': 'text'}", "y is a str, expected an array"),
        ("return {'y': np.array(['text'])}", "y has dtype <U4, expected a floating dtype"),
        ("return {'y': np.array([None])}", "y has dtype object, expected a floating dtype"),
        ("case['W'][0, 0] += 1; return right(case)", "changed its input W"),
        ("case['W'].shape = (6, 5); return {}", "changed its input W"),
        ("out = right(case); case['A'][:] = 0; case['B'][:] = 0; return out", "changed its input A, B"),
        ("case.config['alpha'] = 1.0; return {}", "changed its input config"),
        ("case.config['nested'][1].append(3); return {}", "changed its input config"),
        ("case.config['cache'] = case['x']; return right(case)", "changed its input config"),
        ("assert call == 1, 'left over'; return right(case)", f"the second call: AssertionError: left over{PLACE}"),
        (
            "if call == 1: return {}\nraise NotImplementedError",
            f"the second call: NotImplementedError: no message{PLACE}",
        ),
    ],
)
def test_a_fault_is_one_clear_line(told, line, error):
    answer = told(line)
    assert answer.error == error
    assert answer.outputs is None


@pytest.mark.parametrize(
    "line", ["np.ones(2) @ np.ones(3)", "np.linalg.inv(np.zeros((2, 3)))", "import json; json.loads('{')"]
)
def test_an_error_is_placed_in_the_users_own_code(told, line):
    assert told(line).error.endswith(PLACE)  # the frames of NumPy and of Python tell nothing


def test_an_error_is_placed_where_it_was_raised(subject, case, tmp_path):
    (tmp_path / "helping.py").write_text("def helper():\n    raise ValueError\n")
    mine = subject("import helping\n" + body("helping.helper()"))
    assert mine.ask(case).error == "ValueError: no message at helping.py:2"


def test_not_implemented_is_absent(told):
    assert told("raise NotImplementedError('no bias\\nhere')").absent == "no bias"
    assert told("raise NotImplementedError").absent == "not supported"


def test_a_contract_that_the_subject_lacks_is_absent(obedient):
    answer = obedient.ask(Case("lora_merge", "lora_merge/test", "float64", {}, {}))
    assert answer.absent == "has no lora_merge"


def test_integers_come_back_as_integers(told):
    (outputs, _) = told("return {'y': case['x'].astype(int), 'dx': 3, 'dA': True}").outputs
    assert [outputs[name].dtype.kind for name in ("y", "dx", "dA")] == ["i", "i", "b"]


# A Python subject: how it ends.


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("import os; os._exit(3)", "its process ended with status 3"),
        ("import os; print('last words', flush=True); os._exit(0)", "its process ended with status 0: last words"),
        ("import sys; sys.exit('enough')", "its process ended with status 1: enough"),
        ("raise KeyboardInterrupt", "its process ended by signal SIGINT: KeyboardInterrupt"),
        ("import ctypes; ctypes.string_at(0)", "its process ended by signal SIGSEGV"),
        ("import os; os.kill(os.getpid(), 40)", "its process ended by signal 40"),
        ("import os; os.closerange(3, 99); return {}", "its process ended with status"),
        (
            "import os\nfor fd in range(3, 99):\n    try: os.write(fd, b'\\xff' * 99)\n    except OSError: pass",
            "answered garbage: 18,446,744,073,709,551,615 bytes, expected at most",
        ),
    ],
)
@pytest.mark.slow
def test_a_process_that_ends_is_an_error_and_the_check_goes_on(told, case, line, error):
    assert error in told(line).error
    assert_right(case, told("return right(case)"))


@pytest.mark.slow
def test_one_that_hangs_is_cut_off_with_its_children_and_the_check_goes_on(subject, case, tmp_path):
    source = body(
        "if case.id != 'bad': return right(case)",
        "import os, signal, subprocess, sys",
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])",
        "forked = os.fork()",
        f"if forked: open({str(tmp_path / 'pids')!r}, 'w').write(f'{{os.getpid()}} {{child.pid}} {{forked}}')",
        "import ctypes; ctypes.CDLL(None).sleep(60)",
    )
    mine = subject(source, timeout=1.0)
    start = time.monotonic()
    answer = mine.ask(Case(case.contract, "bad", case.dtype, case.config, case.arrays))
    assert answer.error == "took longer than 1 s"
    assert time.monotonic() - start < 3.0
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 3
    for pid in pids:
        assert_ends(pid)
    assert_right(case, mine.ask(case))


@pytest.mark.slow
def test_a_child_that_left_the_group_and_holds_the_pipes_does_not_stop_the_check(subject, case, tmp_path):
    source = body(
        "import os, time",
        "if case.id != 'bad': return right(case)",
        "if os.fork(): time.sleep(0.2); os._exit(7)",
        "os.setsid()",
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))",
        "time.sleep(10)",
        "os._exit(0)",
    )
    mine = subject(source)
    start = time.monotonic()
    answer = mine.ask(Case(case.contract, "bad", case.dtype, case.config, case.arrays))
    assert answer.error == "its process ended with status 7"
    assert_right(case, mine.ask(case))
    mine.close()
    assert time.monotonic() - start < 5.0
    os.kill(int((tmp_path / "pid").read_text()), 9)


@pytest.mark.parametrize("stream", light(["stdout", "stderr"]))
def test_chatter_reaches_nobody(subject, case, capfd, stream):
    source = (
        f"import sys\nprint('loading', file=sys.{stream})\n"
        + body(
            f"import os, sys; sys.{stream}.write(10_000_000 * 'chatter '); sys.{stream}.flush()", "return right(case)"
        )
        + "\nassert not sys.stdin.read()\n"
    )
    assert_right(case, subject(source).ask(case))
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_no_process_outlives_its_subject(subject, case, tmp_path):
    source = f"import os\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n" + RIGHT

    def pid():
        return int((tmp_path / "pid").read_text())

    with subject(source) as mine:
        assert is_running(pid())
    assert_ends(pid())
    mine.close()  # once more is nothing
    forgotten = ProcessSubject(mine.name)
    assert is_running(pid())
    del forgotten
    gc.collect()
    assert_ends(pid())


@pytest.fixture
def interruptible():
    """Ctrl-C raises KeyboardInterrupt, also where the tests run in the background and a shell has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.slow
def test_after_an_interrupt_no_answer_is_taken_for_another(subject, case):
    mine = subject(body("import time; time.sleep(1.0 if case.id == 'slow' else 0.0)", "return right(case)"))
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        mine.ask(dataclasses.replace(case, id="slow"))
    other = dataclasses.replace(case, arrays={**case.arrays, "x": 2.0 * case["x"]})
    assert_right(other, mine.ask(other))


@pytest.mark.slow
def test_no_threads_and_descriptors_pile_up(subject, case):
    mine = subject(body("import os; os._exit(1)"))
    for _ in range(2):
        mine.ask(case)
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for _ in range(4):
        mine.ask(case)
    assert threading.active_count() <= threads
    assert len(os.listdir("/proc/self/fd")) <= descriptors


@pytest.mark.slow
def test_one_that_cannot_be_started_again_is_tried_twice_only(subject, case, tmp_path):
    count = tmp_path / "count"
    source = (
        f"import pathlib\ncount = pathlib.Path({str(count)!r})\n"
        "count.touch()\ncount.write_text(count.read_text() + 'x')\n"
        "if len(count.read_text()) > 1: raise RuntimeError('only once')\n" + body("import os; os._exit(1)")
    )
    mine = subject(source)
    assert "status 1" in mine.ask(case).error
    for _ in range(4):
        assert mine.ask(case).error.startswith("its process ended and could not be restarted: ")
        assert "RuntimeError: only once" in mine.ask(case).error
    assert len(count.read_text()) == 3


def test_loading_has_a_time_out_too(subject):
    with pytest.raises(TargetError, match=r"cannot be loaded: took longer than 0\.5 s"):
        subject("import time; time.sleep(60)", load_timeout=0.5)


# What a target may be.

KINDS = (
    RIGHT
    + """
import sys
from functools import partial
from npl_lora.ops import lora_mlp      # borrowed: no answer to the contract of this name
cross_entropy = 3                      # no function

def f(case): return lora_linear(case)
def g(case, more): return lora_linear(case)
def lora_embedding(): return {}        # mine, so it is asked, and fails

class Impl:
    def lora_linear(self, case): return lora_linear(case)
    def lora_merge(self, case): return {}

class Call:
    def __call__(self, case): return lora_linear(case)

class Needs:
    def __init__(self, what): pass

class Strange:
    @property
    def lora_linear(self): raise RuntimeError("not now")

class Empty: pass

impl, call, lora_attention, module = Impl(), Call(), partial(g, more=1), sys.modules[__name__]
"""
)


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    """Loads a file in this process, which is quicker; and forgets it after the test."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def load_it(source, attribute="", contract=None):
        file = tmp_path / "mine.py"
        file.write_text(source)
        return load(f"{file}:{attribute}" if attribute else str(file), contract).functions

    yield load_it
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize(
    ("attribute", "contract", "contracts"),
    [
        ("", None, ("lora_attention", "lora_embedding", "lora_linear")),
        ("", "lora_linear", ("lora_linear",)),
        ("lora_linear", None, ("lora_linear",)),
        ("lora_attention", None, ("lora_attention",)),
        ("f", "lora_linear", ("lora_linear",)),
        ("Impl", None, ("lora_linear", "lora_merge")),
        ("Impl", "lora_linear", ("lora_linear",)),
        ("impl", None, ("lora_linear", "lora_merge")),
        ("impl.lora_linear", None, ("lora_linear",)),
        ("Call", "lora_linear", ("lora_linear",)),
        ("call", "lora_linear", ("lora_linear",)),
        ("module", "lora_linear", ("lora_linear",)),
    ],
)
def test_a_target_may_be_a_file_or_anything_in_it(loaded, case, attribute, contract, contracts):
    functions = loaded(KINDS, attribute, contract)
    assert sorted(functions) == sorted(contracts)
    if "lora_linear" in functions:
        assert list(functions["lora_linear"](case)) == ["y", "dx", "dA", "dB"]


def test_a_worker_is_told_the_contract(subject, case):
    assert_right(case, subject(KINDS, "f", contract="lora_linear").ask(case))


@pytest.mark.parametrize(
    ("attribute", "contract", "sentence"),
    [
        (
            "nothing",
            None,
            "no nothing there (there are: Call, Empty, Impl, Needs, Strange, call, cross_entropy, f, g, ",
        ),
        ("impl.nothing", None, "no nothing there (there are: no names)"),
        ("f", None, "f is not the name of a contract: add --contract NAME, one of lora_linear, "),
        ("Call", None, "Call is not the name of a contract: add --contract NAME"),
        ("f", "lora", "lora is not a contract; the contracts are lora_linear, "),
        ("Needs", None, "Needs() raised TypeError: "),
        ("Strange", None, ": reading lora_linear raised RuntimeError: not now"),
        ("Empty", None, "has no function named after a contract (lora_linear, "),
        ("impl", "lora_mlp", "has no function named lora_mlp (there are: lora_linear, lora_merge)"),
        ("cross_entropy", None, "has no function named after a contract"),
    ],
)
def test_a_target_that_names_no_function_is_one_sentence(loaded, attribute, contract, sentence):
    with pytest.raises(TargetError) as caught:
        loaded(KINDS, attribute, contract)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


CLASSES = """
import json
class Linear:
    def __init__(self, W, A, B): pass
class Merged: pass
"""
ARRAYS = "def lora(x, W, A, B, alpha, r): return x\ndef helper(t): return t\nclass Linear: pass\n"
OBJECTS = """
class Mine:
    def __init__(self, wide): pass
    def lora_linear(self, case): return {}
wide, narrow = Mine(True), Mine(False)
"""


@pytest.mark.parametrize(
    ("source", "attribute", "sentence"),
    [
        (
            CLASSES,
            "",
            "no layer of a framework that is known here (keras, torch, mlx, flax, equinox): Linear, Merged; such",
        ),
        (CLASSES, "Merged", "known here (keras, torch, mlx, flax, equinox): Merged; such a class needs functions of a"),
        (CLASSES, "Linear", "'W', 'A', and 'B'; no layer of a framework that is known here"),
        (ARRAYS, "", "; check mine.py:lora"),
        (OBJECTS, "", "; check mine.py:wide or mine.py:narrow"),
        (OBJECTS.partition("wide, ")[0], "", "; check mine.py:Mine"),
        ("def f(a): return a\nx = 3\n_y = 4\n", "", "; it has f, x"),
    ],
)
def test_a_target_that_names_no_function_is_told_what_there_is(loaded, tmp_path, attribute, source, sentence):
    with pytest.raises(TargetError) as caught:
        loaded(source, attribute)
    said = str(caught.value).replace(f"{tmp_path}/", "")
    assert sentence in said
    assert said.endswith(sentence) or not sentence.startswith("; ")


def test_the_class_of_a_framework_is_not_said_to_be_of_none(loaded):
    """Here nobody's constructor, but torch's layer all the same."""
    source = "class Module: __module__ = 'torch.nn'\nclass Encoder(Module):\n    def __init__(self, depth): pass\n"
    with pytest.raises(TargetError, match="has no function named after a contract") as caught:
        loaded(source)
    assert "no layer" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("", "mine.py has no function named after a contract (lora_linear, "),
        ("def lora_linear(case:", "mine.py cannot be loaded: SyntaxError: "),
        ("import there_is_no_such_module", "ModuleNotFoundError: No module named 'there_is_no_such_module'"),
        ("1 / 0", "cannot be loaded: ZeroDivisionError: division by zero"),
        ("from . import other", "cannot be loaded: ImportError: attempted relative import"),
    ],
)
def test_a_file_that_does_not_load_is_one_sentence(loaded, source, sentence):
    with pytest.raises(TargetError) as caught:
        loaded(source)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("source", "sentence"),
    light(
        [
            ("1 / 0", "cannot be loaded: ZeroDivisionError: division by zero"),
            ("import sys; sys.exit(4)", "cannot be loaded: its process ended with status 4"),
            ("import ctypes; ctypes.string_at(0)", "cannot be loaded: its process ended by signal SIGSEGV"),
        ],
        2,
    ),
)
def test_a_worker_that_cannot_load_is_one_sentence(subject, source, sentence):
    with pytest.raises(TargetError, match=sentence):
        subject(source)


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("no_such_file.py", "no_such_file.py: no such file"),
        ("no/such/file.py:f", "no/such/file.py: no such file"),
        ("no_such_package.module:f", "no_such_package.module:f: no such file, module or shipped subject"),
        ("json.no_such_module", "json.no_such_module: no such file, module or shipped subject"),
        ("json:nothing", "json:nothing: no nothing there"),
        ("json", "json has no function named after a contract"),
        ("./folder", "folder: a folder, expected a file"),
        ("notes.txt", "notes.txt is not a Python file"),
    ],
)
def test_a_target_that_is_not_there_is_one_sentence(tmp_path, monkeypatch, target, sentence):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(TargetError) as caught:
        load(target, None)
    assert sentence in str(caught.value)


@pytest.mark.parametrize("target", light(["package.module:Impl", "package"]))
def test_code_may_be_importable_from_here(tmp_path, monkeypatch, case, target):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("from .module import lora_linear")
    (tmp_path / "package" / "module.py").write_text(KINDS)
    with ProcessSubject(target) as mine:
        assert_right(case, mine.ask(case))


@pytest.mark.parametrize("name", light(["a:b.py", "numpy.py", "json.py", "with a space.py", "two.dots.py"], 2))
def test_a_file_may_be_called_anything(subject, case, name):
    assert_right(case, subject(RIGHT.replace("import numpy as np", ""), name=name).ask(case))


def test_a_file_finds_its_neighbours_and_nothing_here_gets_in_the_way(subject, case, tmp_path, monkeypatch):
    (tmp_path / "helper.py").write_text(RIGHT)
    here = tmp_path / "here"
    here.mkdir()
    for name in ("math.py", "numpy.py", "json.py", "npl_lora.py"):
        (here / name).write_text("raise RuntimeError('the wrong one')")
    monkeypatch.chdir(here)
    assert_right(case, subject("from helper import lora_linear").ask(case))


# Conversions.


class HasArray:
    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return self.values


class HasDLPack:
    def __init__(self, values):
        self.values = values

    def __dlpack__(self, **how):
        return self.values.__dlpack__()

    def __dlpack_device__(self):
        return self.values.__dlpack_device__()


class OnACard(HasArray):
    """As CuPy's: it refuses to be converted unless it is asked to."""

    __cuda_array_interface__ = None

    def __array__(self, dtype=None, copy=None):
        raise TypeError("Implicit conversion is not allowed")

    def get(self):
        return self.values


ROW = np.array([1.0, 2.5, -3.0])


@pytest.mark.parametrize(
    "value",
    [
        ROW,
        ROW.astype(np.float16),
        ROW.astype(np.longdouble),
        ROW.astype(">f4"),
        ROW.astype(ml_dtypes.bfloat16),
        ROW.astype(ml_dtypes.float8_e5m2),
        ROW.astype(ml_dtypes.float8_e4m3fn),
        np.repeat(ROW, 2)[::2],
        array.array("d", ROW),
        array.array("f", ROW),
        memoryview(ROW),
        memoryview(np.repeat(ROW, 2))[::2],
        HasArray(ROW),
        HasArray(ROW.astype(ml_dtypes.bfloat16)),
        HasDLPack(ROW),
        OnACard(ROW),
        np.ma.masked_array(ROW),
    ],
    ids=lambda value: f"{type(value).__name__}-{getattr(value, 'dtype', '')}",
)
def test_whatever_holds_numbers_becomes_an_array(value):
    got = to_numpy("y", value)
    assert type(got) is np.ndarray
    assert got.dtype.kind == "f"
    assert got.dtype.isnative
    assert got.dtype in (np.float16, np.float32, np.float64, np.longdouble)
    np.testing.assert_array_equal(got, ROW)
    assert not np.shares_memory(got, ROW)


@pytest.mark.parametrize("value", [0.5, np.float64(0.5), np.float32(0.5), np.array(0.5), ml_dtypes.bfloat16(0.5)])
def test_a_scalar_becomes_an_array_of_no_dimensions(value):
    got = to_numpy("loss", value)
    assert got.shape == ()
    assert got.dtype.kind == "f"
    assert got == 0.5


@pytest.mark.parametrize(
    ("value", "kind"), [(3, "i"), (True, "b"), (1j, "c"), (np.arange(3), "i"), (array.array("i", [1]), "i")]
)
def test_what_is_no_floating_dtype_is_left_to_the_judge(value, kind):
    assert to_numpy("y", value).dtype.kind == kind


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.array("text"), "y has dtype <U4"),
        (np.zeros(2, "f4,f4"), "y has dtype"),
        (np.zeros(2, "M8[s]"), "y has dtype datetime64"),
        (np.zeros(2, ml_dtypes.int4), "y has dtype int4"),
        (HasArray("text"), "y is a HasArray, expected an array"),
    ],
)
def test_what_cannot_be_an_array_is_said(value, words):
    with pytest.raises(AnswerError) as caught:
        to_arrays({"y": value})
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "y is None, expected an array"),
        ([1.0], "y is a list, expected an array"),
        (b"bytes", "y is a bytes, expected an array"),
        (object(), "y is an object, expected an array"),
    ],
)
def test_what_is_no_array_at_all_is_said_in_as_many_words(value, words):
    with pytest.raises(AnswerError, match=f"^{words}$"):
        to_arrays({"y": value})


# The wire.


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x00" * 7,
        b"\xff" * 8,
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 4) + b"\xff\xfe\xfd\xfc",
        struct.pack("<Q", 32) + b'{"arrays": [["y", "float64", 3]]}'[:32],
        *(
            struct.pack("<Q", len(head)) + head
            for head in (
                b'{"arrays": [["y", "float64", [1099511627776]]]}',
                b'{"arrays": [["y", "float64", [-1]]]}',
                b'{"arrays": [["y", "float64", [3]]]}',
                b'{"arrays": [["y", "object", [0]]]}',
                b'{"arrays": [["y", "no_dtype", [0]]]}',
                b'{"arrays": 3}',
            )
        ),
    ],
)
def test_what_is_no_frame_is_refused(raw):
    with pytest.raises(FrameError):
        read_frame(io.BytesIO(raw))


def test_a_frame_too_large_is_refused_before_it_is_written():
    pipe = io.BytesIO()
    with pytest.raises(FrameError, match=f"expected at most {LIMIT:,}"):
        write_frame(pipe, {}, {"y": np.broadcast_to(1.0, (1 << 28,))})
    assert not pipe.getvalue()


# A command.

PROGRAM = """
import json, os, pathlib, subprocess, sys, time
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file
asked, result = sys.argv[1:]
"""
ANSWER = """
with safe_open(asked, "np") as file:
    case, about = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()
assert about.pop("protocol") == "1"
config = json.loads(about.pop("config"))
assert about == {"contract": "lora_linear", "id": "lora_linear/test", "dtype": "float64"}
x, W, A, B, dy = (case[name] for name in ("x", "W", "A", "B", "dy"))
s = config["alpha"] / config["r"]
h, g = x @ A.T, s * (dy @ B)
answers = {"y": x @ W.T + s * (h @ B.T), "dx": dy @ W + g @ A, "dA": g.T @ x, "dB": s * (dy.T @ h)}
save_file({name: np.ascontiguousarray(a) for name, a in answers.items()}, result)
"""


@pytest.fixture
def command(tmp_path):
    """Opens a subject that runs this source."""

    def open_it(source, words="{case} {result}", **how):
        program = tmp_path / "a program.py"
        program.write_text(source)
        return CommandSubject(
            f"{shlex.quote(sys.executable)} {shlex.quote(str(program))} {words}",
            "lora_linear",
            **{"timeout": LONG, **how},
        )

    return open_it


def test_a_program_answers_through_files(command, case, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    fortran = Case(
        case.contract, case.id, case.dtype, case.config, {n: np.asfortranarray(a) for n, a in case.arrays.items()}
    )
    mine = command(PROGRAM + "print(2_000_000 * 'chatter')\n" + ANSWER)
    assert mine.contracts == ("lora_linear",)
    assert CommandSubject(mine.name, ["rope", "lora_linear"]).contracts == ("rope", "lora_linear")
    answer = mine.ask(fortran)
    assert list(answer.outputs[0]) == sorted(answer.outputs[0])
    outputs = {name: answer.outputs[0][name] for name in ("y", "dx", "dA", "dB")}
    assert_right(case, type(answer)(outputs=(outputs,)), calls=1)
    assert not list(tmp_path.glob("npl-lora-*"))


def test_placeholders_may_be_parts_of_words(command, case):
    source = PROGRAM.replace("sys.argv[1:]", "(word.split('=')[1] for word in sys.argv[1:])") + ANSWER
    assert command(source, "--case={case} --result={result}").ask(case).error is None


def test_narrow_integer_and_bool_arrays_go_both_ways(command):
    source = PROGRAM + (
        "import ml_dtypes\nwith safe_open(asked, 'np') as file:\n"
        "    save_file({name: file.get_tensor(name) for name in file.keys()}, result)"
    )
    arrays = {"b": np.array([True, False]), "i": np.arange(3), "s": np.array(2.0), "n": np.ones(2, ml_dtypes.bfloat16)}
    (outputs,) = command(source).ask(Case("lora_linear", "dtypes", "bfloat16", {}, arrays)).outputs
    assert {name: a.dtype.name for name, a in outputs.items()} == {
        "b": "bool",
        "i": "int64",
        "s": "float64",
        "n": "float32",
    }
    assert {name: a.shape for name, a in outputs.items()} == {name: a.shape for name, a in arrays.items()}


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("sys.exit('no luck')", "ended with status 1: no luck"),
        ("os.abort()", "ended by signal SIGABRT"),
        ("print('nothing done')", "wrote no result file: nothing done"),
        ("os.mkdir(result); os.chmod(result, 0)", "the result is not a regular file"),
        ("os.mkfifo(result)", "the result is not a regular file"),
        ("os.symlink('/dev/zero', result)", "the result is not a regular file"),
        ("open(result, 'w').truncate(2 << 30)", f"the result file has {2 << 30:,} bytes, expected at most {1 << 30:,}"),
        ("open(result, 'w')", "the result file is not a valid safetensors file: SafetensorError: "),
        ("open(result, 'wb').write(bytes(range(256))); print('oops')", "not a valid safetensors file"),
        (ANSWER + "os.truncate(result, os.path.getsize(result) - 8)", "not a valid safetensors file"),
        (
            'h = b\'{"y":{"dtype":"F8_E5M2","shape":[1],"data_offsets":[0,1]}}\'\n'
            "open(result, 'wb').write(len(h).to_bytes(8, 'little') + h + b'x')",
            "not a valid safetensors file",
        ),
    ],
)
def test_a_program_that_fails_is_one_clear_line(command, case, source, error):
    answer = command(PROGRAM + source).ask(case)
    assert error in answer.error
    assert "\n" not in answer.error
    if "oops" in source:
        assert answer.error.endswith(": oops")


def test_status_77_is_absent(command, case):
    assert command("print('no bias yet'); exit(77)").ask(case).absent == "no bias yet"
    assert command("exit(77)").ask(case).absent == "not supported"


@pytest.mark.parametrize("leader", light(["sys.exit(5)", "time.sleep(60)"]))
def test_a_grandchild_that_holds_the_pipe_is_ended_too(command, case, tmp_path, leader):
    source = f"""
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
print("waiting", flush=True)
{leader}
"""
    start = time.monotonic()
    answer = command(source, timeout=1.0).ask(case)
    assert answer.error == ("took longer than 1 s: waiting" if "sleep" in leader else "ended with status 5: waiting")
    assert time.monotonic() - start < 3.0
    assert_ends(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("there_is_no_such_program {case} {result}", "there_is_no_such_program: no such program"),
        (f"{shlex.quote(__file__)} {{case}} {{result}}", "test_subjects.py: not executable"),
        ("cat {result}", "the command has no {case}"),
        ("cat {case}", "the command has no {result}"),
        ("", "the command has no {case}"),
        ("cat 'half {case} {result}", "cannot be split into words"),
    ],
)
def test_a_command_that_cannot_be_run_is_one_sentence(line, sentence):
    with pytest.raises(TargetError) as caught:
        CommandSubject(line, "lora_linear")
    assert sentence in str(caught.value)


def test_without_safetensors_the_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(TargetError, match=r"pip install 'npl-lora\[files\]'"):
        CommandSubject("cat {case} {result}", "lora_linear")
