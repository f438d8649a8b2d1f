"""Subjects that really round: to a format coarser than their dtype, in one kind of place, to nearest or toward zero.

The ops run on arrays that round where they are told to; the formulas are all right.
"""

import itertools
import re
from functools import partial

import numpy as np

from npl_lora.ops import Pullback
from npl_lora.oracle import CONTRACTS
from npl_lora.oracle.definition import RIGHT

from .subject import NUMBERS, Function, false_ids

COLUMNS = {
    "told": "the sentence names the format or its significand, and truncation where it truncates",
    "format": "the format alone: nothing of truncation where it truncates, or truncation where it does not",
    "other": "another sentence",
    "silent": "there is no sentence",
    "false id": "some id explains no failing output",
    "passed": "nothing was judged wrong (not counted in the shares)",
}
BAD = ("other", "silent", "false id")
FORMATS = {"float32": (24, -125), "float16": (11, -13), "tf32": (11, -125), "bfloat16": (8, -125)}  # bits, exponent
COARSER = {"float64": list(FORMATS), "float32": ["float16", "tf32", "bfloat16"], "float16": ["bfloat16"]}
SITES = ("inputs", "operands", "products", "sums", "outputs", "merged")
TOLD = {
    "float32": r"float32|fp32|\b24[- ]bit",
    "float16": r"\bfloat16|fp16|tf32|\b11[- ]bit",
    "tf32": r"\bfloat16|fp16|tf32|\b11[- ]bit",
    "bfloat16": r"bfloat16|bf16|\b8[- ]bit",
}


def round_to(t, form, toward_zero):
    """The numbers in a format's significand and least exponent, in t's own dtype."""
    bits, least = FORMATS[form]
    wide = np.asarray(t, dtype=np.float64)
    quantum = np.ldexp(1.0, np.maximum(np.frexp(wide)[1], least) - bits)
    return ((np.trunc if toward_zero else np.rint)(wide / quantum) * quantum).astype(t.dtype)


class Rounding(np.ndarray):
    """An array whose matrix products and sums round: `site` says where, `to` is the rounding."""

    site, to = "", None

    def __array_finalize__(self, other):
        self.site, self.to = getattr(other, "site", ""), getattr(other, "to", None)

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **kwargs):
        plain = [_plain(t) for t in inputs]
        if out is not None:
            kwargs["out"] = tuple(_plain(t) for t in out)
        source = next(t for t in (*inputs, *(out or ())) if isinstance(t, Rounding))
        if ufunc is np.matmul:
            return _rounding(source._product(*plain), source)
        if ufunc is np.add and method == "reduce" and source.site == "sums":
            return _rounding(source._sum(*plain, **kwargs), source)
        return _rounding(getattr(ufunc, method)(*plain, **kwargs), source)

    def _product(self, a, b):
        if self.site == "operands":
            return self.to(a) @ self.to(b)
        if self.site == "products":
            return self.to(a @ b)
        return self._one_by_one(a, b) if self.site == "sums" else a @ b

    def _one_by_one(self, a, b):
        """a @ b, each partial sum rounded."""
        if a.ndim == 1:
            return self._one_by_one(a[None], b)[..., 0, :]
        total = self.to(a[..., :, :1] * b[..., :1, :])
        for i in range(1, a.shape[-1]):
            total = self.to(total + a[..., :, i : i + 1] * b[..., i : i + 1, :])
        return total

    def _sum(self, t, axis=0, keepdims=False, **_):
        moved = t.reshape(-1) if axis is None else np.moveaxis(t, axis, 0)
        total = np.zeros_like(moved[0])
        for term in moved:
            total = self.to(total + term)
        shape = (1,) * t.ndim if axis is None else (*t.shape[: axis % t.ndim], 1, *t.shape[axis % t.ndim + 1 :])
        return total.reshape(shape) if keepdims else total


def _plain(t):
    return t.view(np.ndarray) if isinstance(t, Rounding) else t


def _rounding(t, source):
    if not isinstance(t, (np.ndarray, np.floating)) or np.asarray(t).dtype.kind != "f":
        return t
    out = np.asarray(t).view(Rounding)
    out.site, out.to = source.site, source.to
    return out


def _answer(contract, site, form, toward_zero, arrays, config):
    to = partial(round_to, form=form, toward_zero=toward_zero)
    floats = {name: t for name, t in arrays.items() if t.dtype.kind == "f"}
    if site == "inputs":
        return CONTRACTS[contract].answer({**arrays, **{name: to(t) for name, t in floats.items()}}, config)
    if site == "merged":
        return CONTRACTS[contract].answer(arrays, config, RIGHT.wrapped(merge=partial(_rounded_result, to=to)))
    if site == "outputs":
        return {name: to(t) for name, t in CONTRACTS[contract].answer(arrays, config).items()}
    source = np.zeros(0).view(Rounding)
    source.site, source.to = site, to
    outputs = CONTRACTS[contract].answer({**arrays, **{n: _rounding(t, source) for n, t in floats.items()}}, config)
    return {name: _plain(t) for name, t in outputs.items()}


def _rounded_result(op, to):
    def merge(*args, **kwargs):
        y, pullback = op(*args, **kwargs)
        return to(y), Pullback(pullback, y, pullback.inputs)

    return merge


def trials(contracts, dtypes):
    """Every contract, dtype, coarser format, place and way of rounding."""
    for contract, dtype in itertools.product(contracts, dtypes):
        for form, site, toward_zero in itertools.product(COARSER.get(dtype, ()), SITES, (False, True)):
            if contract in NUMBERS and (site != "merged" or contract == "lora_merge"):
                name = f"{form}, {'toward zero' if toward_zero else 'to nearest'}, {site}, in {contract}, {dtype}"
                answer = partial(_answer, contract, site, form, toward_zero)
                planted = form, toward_zero
                yield contract, dtype, partial(lambda *made: made, Function(name, contract, answer), planted)


def score(subject, planted, report):
    """The column, and nothing more to say."""
    form, toward_zero = planted
    [contract] = report.contracts
    if contract.verdict == "pass":
        return "passed", False
    diagnosis = contract.diagnosis
    if diagnosis.ids and false_ids(contract.contract, diagnosis, contract.observed):
        return "false id", False
    if re.search(TOLD[form], diagnosis.says, re.I):
        truncation = bool(re.search(r"truncat|toward zero|chop", diagnosis.says, re.I))
        return "told" if truncation == toward_zero else "format", False
    return "other" if diagnosis.says else "silent", False
