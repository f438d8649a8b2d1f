"""A test of the tests: with one fault planted in a pullback, the comparison with the complex step must fail.

mutations.py says which faults. Those of compose.py are planted in test_compose.py.
"""

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


CASES = [
    (name, k) for name in OPS for k in range(count_places(module_of(name)[1], lambda target, n=name: mutate(n, target)))
]


@pytest.mark.parametrize(("name", "k"), CASES)
def test_a_fault_in_a_pullback_is_seen(name, k):
    module, path = module_of(name)
    changed, line = mutant(module, path, mutate(name, k))
    assert wrong_somewhere(name, getattr(changed, name)), f"{module}, line {line}: a fault there is not seen"


@pytest.mark.parametrize("name", OPS)
def test_the_op_itself_is_not_wrong(name):
    assert not wrong_somewhere(name, getattr(ops, name))


def test_every_op_but_the_composed_ones_has_places_for_a_fault():
    without = {name for name in OPS if not any(case[0] == name for case in CASES)}
    assert without == COMPOSED
