"""Exact cases: whole numbers so small that a right implementation never rounds. The right answer is one number.

The inputs are whole numbers. So are s, its root, the dropout mask and whatever else multiplies them; alpha and r are
powers of two. An output is then a sum of products of whole numbers, and so is all that arises on the way to it: in any
order of summation, blocked, merged or not, wherever s or its root is folded in. (Up to a power of two, where alpha is
multiplied in before r is divided out, or a mean divides by n: that moves the exponent and leaves the digits alone.) A
floating dtype with p binary digits holds every whole number up to 2^p. So nothing is rounded where no partial sum
exceeds 2^p.

None does if the outputs' sizes stay below 2^p, the size being the same sum of products with each in absolute value. Let
t be an intermediate: it enters an output in a product t c, where c is again a sum of products of whole numbers. Either
each product of c has a factor 0, in every output: then t is multiplied by 0, and it does not matter what t is. Or the
size of c is at least 1 in one of them, and |t| <= size(t) <= size(t) size(c) <= size(output) < 2^p.

That is an argument about sums and products of what is given. Products by Strassen's, Winograd's or a Fourier transform
form other sums, of entries that never meet in an output, and take them away again: they may round where this says that
nothing does. So a contract whose right implementations use these, a convolution, has no exact cases. Neither has one
with transcendental functions: lora_mlp, cross_entropy, AdamW.
"""

import numpy as np

from ..case import Case
from ..definition import AnswerFunction
from ..tolerance.judge import Right, right_answer
from ..tolerance.rounding import PRECISIONS


def largest_sum(case: Case, proof: AnswerFunction) -> float:
    """The largest size among the outputs of proof(arrays, config), in units of 2^p. Below 1, the case is exact."""
    with np.errstate(over="ignore", invalid="ignore"):  # numbers that are far too large are tried first
        outputs = right_answer(case, proof).values()
    sizes = [output.size.max() for output in outputs if isinstance(output, Right)]
    largest = np.max(sizes)  # NaN, unlike Python's max, where one of them is
    return float(largest) * PRECISIONS[case.dtype].store
