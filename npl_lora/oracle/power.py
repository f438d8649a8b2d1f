"""How often the verdict is wrong: measured, in both directions.

False alarms: freshly drawn cases are answered in their own dtype in ways that are all right, and none may fail. A way
is a Definition whose lora_linear is computed otherwise (the scale folded into a factor, or its root into both; LoRA
merged into the weight; sums over another order, in blocks, in a wider dtype), so it goes through attention, the MLP,
convolutions and training as well.

Misses: every fault of the catalogue is put into every contract, in every dtype alone, and must fail wherever it changes
some number by more than ten times what right answers are off there (a third of what is allowed, see `measured`).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..ops import Pullback
from ..support.ranks import ALONE, Ranks
from .case import Case
from .contracts import CONTRACTS
from .contracts.draw import Draw
from .definition import RIGHT, Wrap
from .dtypes import computable, dtype_by_name
from .faults.relevant import relevant_to
from .subjects.injected import Injected
from .tolerance.judge import Right, judge, right_answer
from .tolerance.measured import MARGIN, tighten

CLEAR = 10.0  # a change of so many times the spread of right answers has to be seen

Progress = Callable[[str, int, int], None]
_Asked = tuple[int, str, int, str, str]  # the answers before, and of the case: contract, seed, draw, dtype


@dataclass
class Counts:
    """alarms and misses name what went wrong; nearest is the largest error / allowed of a right answer."""

    answers: int = 0
    nearest: float = 0.0
    alarms: list[str] = field(default_factory=list)
    faults: int = 0
    unclear: int = 0
    misses: list[str] = field(default_factory=list)

    def add(self, other: "Counts") -> None:
        """What another counted, after what this one did."""
        self.answers += other.answers
        self.nearest = max(self.nearest, other.nearest)
        self.alarms += other.alarms
        self.faults += other.faults
        self.unclear += other.unclear
        self.misses += other.misses


def summary(counts: Counts) -> list[str]:
    """The counts in sentences, and what went wrong."""
    return [
        f"right answers: {counts.answers:,} tried, {len(counts.alarms):,} called wrong; "
        f"the largest error is {counts.nearest:.2f} of what is allowed",
        f"faults in a contract and a dtype: {counts.faults:,} tried that show clearly, {len(counts.misses):,} missed; "
        f"{counts.unclear:,} below {CLEAR:g} times the spread of right answers",
        *(f"called wrong: {alarm}" for alarm in counts.alarms),
        *(f"missed: {miss}" for miss in counts.misses),
    ]


def false_alarms(n: int, dtypes: tuple[str, ...], counts: Counts, on: Progress, ranks: Ranks = ALONE) -> None:
    """n right answers, judged. All ranks draw which cases are asked, and each asks some of them."""
    rng, per_case = np.random.default_rng(0), sum(1 for _ in ways(np.random.default_rng(0)))
    contracts = [contract for contract in CONTRACTS.values() if contract.judge is None and contract.name != "lora_init"]
    asked: list[_Asked] = []
    for before in range(0, n, per_case):
        contract, seed = contracts[rng.integers(len(contracts))], int(rng.integers(2**32))
        name, dtype = rng.choice(list(contract.draws)), str(rng.choice(dtypes))
        asked.append((before, contract.name, seed, name, dtype))
    for found in ranks.each(lambda one: _alarms_of(one, lambda what, done: on(what, done, n)), asked):
        counts.add(found)


def _alarms_of(asked: _Asked, on: Callable[[str, int], None]) -> Counts:
    """One case, answered in every way."""
    before, of, seed, name, dtype = asked
    counts, contract = Counts(), CONTRACTS[of]
    arrays, config = contract.draws[name](Draw(f"{contract.name}/{name}/{seed}", dtype))
    case = Case(contract.name, f"{contract.name}/{name}/{dtype}", dtype, config, arrays)
    right = tighten(case, right_answer(case, contract.answer), contract.answer)
    for way, wrap in ways(np.random.default_rng(seed)):
        on(f"{case.id}, {way}", before + counts.answers)
        answer = contract.answer(computable(case.arrays), config, RIGHT.wrapped(lora_linear=wrap))
        outputs = {output: np.asarray(t).astype(dtype_by_name(dtype)) for output, t in answer.items()}
        verdicts = judge(right, outputs)
        counts.answers += 1
        for output, verdict in verdicts.items():
            counts.nearest = max(counts.nearest, (verdict.error or 0.0) / (verdict.allowed or math.inf))
            if verdict.verdict == "fail":
                counts.alarms.append(f"{case.id}, seed {seed}, {way}: {output}: {verdict.note}")
    return counts


def misses(dtypes: tuple[str, ...], counts: Counts, on: Progress, ranks: Ranks = ALONE) -> None:
    """Every fault in every contract and dtype that shows it clearly, judged; a rank takes some contracts and dtypes."""
    asked = [(c, dtype) for c in CONTRACTS for dtype in dtypes if CONTRACTS[c].judge is None and c != "lora_init"]

    def count(done: int) -> Counts:
        contract, dtype = asked[done]
        on(f"faults of {contract}, {dtype}", done, len(asked))
        return _misses_of(contract, dtype)

    for found in ranks.each(count, range(len(asked))):
        counts.add(found)


def _misses_of(contract: str, dtype: str) -> Counts:
    counts, cases = Counts(), CONTRACTS[contract].cases(dtype)
    rights = [tighten(c, right_answer(c, CONTRACTS[contract].answer), CONTRACTS[contract].answer) for c in cases]
    for fault in relevant_to(contract):
        subject, clear, failed = Injected(fault), False, False
        for case, right in zip(cases, rights, strict=True):
            outputs = subject.ask(case).outputs
            clear = clear or outputs is None or _changes(right, outputs[0]) > CLEAR
            failed = failed or outputs is None or any(v.verdict == "fail" for v in judge(right, outputs[0]).values())
        counts.faults += clear
        counts.unclear += not clear
        if clear and not failed:
            counts.misses.append(f"{fault.name} in {contract}, {dtype}")
    return counts


def _changes(right: dict[str, Any], outputs: dict[str, np.ndarray]) -> float:
    """The largest change of a number, in units of what right answers are off there."""
    worst = 0.0
    for name, one in right.items():
        assert isinstance(one, Right)
        got = outputs[name].astype(np.float64)
        if got.shape != one.shape or not np.all(np.isfinite(got)):
            return math.inf
        change, spread = np.abs(got - one.value), one.allowed / MARGIN
        ratio = np.divide(change, spread, out=np.where(change > 0, math.inf, 0.0), where=spread > 0)
        worst = max(worst, float(np.max(ratio, initial=0.0)))
    return worst


def ways(rng: np.random.Generator) -> Iterator[tuple[str, Wrap]]:
    """Right ways to compute lora_linear, by name."""
    yield "as it stands", lambda op: op
    yield "scale folded into A", _folded(lambda s: (s, 1.0))
    yield "scale folded into B", _folded(lambda s: (1.0, s))
    yield "root of the scale in both", _folded(lambda s: (math.sqrt(s), math.sqrt(s)))
    yield "merged", _merged
    yield "inputs in another order", _reordered(rng)
    yield "tokens in two blocks", _in_blocks
    yield "float64 inside", _wide


def _folded(split: Callable[[float], tuple[float, float]]) -> Wrap:
    def wrap(op: Any) -> Any:
        def way(x: Any, W: Any, A: Any, B: Any, *, scale: float, **more: Any) -> Any:
            in_A, in_B = (A.dtype.type(part) for part in split(scale))
            y, pullback = op(x, W, in_A * A, in_B * B, scale=1.0, **more)

            def gradients(dy: Any, wrt: frozenset[str]) -> dict[str, Any]:
                grads = pullback(dy, wrt=wrt)
                factors = {"A": in_A, "B": in_B}
                return {name: factors[name] * grad if name in factors else grad for name, grad in grads.items()}

            return y, Pullback(gradients, y, pullback.inputs, pullback.frozen)

        return way

    return wrap


def _merged(op: Any) -> Any:
    """y and dx from W + s B A, stored; dA and dB as ever. With a mask the two paths do not meet."""

    def way(x: Any, W: Any, A: Any, B: Any, *, scale: float, mask: Any = None, **more: Any) -> Any:
        y, pullback = op(x, W, A, B, scale=scale, mask=mask, **more)
        if mask is not None:
            return y, pullback
        merged, _ = RIGHT.merge(W, A, B, scale=scale)
        y, of_x = RIGHT.linear(x, merged, **more)

        def gradients(dy: Any, wrt: frozenset[str]) -> dict[str, Any]:
            grads = pullback(dy, wrt=wrt)
            return {**grads, **(of_x(dy, wrt=("x",)) if "x" in wrt else {})}

        return y, Pullback(gradients, y, pullback.inputs, pullback.frozen)

    return way


def _reordered(rng: np.random.Generator) -> Wrap:
    """Every contraction over the inputs and the rank runs in another order."""

    def wrap(op: Any) -> Any:
        def way(x: Any, W: Any, A: Any, B: Any, *, mask: Any = None, **more: Any) -> Any:
            columns, ranks = rng.permutation(W.shape[1]), rng.permutation(A.shape[0])
            back, back_ranks = np.argsort(columns), np.argsort(ranks)
            mask = mask if mask is None else mask[..., columns]
            y, pullback = op(x[..., columns], W[:, columns], A[ranks][:, columns], B[:, ranks], mask=mask, **more)

            def gradients(dy: Any, wrt: frozenset[str]) -> dict[str, Any]:
                grads = pullback(dy, wrt=wrt)
                order = {
                    "x": lambda t: t[..., back],
                    "A": lambda t: t[back_ranks][:, back],
                    "B": lambda t: t[:, back_ranks],
                }
                return {name: order[name](grad) if name in order else grad for name, grad in grads.items()}

            return y, Pullback(gradients, y, pullback.inputs, pullback.frozen)

        return way

    return wrap


def _in_blocks(op: Any) -> Any:
    """The leading axis cut in two: y and dx side by side, dA and dB added up."""

    def way(x: Any, W: Any, A: Any, B: Any, *, mask: Any = None, **more: Any) -> Any:
        half = x.shape[0] // 2 if x.ndim > 1 else 0
        if half == 0:
            return op(x, W, A, B, mask=mask, **more)
        cuts = slice(half), slice(half, None)
        parts = [op(x[cut], W, A, B, mask=mask if mask is None else mask[cut], **more) for cut in cuts]
        y = np.concatenate([value for value, _ in parts])

        def gradients(dy: Any, wrt: frozenset[str]) -> dict[str, Any]:
            one, two = (pullback(dy[cut], wrt=wrt) for cut, (_, pullback) in zip(cuts, parts, strict=True))
            return {n: np.concatenate((one[n], two[n])) if n == "x" else one[n] + two[n] for n in one}

        return y, Pullback(gradients, y, parts[0][1].inputs, parts[0][1].frozen)

    return way


def _wide(op: Any) -> Any:
    """Everything in float64, rounded to the dtype at the end."""

    def way(x: Any, W: Any, A: Any, B: Any, *, scale: float, mask: Any = None, b: Any = None) -> Any:
        wide = [t if t is None else t.astype(np.float64) for t in (x, W, A, B, mask, b)]
        y, pullback = op(*wide[:4], scale=scale, mask=wide[4], b=wide[5])

        def gradients(dy: Any, wrt: frozenset[str]) -> dict[str, Any]:
            return {name: grad.astype(x.dtype) for name, grad in pullback(dy.astype(np.float64), wrt=wrt).items()}

        return y.astype(x.dtype), Pullback(gradients, y, pullback.inputs, pullback.frozen)

    return way
