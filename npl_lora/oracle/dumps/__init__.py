"""Judging a dump: one step of somebody's own training run, inputs and answers in one safetensors file.

    from npl_lora.oracle.dumps import judge_dump
    judge_dump(Path("step.safetensors")).verdict          # "pass", "fail" or "error"

A lora_linear step may be of any size, and may lack arrays. Dumps of the other contracts are judged like cases.

Reading order, each module built on those after it: judging, linear, rows, gradients, identities, notes, pieces,
progress, step, reach, file. `capture` writes dumps and stands alone.
"""

from .capture import capture
from .judging import judge_dump

__all__ = ["capture", "judge_dump"]
