"""What is wrong, in one sentence: from a failing subject's answers to the fault behind them.

Reading order, each module built on those after it: diagnose, catalogue, fit, precision, terms, expressions, wrong.
"""

from ..report import Diagnosis
from .diagnose import diagnose

__all__ = ["Diagnosis", "diagnose"]
