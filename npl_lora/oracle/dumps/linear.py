"""Judging a lora_linear step: what is there is judged in full, or by random sums, or by identities, and what could not
be seen is said."""

import numpy as np

from ..tolerance.judge import OutputVerdict, Right, judge_output
from .gradients import right_dA, right_dB, rows_of_dh, rows_of_h
from .identities import judge_J1, judge_J3
from .notes import factor_of, with_note
from .progress import Progress
from .rows import DX, Y, judge_rows
from .step import Step

_NEEDS = {"y": ("x", "W"), "dx": ("dy", "W"), "dA": ("x", "dy"), "dB": ("x", "dy")}
_FIRST_STEP = (
    "B is 0, as in the first step of every run: the low-rank terms of y and dx and all of dA are 0 whatever the scale"
    " is, and the identities are empty; dump a later step, too"
)


def judge_step(step: Step, progress: Progress) -> tuple[dict[str, OutputVerdict], list[str]]:
    """A verdict for each output and identity that can be judged, and sentences on what could not be seen."""
    verdicts = {name: OutputVerdict("fail", None, None, note) for name, note in step.refused.items()}
    blind = [name for name in _NEEDS if step.has(name) and not step.has(*_NEEDS[name])]
    asked = {name for name in _NEEDS if step.has(name, *_NEEDS[name]) and name not in verdicts}
    if asked & {"y", "dB"}:
        h = rows_of_h(step, progress)
        if "y" in asked:
            verdicts["y"] = judge_rows(step, Y, h, progress)
        if "dB" in asked:
            verdicts["dB"] = _judge_in_full(step, "dB", right_dB(step, h, progress))
    if asked & {"dx", "dA"}:
        dh = rows_of_dh(step, progress)
        if "dx" in asked:
            verdicts["dx"] = judge_rows(step, DX, dh, progress)
        if "dA" in asked:
            verdicts["dA"] = _judge_in_full(step, "dA", right_dA(step, dh, progress))
    verdicts |= _by_other_means(step, blind)
    ordered = {name: verdicts[name] for name in (*_NEEDS, "J1", "J3") if name in verdicts}
    return ordered, _unseen(step, blind, ordered)


def _judge_in_full(step: Step, name: str, right: Right) -> OutputVerdict:
    got = step.block(name)
    verdict = judge_output(right, got)
    factor = factor_of(step, right, got) if verdict.verdict == "fail" else ""
    return with_note(verdict, factor if "=" in factor else "")


def _by_other_means(step: Step, blind: list[str]) -> dict[str, OutputVerdict]:
    """What can be said of the outputs that have no right answer here."""
    found = {}
    seen = [name for name in _NEEDS if step.has(name) and name not in step.refused]
    if _is_first(step):
        if "dA" in blind and "dA" in seen:
            zero = np.zeros(step.arrays["dA"].shape)
            found["dA"] = judge_output(Right(zero, zero, zero, zero, zero), step.block("dA"))
    elif {"dA", "dB"} <= set(seen) and {"dA", "dB"} & set(blind):
        found["J1"] = judge_J1(step)
    if {"y", "dx"} <= set(seen) and {"y", "dx"} & set(blind) and step.has("x", "dy"):
        found["J3"] = judge_J3(step)
    return found


def _is_first(step: Step) -> bool:
    return not np.any(step.arrays["B"])


def _unseen(step: Step, blind: list[str], verdicts: dict[str, OutputVerdict]) -> list[str]:
    sentences = [f"{name} is not in the dump" for name in _NEEDS if not step.has(name) and name not in step.refused]
    for name in blind:
        missing = " and ".join(need for need in _NEEDS[name] if not step.has(need))
        sentences.append(f"{name} for itself, for {missing} is not there")
    if "J1" in verdicts:
        sentences.append("a factor that dA and dB share, to which J1 (B^T dB = dA A^T) is blind")
    if "J3" in verdicts:
        sentences.append("what y and dx have wrong together, to which J3 (<dx, x> = <dy, y - b>) is blind")
    if _is_first(step):
        sentences.append(_FIRST_STEP)
    return sentences
