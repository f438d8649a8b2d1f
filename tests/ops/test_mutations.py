"""A test of the tests: with one sign changed in a pullback, the comparison with the complex step must fail.

Every sign that stands in a pullback (a sum made a difference or the reverse, a minus dropped), every product and every
gradient that it hands out is turned in a copy of the op's source, one at a time. And every product loses its left
factor: a scale or a mask that is forgotten.
"""

import ast
import importlib
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from agreement import complex_step, convention, cotangent
from configurations import OPS, POINTS, build

from npl_lora import ops

FOLDER = Path(ops.__file__).parent
MODULES = {name: getattr(ops, name).__module__ for name in OPS}
COMPOSED = {"gated_mlp", "lora_attention", "lora_mlp"}  # of stages (see test_compose): no backward of their own


class Mutate(ast.NodeTransformer):
    """Makes the fault number `target` in an op's pullback; counts the places where one can be made."""

    def __init__(self, op, target):
        self.others, self.target, self.count, self.inside, self.line = set(OPS) - {op}, target, 0, 0, None

    def visit_keyword(self, node):
        return node if node.arg == "axis" else self.generic_visit(node)  # the minus of axis=-1 is no sign

    def visit_FunctionDef(self, node):
        if node.name in self.others:
            return node
        self.inside += node.name == "backward"
        self.generic_visit(node)
        self.inside -= node.name == "backward"
        return node

    def _here(self, node):
        self.count += self.inside > 0
        found = self.inside > 0 and self.count - 1 == self.target
        self.line = node.lineno if found else self.line
        return found

    def visit_BinOp(self, node):
        self.generic_visit(node)
        if isinstance(node.op, (ast.Add, ast.Sub)) and self._here(node):
            node.op = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
        if isinstance(node.op, (ast.Mult, ast.MatMult)) and self._here(node):
            return ast.UnaryOp(ast.USub(), node)
        if isinstance(node.op, ast.Mult) and self._here(node):
            return node.right
        return node

    def visit_UnaryOp(self, node):
        self.generic_visit(node)
        return node.operand if isinstance(node.op, ast.USub) and self._here(node) else node

    def visit_Assign(self, node):
        """grads["x"] = value."""
        self.generic_visit(node)
        target = node.targets[0]
        if isinstance(target, ast.Subscript) and getattr(target.value, "id", "") == "grads" and self._here(node):
            node.value = ast.UnaryOp(ast.USub(), node.value)
        return node

    def visit_Return(self, node):
        """return {"x": value}."""
        self.generic_visit(node)
        for found in [d for d in ast.walk(node) if isinstance(d, ast.Dict)]:
            for k, key in enumerate(found.keys):
                if isinstance(key, ast.Constant) and self._here(node):
                    found.values[k] = ast.UnaryOp(ast.USub(), found.values[k])
        return node


def mutant(op, module, target):
    """The module's source with one fault, run under the same name; and the line it is in. None beyond the last."""
    path = FOLDER / f"{module.rsplit('.', 1)[1]}.py"
    mutate = Mutate(op, target)
    tree = ast.fix_missing_locations(mutate.visit(ast.parse(path.read_text())))
    if mutate.line is None:
        return None
    changed = types.ModuleType(module)
    changed.__package__ = "npl_lora.ops"
    exec(compile(tree, str(path), "exec"), changed.__dict__)
    return changed, mutate.line


def wrong_somewhere(name, op):
    """Does any gradient of the op differ from the complex step at one of the points?"""
    for point in POINTS:
        inputs, config = build(name, point)
        y, pullback = op(**inputs, **config)
        dy = cotangent(y)
        grads = pullback(dy, wrt=pullback.inputs)
        for n, grad in grads.items():
            expected = convention(name, config, n, complex_step(op, inputs, config, n, dy))
            if not np.allclose(grad, expected, rtol=1e-9, atol=1e-9 * max(np.max(np.abs(expected), initial=0), 1e-3)):
                return True
    return False


def places(op, module):
    count = 0
    while mutant(op, module, count) is not None:
        count += 1
    return count


CASES = [(name, MODULES[name], k) for name in OPS for k in range(places(name, MODULES[name]))]


def op_from(name, module, changed, monkeypatch):
    """The op, built on the changed module: its own, or one that it imports."""
    if module == MODULES[name]:
        return changed.__dict__[name]
    monkeypatch.setitem(sys.modules, module, changed)
    fresh = importlib.util.module_from_spec(importlib.util.find_spec(MODULES[name]))
    fresh.__spec__.loader.exec_module(fresh)
    return getattr(fresh, name)


@pytest.mark.parametrize(("name", "module", "k"), CASES)
def test_a_fault_in_a_pullback_is_seen(name, module, k, monkeypatch):
    changed, line = mutant(name, module, k)
    op = op_from(name, module, changed, monkeypatch)
    assert wrong_somewhere(name, op), f"{module}, line {line}: a fault there is not seen"


@pytest.mark.parametrize("name", OPS)
def test_the_op_itself_is_not_wrong(name):
    assert not wrong_somewhere(name, getattr(ops, name))


def test_every_op_but_the_composed_ones_has_places_for_a_fault():
    without = {name for name in OPS if not any(case[0] == name for case in CASES)}
    assert without == COMPOSED
