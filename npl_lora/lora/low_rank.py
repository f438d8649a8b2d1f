"""The best approximation of a matrix by one of lower rank, and how far it moves when the matrix changes.

Let X = sum_i sigma_i u_i v_i^T be the singular value decomposition, with sigma_1 >= sigma_2 >= ... In the Frobenius
norm, no matrix of rank k is nearer to X than

    P(X) = sum_{i <= k} sigma_i u_i v_i^T

and when sigma_k > sigma_{k+1}, no other is as near.

How far it moves. P(X) = Q X, with Q the projector on u_1 ... u_k. Let X change by E, and write e_ij = u_i^T E v_j. To
first order Q changes by δQ and P by δP. For i <= k < j, the eigenvectors of X X^T give

    u_j^T δQ u_i = u_j^T (E X^T + X E^T) u_i / (sigma_i^2 - sigma_j^2)
                 = (sigma_i e_ji + sigma_j e_ij) / (sigma_i^2 - sigma_j^2)

and δP = δQ X + Q E. In the bases u and v, δP keeps e_ij where i, j <= k and loses it where i, j > k. For i <= k < j,
its entries at ij and ji are

    [ sigma_i^2        sigma_i sigma_j ]   [ e_ij ]
    [ sigma_i sigma_j  sigma_i^2       ] . [ e_ji ] / (sigma_i^2 - sigma_j^2)

This symmetric matrix has the eigenvalues sigma_i / (sigma_i -+ sigma_j). The largest of them all belongs to k and k +
1. So, to first order, P moves by at most

    amplification = sigma_k / (sigma_k - sigma_{k+1})

times the Frobenius norm of E, and the worst E moves it by exactly that. For sigma_k = 1.5 sigma_{k+1} it is 3.

This is a function and not an op. It has no pullback, because no contract asks for a gradient through it; and an op must
be safe for complex numbers, which a decomposition conjugates.

Sources: Eckart and Young, "The approximation of one matrix by another of lower rank", Psychometrika 1, 1936. Stewart
and Sun, "Matrix Perturbation Theory", 1990, chapter V, for the change of singular subspaces.
"""

import numpy as np

from ..support.array import Array


def low_rank(x: Array, rank: int) -> Array:
    """P(x), the nearest matrix of this rank: x (m, n) -> (m, n), in x's dtype.

    Where x's namespace has a low_rank of its own, that is used.
    """
    xp = x.__array_namespace__()
    if hasattr(xp, "low_rank"):
        return xp.low_rank(x, rank)
    wide = x.astype(np.result_type(x, np.float32))  # LAPACK has no half precision
    U, S, Vt = np.linalg.svd(wide, full_matrices=False)
    return ((U[:, :rank] * S[:rank]) @ Vt[:rank]).astype(x.dtype)


def amplification(S: np.ndarray, rank: int) -> float:
    """How many times further P(X) may move than X does. S: the singular values of X, largest first."""
    if rank >= len(S) or S[rank] <= 1e-14 * S[0]:  # nothing is left out, so P(X) is X
        return 1.0
    return float(S[rank - 1] / (S[rank - 1] - S[rank])) if S[rank - 1] > S[rank] else np.inf
