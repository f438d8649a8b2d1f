"""Faults planted in a module's source, one at a time, for tests of the tests.

In a copy of the source, every sign is turned (a sum made a difference or the reverse, a minus dropped), and so is every
product and every gradient that is handed out. And every product loses its left factor: a forgotten scale or mask.
"""

import ast
import types


class Mutate(ast.NodeTransformer):
    """Plants the fault number `target` in the functions of one name; counts the places where one can be planted.

    skip: functions that are left alone, with all that is in them.
    """

    def __init__(self, target, functions=("backward",), skip=()):
        self.functions, self.skip, self.target = functions, skip, target
        self.count, self.depth, self.line = 0, 0, None

    def visit_keyword(self, node):
        return node if node.arg == "axis" else self.generic_visit(node)  # the minus of axis=-1 is no sign

    def visit_FunctionDef(self, node):
        if node.name in self.skip:
            return node
        self.depth += node.name in self.functions
        self.generic_visit(node)
        self.depth -= node.name in self.functions
        return node

    def _is_target(self, node):
        inside = self.depth > 0
        self.count += inside
        chosen = inside and self.count - 1 == self.target
        self.line = node.lineno if chosen else self.line
        return chosen

    def visit_BinOp(self, node):
        self.generic_visit(node)
        if isinstance(node.op, (ast.Add, ast.Sub)) and self._is_target(node):
            node.op = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
        if isinstance(node.op, (ast.Mult, ast.MatMult)) and self._is_target(node):
            return ast.UnaryOp(ast.USub(), node)
        if isinstance(node.op, ast.Mult) and self._is_target(node):
            return node.right
        return node

    def visit_UnaryOp(self, node):
        self.generic_visit(node)
        return node.operand if isinstance(node.op, ast.USub) and self._is_target(node) else node

    def visit_Assign(self, node):
        """grads["x"] = value."""
        self.generic_visit(node)
        target = node.targets[0]
        if isinstance(target, ast.Subscript) and getattr(target.value, "id", "") == "grads" and self._is_target(node):
            node.value = ast.UnaryOp(ast.USub(), node.value)
        return node

    def visit_Return(self, node):
        """return {"x": value}."""
        self.generic_visit(node)
        for entries in [d for d in ast.walk(node) if isinstance(d, ast.Dict)]:
            for k, key in enumerate(entries.keys):
                if isinstance(key, ast.Constant) and self._is_target(node):
                    entries.values[k] = ast.UnaryOp(ast.USub(), entries.values[k])
        return node


class MutateComposition(Mutate):
    """Also turns the decisions: what is in a set, which stage is the lowest, which of two values is taken."""

    def visit_BinOp(self, node):
        if isinstance(node.op, ast.BitAnd) and self._is_target(node):
            node.op = ast.BitOr()
        if isinstance(node.op, ast.Mult):  # of sizes; a negative size in a shape is no fault, NumPy works it out
            self.generic_visit(node)
            return node.right if self._is_target(node) else node
        return super().visit_BinOp(node)

    def visit_Compare(self, node):
        self.generic_visit(node)
        turned = {
            ast.In: ast.NotIn,
            ast.NotIn: ast.In,
            ast.Gt: ast.GtE,
            ast.Eq: ast.NotEq,
            ast.NotEq: ast.Eq,
            ast.IsNot: ast.Is,
        }
        if self._is_target(node):
            node.ops = [turned[type(node.ops[0])]()]
        return node

    def visit_IfExp(self, node):
        self.generic_visit(node)
        if self._is_target(node):
            node.body, node.orelse = node.orelse, node.body
        return node


def mutant(module, path, mutate):
    """The source at path with mutate's fault, run as that module; and what the fault is. None beyond the last."""
    source = path.read_text(encoding="utf-8")
    tree = ast.fix_missing_locations(mutate.visit(ast.parse(source)))
    if mutate.line is None:
        return None
    changed = types.ModuleType(module)
    changed.__package__ = module.rpartition(".")[0]
    exec(compile(tree, str(path), "exec"), changed.__dict__)
    was, now = _statements(ast.parse(source), tree)
    return changed, f"{path.name}, line {mutate.line},\n    {was}\nwritten as\n    {now}"


def _statements(before, after):
    """The statement in which two trees differ, of the one and of the other."""
    lines = (ast.unparse(tree).splitlines() for tree in (before, after))
    return next((a.strip(), b.strip()) for a, b in zip(*lines, strict=True) if a != b)


def count_places(path, new_mutate):
    """How many faults there are to plant; new_mutate(target) gives the transformer."""
    mutate = new_mutate(-1)
    mutate.visit(ast.parse(path.read_text(encoding="utf-8")))
    return mutate.count
