"""Factors with the kernel in both: what is stored is the same update, and what is read is its gradient."""

import numpy as np
from numpy.testing import assert_allclose

from npl_lora.oracle.adoption import blocks


def test_the_product_viewed_as_the_kernel_is_the_update():
    (out, in_, r, k), rng = (5, 4, 2, 3), np.random.default_rng(0)
    A, B = rng.normal(size=(r, in_, k, k)), rng.normal(size=(out, r, 1, 1))
    shapes = blocks.shapes(in_, out, r, (k, k))
    stored = [blocks.stored(array, factor, shape[0]) for array, factor, shape in zip((A, B), "AB", shapes, strict=True)]
    assert tuple(array.shape for array in stored) == shapes
    update = np.einsum("or,rihw->oihw", B[:, :, 0, 0], A)
    assert_allclose((stored[1] @ stored[0]).reshape(out, in_, k, k), update, rtol=1e-12)


def test_the_gradient_is_that_through_what_is_stored():
    """<gradient, change> is the change of <what reaches the stored factor, the stored factor>."""
    (out, r, k), rng = (5, 2, 3), np.random.default_rng(1)
    reaching, change = rng.normal(size=(out * k, r * k)), rng.normal(size=(out, r))
    right = np.sum(reaching * blocks.stored(change, "B", out * k))
    assert_allclose(np.sum(blocks.gradient(reaching, "B", out) * change), right, rtol=1e-12)
