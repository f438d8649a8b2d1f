"""Judging a dump: one safetensors file with the inputs and answers of one step of a training run.

    from npl_lora.oracle.dumps import judge_dump
    judge_dump(Path("step.safetensors")).verdict          # "pass", "fail" or "error"

A lora_linear step may have any size, and arrays may be missing. Dumps of the other contracts are judged like cases.

Reading order, where each module builds on those after it: judging, linear, rows, gradients, identities, notes, pieces,
progress, step, reach, file. `capture` writes dumps, with recorder, uses and layers.
"""

from .capture import capture
from .file import unjudged
from .judging import judge_dump

__all__ = ["capture", "judge_dump", "unjudged"]
