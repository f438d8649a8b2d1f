"""Why a case allows what it allows: the three limits on the error of one number, and which of them counts."""

from .case import Case
from .contracts import CONTRACTS
from .dtypes import DTYPES
from .tolerance.judge import Right, right_answer
from .tolerance.measured import EVALUATIONS, MARGIN, tighten
from .tolerance.rounding import precision_of


def why_allowed(case: str, output: str, index: tuple[int, ...]) -> str:
    """A few lines on one number: its value, its size, each limit on its error, and which of them is the smallest.

    case: an id, such as "lora_linear/many-tokens/bfloat16". output: a name, such as "dA". index: where in the output.
    The number's size is the same expression evaluated with absolute values. bfloat16 needs the extra `files`.

    The limits are those of `tolerance.rounding` and `tolerance.measured`. Whole rows and outputs are bounded as well.

    Raises ValueError for a case, an output or an index that is not there, and for an output that is drawn at random.
    """
    asked = _case(case)
    contract = CONTRACTS[asked.contract]
    if contract.judge is not None:
        raise ValueError(f"what {asked.contract} allows depends on what the subject drew")
    answers = tighten(asked, right_answer(asked, contract.answer), contract.answer)
    right = answers.get(output)
    if not isinstance(right, Right):
        there = ", ".join(name for name, one in answers.items() if isinstance(one, Right))
        raise ValueError(f"{case} bounds no number of {output!r}, but of: {there or 'none'}")
    try:
        value, size, deviation, proven, allowed = (
            float(a[index]) for a in (right.value, right.size, right.deviation, right.proven, right.allowed)
        )
    except (IndexError, TypeError):
        raise ValueError(f"{output} has shape {right.shape}, so no single number at {list(index)}") from None
    number = f"{output}{list(index)} of {case} is {value:.6g}; its size is {size:.6g}"
    if asked.exact:
        return f"{number}\nnothing rounds in an exact case, so no error is allowed"
    deviations = precision_of(asked.dtype).deviations
    limits = {
        "the worst case of any order of computing": proven,
        f"{deviations:g} standard deviations of {deviation:.4g}": deviations * deviation,
        f"{MARGIN:g} times the largest error of {EVALUATIONS} evaluations,"
        f" {right.measured / MARGIN:.3g} standard deviations": right.measured * deviation,
    }
    width = max(map(len, limits))
    lines = [f"  {name:<{width}}  {_with_share(limit, size)}" for name, limit in limits.items()]
    return "\n".join([number, *lines, f"the smallest counts: {_with_share(allowed, size)} is allowed"])


def _with_share(limit: float, size: float) -> str:
    if limit > size:
        return f"{limit:.4g} (beyond its size: it says nothing)"
    return f"{limit:.4g} ({limit / size:.2g} of its size)"


def _case(case: str) -> Case:
    """The case with this id. Raises ValueError with the ids that there are."""
    contract, _, rest = case.partition("/")
    name, _, dtype = rest.partition("/")
    if contract not in CONTRACTS or dtype not in DTYPES:
        raise ValueError(f"{case!r} is no CONTRACT/NAME/DTYPE; contracts: {', '.join(CONTRACTS)}")
    cases = {one.id: one for one in CONTRACTS[contract].cases(dtype)}
    if case not in cases:
        raise ValueError(f"{contract} has no case {name!r} in {dtype}, but: {', '.join(cases)}")
    return cases[case]
