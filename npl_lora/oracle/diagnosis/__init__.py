"""What is wrong, in a few sentences: from a failing subject's answers to the mistake behind them.

Reading order: diagnose (the steps), catalogue, precision and coarse, cover and evidence, hypotheses, hypothesis, edits
and part_edits with low_rank_input and activations, fit with terms and expressions, interrogate. Read off the answer:
dora_norm, rope_angles, combined, drawn_spread; drawn for masks that a subject draws. What they share: compare, calls,
axes, where, wrong, words, sentences.
"""

from ..report import Claim, Diagnosis
from .diagnose import diagnose
from .precision import Ask

__all__ = ["Ask", "Claim", "Diagnosis", "diagnose"]
