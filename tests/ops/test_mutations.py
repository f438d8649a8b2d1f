"""A test of the tests: with one fault planted in a pullback, the comparison with the complex step must fail.

mutations.py says which faults. Those of compose.py are planted in test_compose.py.
"""

import ast
import re
from pathlib import Path

import numpy as np
import pytest
from agreement import complex_step, convention, cotangent
from configurations import OPS, build, points_of
from mutations import Mutate, count_places, mutant

from npl_lora import ops

FOLDER = Path(ops.__file__).parent
COMPOSED = {"gated_mlp", "lora_mlp"}  # of stages (see test_compose): no backward of their own


def module_of(name):
    module = getattr(ops, name).__module__
    return module, FOLDER / f"{module.rpartition('.')[2]}.py"


def mutate(name, target):
    return Mutate(target, skip=set(OPS) - {name})


def wrong_somewhere(name, op):
    """Does any gradient of the op differ from the complex step at one of the points?"""
    for point in points_of(name).values():
        inputs, config = build(name, point)
        y, pullback = op(**inputs, **config)
        dy = cotangent(y)
        grads = pullback(dy, wrt=pullback.inputs)
        for n, grad in grads.items():
            expected = convention(name, config, n, complex_step(op, inputs, config, n, dy))
            if not np.allclose(grad, expected, rtol=1e-9, atol=1e-9 * max(np.max(np.abs(expected), initial=0), 1e-3)):
                return True
    return False


UNSEEN = """
a fault in {fault}
changes no gradient at any of the op's points by more than 1e-9 of its size. Perhaps what was changed never counts: then
leave it out. Perhaps it counts for inputs that the points lack, or by less than that: then let the points in
tests/configurations.py show it, or write the formula in another way."""

CASES = [
    (name, k) for name in OPS for k in range(count_places(module_of(name)[1], lambda target, n=name: mutate(n, target)))
]


@pytest.mark.parametrize(("name", "k"), CASES)
def test_a_fault_in_a_pullback_is_seen(name, k):
    module, path = module_of(name)
    changed, fault = mutant(module, path, mutate(name, k))
    assert wrong_somewhere(name, getattr(changed, name)), UNSEEN.format(fault=fault)


def test_a_fault_is_shown_with_its_statement():
    module, path = module_of("relu")
    _, fault = mutant(module, path, mutate("relu", 0))
    line = path.read_text(encoding="utf-8").splitlines()[int(re.findall(r"relu.py, line (\d+)", fault)[0]) - 1]
    was, now = (shown.strip() for shown in fault.split("\n")[1::2])
    assert ast.unparse(ast.parse(line.strip())) == was
    assert now != was


@pytest.mark.parametrize("name", OPS)
def test_the_op_itself_is_not_wrong(name):
    assert not wrong_somewhere(name, getattr(ops, name))


def test_every_op_but_the_composed_ones_has_places_for_a_fault():
    without = {name for name in OPS if not any(case[0] == name for case in CASES)}
    assert without == COMPOSED
