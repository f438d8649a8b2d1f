"""Torch tensors of every kind become NumPy arrays."""

import numpy as np
import pytest

from npl_lora.oracle.subjects.convert import AnswerError, to_numpy

pytestmark = pytest.mark.torch

ROW = np.array([1.0, 2.5, -3.0])


def kinds(torch):
    row = torch.tensor(ROW)
    return {
        "float64": row,
        "requires grad": row.clone().requires_grad_(),
        "has a graph": row.clone().requires_grad_() * 1.0,
        "parameter": torch.nn.Parameter(row),
        "float16": row.half(),
        "bfloat16": row.bfloat16(),
        "float8_e5m2": row.to(torch.float8_e5m2),
        "float8_e4m3fn": row.to(torch.float8_e4m3fn),
        "not contiguous": row.repeat_interleave(2)[::2],
        "expanded": torch.stack([row, row]).T[:, 0],
        "negative bit": torch.conj(torch.complex(row, -row)).imag,
    }


def test_a_tensor_becomes_an_array():
    torch = pytest.importorskip("torch")
    tensors = kinds(torch)
    assert tensors["negative bit"].is_neg()
    for kind, tensor in tensors.items():
        got = to_numpy("y", tensor)
        assert type(got) is np.ndarray, kind
        assert got.dtype.kind == "f", kind
        np.testing.assert_array_equal(got, ROW, err_msg=kind)


def test_a_conjugate_is_left_to_the_judge():
    torch = pytest.importorskip("torch")
    value = torch.conj(torch.complex(torch.tensor(ROW), torch.tensor(ROW)))
    assert value.is_conj()
    np.testing.assert_array_equal(to_numpy("y", value), ROW - 1j * ROW)


def test_what_the_subject_does_later_does_not_reach_the_copy():
    torch = pytest.importorskip("torch")
    tensor = torch.tensor(ROW)
    got = to_numpy("y", tensor)
    tensor.zero_()
    np.testing.assert_array_equal(got, ROW)


def test_integers_stay_integers_and_scalars_scalars():
    torch = pytest.importorskip("torch")
    assert to_numpy("y", torch.arange(3)).dtype.kind == "i"
    assert to_numpy("y", torch.ones(3, dtype=torch.bool)).dtype.kind == "b"
    assert to_numpy("loss", torch.tensor(0.5)).shape == ()


@pytest.mark.parametrize("make", ["sparse", "meta"])
def test_a_tensor_without_numbers_to_give_is_said(make):
    torch = pytest.importorskip("torch")
    tensor = torch.ones(2, 2).to_sparse() if make == "sparse" else torch.ones(2, device="meta")
    with pytest.raises(AnswerError, match="y is a Tensor, expected an array"):
        to_numpy("y", tensor)
