"""Judging a lora_linear step. Each output is judged in full, by random sums or by identities, as the arrays in the dump
allow. What could not be checked is reported."""

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
    "B is 0, as in the first step of every run: whatever the scale is, the low-rank terms of y and dx and all of dA are"
    " 0, and the identities say nothing; dump a later step too"
)


def judge_step(step: Step, progress: Progress) -> tuple[dict[str, OutputVerdict], list[str]]:
    """A verdict for each output and identity that can be judged, and sentences on what could not be checked."""
    verdicts = {name: OutputVerdict("fail", None, None, note) for name, note in step.refused.items()}
    lacking = [name for name in _NEEDS if step.has(name) and not step.has(*_NEEDS[name])]
    complete = {name for name in _NEEDS if step.has(name, *_NEEDS[name]) and name not in verdicts}
    if complete & {"y", "dB"}:
        h = rows_of_h(step, progress)
        if "y" in complete:
            verdicts["y"] = judge_rows(step, Y, h, progress)
        if "dB" in complete:
            verdicts["dB"] = _judge_in_full(step, "dB", right_dB(step, h, progress))
    if complete & {"dx", "dA"}:
        dh = rows_of_dh(step, progress)
        if "dx" in complete:
            verdicts["dx"] = judge_rows(step, DX, dh, progress)
        if "dA" in complete:
            verdicts["dA"] = _judge_in_full(step, "dA", right_dA(step, dh, progress))
    verdicts |= _judge_by_identities(step, lacking)
    ordered = {name: verdicts[name] for name in (*_NEEDS, "J1", "J3") if name in verdicts}
    return ordered, _gaps(step, lacking, ordered)


def _judge_in_full(step: Step, name: str, right: Right) -> OutputVerdict:
    got = step.block(name)
    verdict = judge_output(right, got)
    factor = factor_of(step, right, got) if verdict.verdict == "fail" else ""
    return with_note(verdict, factor if "=" in factor else "")


def _judge_by_identities(step: Step, lacking: list[str]) -> dict[str, OutputVerdict]:
    """Verdicts that need no right answer. lacking: the outputs whose inputs are not all in the dump."""
    verdicts = {}
    usable = {name for name in _NEEDS if step.has(name) and name not in step.refused}
    if _is_first_step(step):
        if "dA" in lacking and "dA" in usable:
            zero = np.zeros(step.arrays["dA"].shape)
            verdicts["dA"] = judge_output(Right(zero, zero, zero, zero, zero), step.block("dA"))
    elif {"dA", "dB"} <= usable and {"dA", "dB"} & set(lacking):
        verdicts["J1"] = judge_J1(step)
    if {"y", "dx"} <= usable and {"y", "dx"} & set(lacking) and step.has("x", "dy"):
        verdicts["J3"] = judge_J3(step)
    return verdicts


def _is_first_step(step: Step) -> bool:
    return not np.any(step.arrays["B"])


def _gaps(step: Step, lacking: list[str], verdicts: dict[str, OutputVerdict]) -> list[str]:
    """Sentences on what could not be checked."""
    sentences = [f"{name} is not in the dump" for name in _NEEDS if not step.has(name) and name not in step.refused]
    for name in lacking:
        missing = " and ".join(need for need in _NEEDS[name] if not step.has(need))
        sentences.append(f"{name} on its own, because {missing} {'are' if ' and ' in missing else 'is'} missing")
    if "J1" in verdicts:
        sentences.append("a factor common to dA and dB, to which J1 (B^T dB = dA A^T) is blind")
    if "J3" in verdicts:
        sentences.append("an error common to y and dx, to which J3 (<dx, x> = <dy, y - b>) is blind")
    if _is_first_step(step):
        sentences.append(_FIRST_STEP)
    return sentences
