"""Faults of combining adapters."""

import math

import numpy as np

from .fault import Fault
from .wraps import with_outputs, with_question


def _total(terms):
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _product_of_sums(share_of_A, share_of_B):
    """delta = (sum_i b_i B_i)(sum_i a_i A_i), with a_i and b_i from w_i s_i."""

    def wrap(combine):
        def wrong(*, weights, scales, **factors):
            pairs = [(factors[f"A_{i}"], factors[f"B_{i}"]) for i in range(1, len(weights) + 1)]
            if len({A.shape[0] for A, _ in pairs}) > 1:
                raise ValueError("adapters of several ranks have no common sum")
            shares = [w * s for w, s in zip(weights, scales, strict=True)]
            A = _total([share_of_A(share) * A for share, (A, _) in zip(shares, pairs, strict=True)])
            B = _total([share_of_B(share) * B for share, (_, B) in zip(shares, pairs, strict=True)])
            delta, pullback = combine(weights=[1.0], scales=[1.0], A_1=A, B_1=B)
            return delta, pullback

        return wrong

    return wrap


def _signed_root(share):
    return math.copysign(math.sqrt(abs(share)), share)


def _root(share):
    return math.sqrt(abs(share))


def _scale_by_root_of_rank(delta, arrays, config):
    """The combined adapter has alpha = r_new and the first one's use_rslora, so it is scaled by sqrt(r_new)."""
    if not config["use_rslora"][0]:
        return delta
    rank = config["r_new"] if config["combination"] == "svd" and len(config["r"]) > 1 else sum(config["r"])
    return delta * math.sqrt(rank)


def _round_roots_to_float32(combine):
    """Each factor of a single adapter is scaled by sqrt(|w s|), rounded to float32."""

    def wrong(*, weights, scales, **factors):
        if len(weights) > 1:
            return combine(weights=weights, scales=scales, **factors)
        share = weights[0] * scales[0]
        return combine(weights=[math.copysign(float(np.float32(_root(share))) ** 2, share)], scales=[1.0], **factors)

    return wrong


FAULTS = [
    Fault(
        "W1",
        says="the adapters' factors are summed before they are multiplied, which adds cross terms B_i A_j",
        wrong="(sum_i sqrt(|w_i| s_i) B_i)(sum_i sign(w_i) sqrt(|w_i| s_i) A_i)",
        right="sum_i w_i s_i B_i A_i",
        hidden_when="there is one adapter",
        seen_in="huggingface/peft#3004, #3013; kohya-ss/sd-scripts#586",
        parts={"combine": _product_of_sums(_signed_root, _root)},
    ),
    Fault(
        "W1",
        variant="sign-on-B",
        says="the factors are summed before they are multiplied, with the signs of the weights on B",
        wrong="(sum_i sign(w_i) sqrt(|w_i| s_i) B_i)(sum_i sqrt(|w_i| s_i) A_i)",
        right="sum_i w_i s_i B_i A_i",
        hidden_when="there is one adapter",
        seen_in="huggingface/peft#3004, #2796",
        parts={"combine": _product_of_sums(_root, _signed_root)},
    ),
    Fault(
        "W1",
        variant="sign-on-both",
        says="the factors are summed before they are multiplied, with the signs of the weights on A and on B",
        wrong="(sum_i sign(w_i) sqrt(|w_i| s_i) B_i)(sum_i sign(w_i) sqrt(|w_i| s_i) A_i)",
        right="sum_i w_i s_i B_i A_i",
        hidden_when="there is one adapter, of a positive weight",
        seen_in="huggingface/peft#3004, #2796",
        parts={"combine": _product_of_sums(_signed_root, _signed_root)},
    ),
    Fault(
        "W2",
        says="the weights act on A alone, and both factors are summed before they are multiplied",
        wrong="(sum_i B_i)(sum_i w_i s_i A_i)",
        right="sum_i w_i s_i B_i A_i",
        hidden_when="there is one adapter",
        seen_in="huggingface/peft#1155",
        parts={"combine": _product_of_sums(lambda share: share, lambda share: 1.0)},
    ),
    Fault(
        "W3",
        says="the sign of a negative weight is lost",
        wrong="sum_i |w_i| s_i B_i A_i",
        right="sum_i w_i s_i B_i A_i",
        hidden_when="no weight is negative",
        seen_in="huggingface/peft#3111",
        answers={"adapter_combine": with_question(config=lambda t, c: {"weights": [abs(w) for w in c["weights"]]})},
    ),
    Fault(
        "W4",
        says="the combined adapter inherits use_rslora from the first one: it is scaled by sqrt(r_new) instead of 1",
        wrong="sqrt(r_new) sum_i w_i s_i B_i A_i",
        right="sum_i w_i s_i B_i A_i",
        hidden_when="no adapter uses rsLoRA, or r_new = 1",
        seen_in="huggingface/peft#3449, #3473, #3761",
        answers={"adapter_combine": with_outputs(delta=_scale_by_root_of_rank)},
    ),
    Fault(
        "W8",
        says="the svd of a single adapter is skipped, so its rank is not reduced to the one asked for",
        wrong="w s B A, of rank r",
        right="the best approximation of w s B A by a matrix of rank r_new",
        hidden_when="there are several adapters",
        seen_in="PEFT 0.21.2, add_weighted_adapter of one adapter with combination_type svd",
        answers={
            "adapter_combine": with_question(
                config=lambda t, c: {"combination": "cat" if len(c["r"]) == 1 else c["combination"]}
            )
        },
    ),
    Fault(
        "W9",
        says="a single adapter's factors are scaled by sqrt(|w s|) in float32, whatever the adapter's dtype",
        wrong="float32(sqrt(|w s|))^2 B A",
        right="w s B A",
        hidden_when="the dtype is float32 or coarser",
        seen_in="PEFT 0.21.2, add_weighted_adapter, whose linear combination keeps the roots in a float32 tensor",
        parts={"combine": _round_roots_to_float32},
    ),
]
