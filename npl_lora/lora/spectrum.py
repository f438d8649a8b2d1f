"""The singular values of s B A, from the small factors alone.

    B   = Q_B R_B          Q_B (out, r), R_B (r, r)
    A^T = Q_A R_A          Q_A (in, r),  R_A (r, r)
    s B A = Q_B (s R_B R_A^T) Q_A^T

Q_B and Q_A have orthonormal columns. So the decomposition of the small matrix, s R_B R_A^T = U S V^T, gives that of
the large one, (Q_B U) S (Q_A V)^T, and its singular values are the same. No matrix (out, in) is ever formed. If r is
larger than out or in, R_B or R_A has fewer rows, and nothing else changes.

The effective rank is how many directions the product really uses. With p_i = S_i / (S_1 + S_2 + ...), it is

    exp(- sum_i p_i ln p_i)

It is k if k singular values are equal and the others 0, and 1 if one is all that there is.

Source: Golub and Van Loan, "Matrix Computations", 2013, sections 5.2 (QR) and 2.4 (singular values). Roy and Vetterli,
"The effective rank: a measure of effective dimensionality", 2007, definition 1.
"""

import numpy as np


def decompose(A: np.ndarray, B: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """U (out, k), S (k,), largest first, and Vt (k, in), with scale B A = U diag(S) Vt and k = min(r, out, in).

    A (r, in) and B (out, r) are floating and finite. Everything is computed in float64.
    """
    Q_B, R_B = np.linalg.qr(B.astype(np.float64))
    Q_A, R_A = np.linalg.qr(A.astype(np.float64).T)
    U, S, Vt = np.linalg.svd(scale * (R_B @ R_A.T), full_matrices=False)
    return Q_B @ U, S, Vt @ Q_A.T


def effective_rank(S: np.ndarray) -> float:
    """exp of the entropy of S / sum(S): from 1 to the number of singular values; 0 if all are 0."""
    total = float(np.sum(S))
    if total == 0.0:
        return 0.0
    p = S[S > 0] / total
    return float(np.exp(-np.sum(p * np.log(p))))
