"""Subjects that draw their masks: what can be compared of their answers.

The masks are read from y and y_again, as if these were right but for what is dropped. A mistake that leaves them
readable is found as any other is. For one that does not, the masks are read once more by way of each known fault: y is
a constant and a sum of effects, one for each number of a token's mask, whatever the fault makes of these. If a fault
then gives every number of y, the masks are what it says. If none does, the masks may be anything, and the gradients are
not compared.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace

import numpy as np

from ..case import Case
from ..contracts import CONTRACTS
from ..report import Claim, Observed
from ..tolerance.judge import right_answer
from . import cover, sentences
from .compare import error_ratio, predict, quick_distance
from .evidence import READ_FROM
from .hypothesis import Hypothesis
from .precision import Element
from .words import listed

_MASKS = ("mask", "mask_again")  # of READ_FROM


def is_drawn(observed: Sequence[Observed]) -> bool:
    """Whether the subject draws at random, so that it gives another answer to the same question."""
    return CONTRACTS[observed[0].case.contract].judge is not None


def has_masks(observed: Sequence[Observed]) -> bool:
    """Whether masks are read from the answers."""
    return bool(observed) and CONTRACTS[observed[0].case.contract].settle is not None


def read_again(answered: Sequence[Observed], left: Set[Element], faults: Iterable[Hypothesis]) -> Sequence[Observed]:
    """What was observed, with the masks that nothing explains read by way of the first fault that then gives every
    number of y and y_again; else read from these alone, and without the gradients where it is that of y."""
    ids = {id for id, name in left if name in READ_FROM}
    unread = [one for one in answered if one.case.id in ids]
    for fault in faults if unread else ():
        first = _through(fault, unread[0])
        if first is None or not _may_give(fault, first):
            continue
        again = [_through(fault, one) if one.case.id in ids else one for one in answered]
        read = [one for one in again if one is not None]
        if len(read) == len(again) and not any(name in READ_FROM for _, name in cover.explain([fault], [], read).left):
            return read
    return [_values_alone(one) if (one.case.id, "y") in left else one for one in answered]


def _may_give(fault: Hypothesis, one: Observed) -> bool:
    """Whether what y and y_again are wrong by may be the fault, by a quick comparison."""
    predicted = predict(fault.answer, one)
    names = [name for name in READ_FROM if name in one.failed]
    return all(name in predicted and quick_distance(predicted[name], one, name) < 1.0 for name in names)


def _through(fault: Hypothesis, one: Observed) -> Observed | None:
    """What was observed, with the masks that wrong outputs show if the fault is in them; None where they show none."""
    case, outputs = one.case, one.outputs or {}
    kept, shape = 1.0 / (1.0 - case.config["p"]), case["mask"].shape
    base = _values(fault, one, np.zeros(shape))
    alone = [_values(fault, one, kept * (np.arange(shape[-1]) == i) * np.ones(shape)) for i in range(shape[-1])]
    masks = {}
    for mask, name in zip(_MASKS, READ_FROM, strict=True):
        if name in one.failed and name in outputs:
            got, values = outputs[name].astype(np.float64), [each.get(name) for each in (base, *alone)]
            if not all(t is not None and t.shape == got.shape and np.isfinite(t - got).all() for t in values):
                return None
            effects = np.stack([t - base[name] for t in values[1:] if t is not None], axis=-1)
            shares = np.linalg.pinv(effects) @ (got - base[name])[..., None]
            masks[mask] = np.where(shares[..., 0] > 0.5, kept, 0.0).astype(case[mask].dtype)
    return _judged(one, case.with_arrays(masks), outputs)


def _values(fault: Hypothesis, one: Observed, mask: np.ndarray) -> dict[str, np.ndarray]:
    return predict(fault.answer, replace(one, case=one.case.with_arrays(dict.fromkeys(_MASKS, mask))))


def _values_alone(one: Observed) -> Observed:
    """The same without gradients, and with the masks that the values show by themselves."""
    outputs, settle = one.outputs or {}, CONTRACTS[one.case.contract].settle
    values = {name: t for name, t in outputs.items() if name not in one.case.gradients(outputs)}
    return _judged(one, one.case if settle is None else settle(one.case, values), values)


def _judged(one: Observed, case: Case, outputs: Mapping[str, np.ndarray]) -> Observed:
    """These outputs, beside the right answer to this case."""
    right = {name: t for name, t in right_answer(case, CONTRACTS[case.contract].answer).items() if name in outputs}
    failed = tuple(name for name in right if error_ratio(right[name], outputs[name]) > 1.0)
    return replace(one, case=case, right=right, outputs=outputs, failed=failed)


def of_another_mask(failing: Sequence[Observed], outputs: Set[str]) -> list[Claim]:
    """What is known of gradients that nothing explains: the mask that y shows does not give them."""
    gradients = {name for one in failing for name in one.case.gradients(one.right)}
    if not (names := sentences.in_order(outputs & gradients, failing)):
        return []
    verb = "is not the gradient" if len(names) == 1 else "are not the gradients"
    return [Claim((), names, f"{listed(names)} {verb} for the mask that y shows.")]
