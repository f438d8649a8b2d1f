"""The face of an op: what its source and its help show are complete, agree with each other and with the op."""

import ast
import doctest
import inspect
import re
import tokenize
from pathlib import Path

import numpy as np
import pytest
from configurations import FIRST, OPS, build

from npl_lora import ops


def source_of(name):
    return Path(inspect.getsourcefile(getattr(ops, name)))


def definition_of(name):
    tree = ast.parse(source_of(name).read_text(encoding="utf-8"))
    return next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)


def comments_of(name):
    """{line: the comment at its end, or on it}."""
    with source_of(name).open("rb") as file:
        return {t.start[0]: t.string[2:] for t in tokenize.tokenize(file.readline) if t.type == tokenize.COMMENT}


def arguments_of(definition):
    a = definition.args
    return [*a.posonlyargs, *a.args, *a.kwonlyargs, *([a.kwarg] if a.kwarg else [])]


def shapes_of(name):
    """{array argument: its shape}, as the comments of the signature have them; combine's factors stand in one."""
    definition, comments = definition_of(name), comments_of(name)
    shapes = {}
    for argument in arguments_of(definition):
        if "Array" in ast.unparse(argument.annotation):
            comment = comments[argument.lineno]
            named = re.findall(r"(\w+) (\([^)]*\))", comment) if argument.arg == "factors" else []
            shapes |= dict(named) or {argument.arg: comment[: comment.index(")") + 1]}
    return shapes


def flat(text):
    return " ".join(text.split())


@pytest.mark.parametrize("name", OPS)
def test_one_argument_a_line_with_its_shape_or_its_meaning(name):
    definition, comments = definition_of(name), comments_of(name)
    lines = [argument.lineno for argument in arguments_of(definition)]
    assert len(set(lines)) == len(lines)
    assert definition.lineno not in lines
    assert all(comments[line] for line in lines)
    assert all(re.fullmatch(r"\([^()]*\)", shape) for shape in shapes_of(name).values())
    assert re.match(r"(y|loss|delta|W'?) \([^()]*\)", comments[definition.returns.end_lineno])


@pytest.mark.parametrize("name", OPS)
def test_help_has_the_shapes_of_the_signature_and_leads_to_the_derivation(name):
    doc = flat(getattr(ops, name).__doc__)
    formula, shapes = doc.split(" Shapes: ")
    assert "=" in formula
    for argument, shape in shapes_of(name).items():
        assert f"{argument} {shape}" in shapes, argument
    returned = comments_of(name)[definition_of(name).returns.end_lineno]
    assert f"-> {returned.partition(',')[0]}" in shapes or f"-> {returned}" in shapes
    path = source_of(name)
    assert doc.endswith(f"Derivation: at the top of npl_lora/ops/{path.name}.")
    assert "Derivation" in ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert "differentiates" in shapes


@pytest.mark.parametrize("name", OPS)
def test_what_the_signature_calls_frozen_is_frozen(name):
    inputs, config = build(name, FIRST)
    _, pullback = getattr(ops, name)(**inputs, **config)
    comments = comments_of(name)
    frozen = {a.arg for a in arguments_of(definition_of(name)) if re.search(r"\bfrozen$", comments[a.lineno])}
    assert frozen == set(pullback.frozen)


def backwards_of(name):
    tree = ast.parse(source_of(name).read_text(encoding="utf-8"))
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "backward"]
    return [node for node in nodes if not _is_another_op(tree, node, name)]


def _is_another_op(tree, node, name):
    others = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name in OPS and n.name != name]
    return any(other.lineno <= node.lineno <= other.end_lineno for other in others)


def gradients_of(backward):
    """The statements that hand out a gradient: grads[name] = ..., and return {name: ...}."""
    for node in ast.walk(backward):
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        if isinstance(target, ast.Subscript) and getattr(target.value, "id", "") == "grads":
            yield node
        if isinstance(node, ast.Return) and any(isinstance(d, ast.Dict) and d.keys for d in ast.walk(node)):
            yield node


@pytest.mark.parametrize("name", OPS)
def test_every_gradient_quotes_a_forward_line_that_stands_above(name):
    """The quotation is on the gradient's line, on the line above it, or on the lines that lead to it."""
    comments = comments_of(name)
    above = flat(ast.get_docstring(ast.parse(source_of(name).read_text(encoding="utf-8"))))
    for backward in backwards_of(name):
        for node in gradients_of(backward):
            near = [comments.get(line, "") for line in range(node.lineno - 1, node.end_lineno + 1)]
            assert any(comment.startswith("forward was: ") for comment in near), ast.unparse(node)
        for line in range(backward.lineno, backward.end_lineno + 1):
            if "forward" in comments.get(line, ""):
                quoted = flat(comments[line].removeprefix("forward was: "))
                assert quoted in above, f"{source_of(name).name}:{line}: {quoted}"


def test_a_pullback_says_what_it_differentiates():
    inputs, config = build("lora_linear", FIRST)
    assert repr(ops.lora_linear(**inputs, **config)[1]) == "Pullback(y (2, 3, 4) -> x, A, B; frozen: W, b)"
    assert repr(ops.silu(inputs["x"])[1]) == "Pullback(y (2, 3, 3) -> z)"
    assert repr(ops.mean_squared_error(inputs["x"], inputs["x"])[1]) == "Pullback(y () -> prediction)"


def test_the_example_in_the_help_runs():
    found = doctest.DocTestFinder().find(ops.lora_linear, globs={"np": np, "lora_linear": ops.lora_linear})
    results = [doctest.DocTestRunner().run(example) for example in found]
    assert sum(result.attempted for result in results) == 3
    assert sum(result.failed for result in results) == 0
