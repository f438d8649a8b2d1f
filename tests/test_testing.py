"""conforms and its pytest plugin: one test a case, the case's message for a failure, and no trace elsewhere."""

import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest

import npl_lora
from npl_lora.oracle import CONTRACTS, DTYPES
from npl_lora.oracle.subjects import TargetError
from npl_lora.testing import asked, conforms, conforms_layer

pytest_plugins = ["pytester"]

PLUGIN = ("-p", "npl_lora.pytest_plugin")
RIGHT = """
    import numpy as np
    from npl_lora.oracle import CONTRACTS
    from npl_lora.oracle.dtypes import computable
    from npl_lora.testing import conforms

    def right(case):
        return CONTRACTS[case.contract].answer(computable(case.arrays), case.config)
"""


def cases(contract, which=lambda case: True):
    return sum(map(which, CONTRACTS[contract].cases("float64")))


def rslora(case):
    return case.config["use_rslora"]


def run(pytester, source, *options):
    pytester.makepyfile(source)
    return pytester.runpytest(*PLUGIN, "-p", "no:cacheprovider", *options)


def test_one_test_a_case_named_by_its_id(pytester):
    source = RIGHT + "\n    lora_merge = conforms('lora_merge')(right)\n    del right\n"
    done = run(pytester, source, "-v")
    done.assert_outcomes(passed=cases("lora_merge") * len(DTYPES))
    done.stdout.fnmatch_lines(["*::lora_merge[[]lora_merge/fan-in-fan-out/float16] PASSED*"])


def test_a_wrong_case_fails_with_its_message_and_no_traceback(pytester):
    source = RIGHT + (
        "\n    @conforms('lora_merge', dtypes=('float32',))\n    def test_mine(case):\n"
        "        answer = right(case)\n"
        "        wrong = case.config['use_rslora']\n"
        "        return {**answer, 'W_merged': answer['W_merged'] * np.float32(3 if wrong else 1)}\n"
    )
    done = run(pytester, source)
    done.assert_outcomes(passed=cases("lora_merge") - cases("lora_merge", rslora), failed=cases("lora_merge", rslora))
    done.stdout.fnmatch_lines(["W_merged: 3 times the right answer, everywhere"])
    done.stdout.no_fnmatch_line("*Traceback*")
    done.stdout.no_fnmatch_line("*def *")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise KeyError('nothing')", "KeyError: 'nothing' at test_what_the_check_says*.py:12"),
        ("return 3", "returned an int, expected a mapping from name to array"),
        ("case.arrays['W'][...] += 1; return right(case)", "changed its input W"),
        ("seen.append(1); return right(case) if len(seen) % 2 else {}", "a second call differs: W_merged: *"),
    ],
)
def test_what_the_check_says_is_what_the_test_says(pytester, body, message):
    done = run(
        pytester,
        RIGHT
        + f"\n    seen = []\n    @conforms('lora_merge', dtypes=('float32',))\n    def mine(case):\n        {body}\n",
    )
    done.assert_outcomes(failed=cases("lora_merge"))
    done.stdout.fnmatch_lines([message])


RAISES = RIGHT + (
    "\n    def helper(secret):\n        return np.zeros(3).reshape(secret)\n"
    "\n    @conforms('lora_merge', dtypes=('float32',))\n    def mine(case):\n        return {'W_merged': helper(7)}\n"
)


def test_the_traceback_of_what_was_raised_begins_at_the_function(pytester):
    done = run(pytester, RAISES, "-x")
    done.stdout.fnmatch_lines(["ValueError: cannot reshape array * at test_the_traceback*.py:10"])
    done.stdout.fnmatch_lines(["  File *, line 14, in mine", "  File *, line 10, in helper", "ValueError: cannot *"])
    done.stdout.no_fnmatch_line("*npl_lora/*.py*")


@pytest.mark.slow
def test_pdb_stops_where_the_function_raised(pytester):
    pytester.makepyfile(RAISES)
    done = pytester.run(
        sys.executable, "-m", "pytest", *PLUGIN, "-x", "--pdb", stdin=b"print('it', 'was', secret)\nquit\n"
    )
    done.stdout.fnmatch_lines(["*it was 7*"])


def test_what_is_not_supported_is_skipped_with_the_reason(pytester):
    source = RIGHT + (
        "\n    @conforms('lora_merge')\n    def mine(case):\n"
        "        if case.config['use_rslora']:\n            raise NotImplementedError('no rsLoRA here')\n"
        "        return right(case)\n"
    )
    done = run(pytester, source, "-rs")
    done.assert_outcomes(
        passed=(cases("lora_merge") - cases("lora_merge", rslora)) * len(DTYPES),
        skipped=cases("lora_merge", rslora) * len(DTYPES),
    )
    done.stdout.fnmatch_lines(["SKIPPED*no rsLoRA here"])


def test_dtypes_k_and_a_tests_own_name_select(pytester):
    source = RIGHT + "\n    mine = conforms('lora_merge', dtypes=('float16', 'float64'))(right)\n    del right\n"
    run(pytester, source).assert_outcomes(passed=2 * cases("lora_merge"))
    chosen = run(pytester, source, "-k", "square and float16")
    chosen.assert_outcomes(passed=1, deselected=2 * cases("lora_merge") - 1)
    (file,) = pytester.path.glob("test_*.py")
    pytester.runpytest(*PLUGIN, f"{file}::mine[lora_merge/rslora/float16]").assert_outcomes(passed=1)


def test_marks_hold_for_every_case(pytester):
    source = RIGHT + (
        "\n    import pytest\n    @pytest.mark.xfail(reason='not yet', strict=True)\n"
        "    @conforms('lora_merge', dtypes=('float32',))\n"
        "    def mine(case):\n        return {}\n"
    )
    run(pytester, source).assert_outcomes(xfailed=cases("lora_merge"))


@pytest.mark.parametrize("mark", ["skip", "skipif(True, reason='later')", "skipif('True', reason='later')"])
def test_a_marked_skip_is_reported_at_the_users_function(pytester, mark):
    source = RIGHT + (
        f"\n    import pytest\n    @pytest.mark.{mark}\n    @conforms('lora_merge', dtypes=('float32',))\n"
        "    def mine(case):\n        return {}\n"
    )
    done = run(pytester, source, "-rs")
    done.assert_outcomes(skipped=cases("lora_merge"))
    (file,) = pytester.path.glob("test_*.py")
    line = 1 + file.read_text().splitlines().index(f"@pytest.mark.{mark}")
    done.stdout.fnmatch_lines([f"SKIPPED*{file.name}:{line}: *"])


def test_a_skip_needs_no_function_in_the_same_file(pytester):
    pytester.makepyfile(elsewhere="def mine(case):\n    return {}\n")
    source = (
        "\n    import elsewhere, pytest\n    from npl_lora.testing import conforms\n    pytestmark = pytest.mark.skip\n"
        "    mine = conforms('lora_merge', dtypes=('float32',))(elsewhere.mine)\n"
    )
    run(pytester, source).assert_outcomes(skipped=cases("lora_merge"))


def test_other_tests_are_left_to_pytest(pytester):
    source = RIGHT + (
        "\n    class Anything:\n        def __getattr__(self, name):\n            raise RuntimeError(name)\n"
        "    anything = Anything()\n    def test_plain():\n        pass\n"
    )
    run(pytester, source).assert_outcomes(passed=1)


def test_the_function_stays_what_it_was():
    def mine(case):
        return {}

    assert conforms("lora_merge", dtypes=["float32"])(mine) is mine
    assert [case.dtype for case in asked(mine).cases()] == ["float32"] * cases("lora_merge")
    assert asked(len) is None
    assert {case.dtype for case in asked(conforms("rope", dtypes="float16")(lambda case: {})).cases()} == {"float16"}


def test_the_method_of_an_object_is_asked(pytester):
    source = RIGHT + (
        "\n    class Mine:\n        def merge(self, case):\n            return right(case)\n"
        "    mine = conforms('lora_merge', dtypes='float32')(Mine().merge)\n"
    )
    run(pytester, source).assert_outcomes(passed=cases("lora_merge"))


def test_two_decorators_ask_both_contracts(pytester):
    source = RIGHT + (
        "\n    @conforms('lora_merge', dtypes='float32')\n    @conforms('rms_norm', dtypes='float64')\n"
        "    def mine(case):\n        return right(case)\n"
    )
    done = run(pytester, source, "-v")
    done.assert_outcomes(passed=cases("lora_merge") + cases("rms_norm"))
    done.stdout.fnmatch_lines(["*::mine[[]rms_norm/*/float64] PASSED*", "*::mine[[]lora_merge/*/float32] PASSED*"])


@pytest.mark.parametrize(
    "source",
    [
        "@conforms('lora_merge')\n    def mine(case, tmp_path):\n        return {}\n",
        "@pytest.mark.parametrize('k', [1, 2])\n    @conforms('lora_merge')\n    def mine(case, k):\n        pass\n",
        "class TestMine:\n        @conforms('lora_merge')\n        def test_mine(self, case):\n            return {}\n",
        "@conforms('lora_merge')\n    def mine():\n        return {}\n",
    ],
    ids=["fixture", "parametrize", "test class", "nothing"],
)
def test_what_is_no_function_of_one_case_is_refused(pytester, source):
    done = run(pytester, f"{RIGHT}\n    import pytest\n    {source}")
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines(["*TypeError: *mine(*) cannot be asked: conforms takes a function of one case, and *"])


def test_an_object_that_answers_cases_is_asked_them_and_nothing_else():
    tests = conforms_layer(types.SimpleNamespace(lora_merge=lambda case: {}), dtypes="float32")
    assert [case.id for case in tests.cases()] == [case.id for case in CONTRACTS["lora_merge"].cases("float32")]


def test_a_module_of_layers_is_refused_with_their_names():
    """Its tests would be none."""
    base = type("Module", (), {"__module__": "torch.nn"})
    init = {"__init__": lambda self, in_features, out_features, rank: None, "__module__": "mine"}
    module = types.ModuleType("mine")
    module.LoRALinear = type("LoRALinear", (base,), init)
    with pytest.raises(TargetError, match=r"^mine has layers: give one of LoRALinear$"):
        conforms_layer(module)


def test_an_unknown_contract_or_dtype_is_refused():
    with pytest.raises(ValueError, match=r"^contract is 'lora', expected one of lora_linear, "):
        conforms("lora")
    with pytest.raises(ValueError, match=r"^dtypes has 'int8', expected some of float64, "):
        conforms("lora_merge", dtypes=("int8",))


def test_the_plugin_imports_pytest_and_nothing_else():
    code = (
        "import sys, pytest\nbefore = set(sys.modules)\nimport npl_lora.pytest_plugin\n"
        "print(sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "['npl_lora', 'npl_lora.pytest_plugin']"


def test_pytest_finds_the_plugin_under_its_modules_name():
    """So that -p npl_lora.pytest_plugin beside the entry point is the same plugin, once."""
    project = tomllib.loads((Path(npl_lora.__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"npl_lora.pytest_plugin": "npl_lora.pytest_plugin"}


@pytest.mark.torch
def test_a_layer_gives_a_test_for_each_case_and_fact(pytester):
    source = """
        import torch
        from torch import nn
        from npl_lora.testing import conforms_layer

        class Mine(nn.Module):
            def __init__(self, base, r, alpha):
                super().__init__()
                self.base = base.requires_grad_(False)
                self.A = nn.Parameter(torch.randn(r, base.in_features))
                self.B = nn.Parameter(torch.randn(base.out_features, r))
                self.s = alpha

            def forward(self, x):
                return self.base(x) + self.s * x @ self.A.T @ self.B.T

        test_mine = conforms_layer(Mine, dtypes=["float64"])
        test_strict = conforms_layer(Mine, dtypes=["float64"], strict=True)
    """
    done = run(pytester, source, "-v")
    done.stdout.fnmatch_lines(["*::test_mine[[]lora_linear/tokens/float64] PASSED*"])
    done.stdout.fnmatch_lines(["*::test_mine[[]layer/start/any] FAILED*"])
    done.stdout.fnmatch_lines(["*::test_strict[[]layer/convention/any] FAILED*"])
    assert done.parseoutcomes()["failed"] == 3


def test_what_is_no_layer_is_refused():
    with pytest.raises(TargetError, match="no function named after a contract"):
        conforms_layer(object())
    with pytest.raises(ValueError, match="float8"):
        conforms_layer(object(), dtypes=["float8"])
