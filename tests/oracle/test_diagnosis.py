"""The diagnosis' steps: outputs explained one by one, a precision proved, the subject asked again."""

import numpy as np
import pytest
from light import light
from oracle.variants import plain

from npl_lora.ops import Pullback
from npl_lora.oracle import CONTRACTS, check
from npl_lora.oracle.case import widen
from npl_lora.oracle.definition import RIGHT, scale
from npl_lora.oracle.diagnosis import fit
from npl_lora.oracle.diagnosis.wrong import Wrong
from npl_lora.oracle.faults import FAULTS, wrong_answer
from npl_lora.oracle.faults.wraps import compose, with_arguments, with_gradients
from npl_lora.oracle.subjects import Answer
from npl_lora.oracle.subjects.injected import Injected
from npl_lora.oracle.tolerance.judge import Right


class Answering:
    """A subject in this process: answer(case) -> outputs."""

    def __init__(self, contract, answer):
        self.name, self.contracts, self.answer = "mine", (contract,), answer

    def ask(self, case):
        outputs = self.answer(case)
        return Answer(outputs=({name: np.asarray(t, dtype=case.dtype) for name, t in outputs.items()},))

    def close(self):
        pass


def diagnosis(contract, answer, dtype="float64"):
    [report] = check(Answering(contract, answer), dtypes=[dtype]).contracts
    return report.diagnosis


def with_parts(contract, **wraps):
    return lambda case: CONTRACTS[contract].answer(widen(case), case.config, RIGHT.wrapped(**wraps))


def unscaled(case):
    return CONTRACTS["lora_linear"].answer(widen(case), case.config, RIGHT.wrapped(scale=lambda s: lambda config: 1.0))


@pytest.mark.parametrize(("output", "fault"), [("y", "S13"), ("dx", "S6"), ("dA", "S5"), ("dB", "S5")])
def test_a_fault_in_one_output_is_named_there_alone(output, fault):
    found = diagnosis("lora_linear", lambda case: {**plain(case), output: unscaled(case)[output]})
    assert found.ids == (fault,)
    assert [claim.outputs for claim in found.claims] == [(output,)]


@pytest.mark.parametrize(
    ("contract", "output"), [("lora_embedding", "dA"), ("lora_conv2d", "dB"), ("lora_mlp_projections", "dA_up")]
)
def test_a_gradient_of_zero_is_not_laid_to_an_adapter_that_is_applied(contract, output):
    """L11, the adapter is not applied, makes dA zero, too, and B2, A and B get no gradient. The other outputs refute
    them."""

    def detached(case):
        outputs = CONTRACTS[contract].answer(widen(case), case.config)
        return {**outputs, output: 0.0 * outputs[output]}

    found = diagnosis(contract, detached)
    assert found.ids == ("B2",)
    assert f"{output[1]} gets no gradient" in found.says
    assert "not applied" not in found.says


def with_fault(contract, name, outputs):
    [fault] = [fault for fault in FAULTS if fault.name == name]

    def answer(case):
        right = CONTRACTS[contract].answer(widen(case), case.config)
        wrong = wrong_answer(contract, fault)(widen(case), case.config)
        return {**right, **{output: wrong[output] for output in outputs if output in right}}

    return answer


def test_a_fault_is_named_where_the_measured_bar_alone_shows_it():
    found = diagnosis("rope", with_fault("rope", "A6", ["dx"]), "float16")
    assert found.ids == ("A6",)


def test_a_fault_is_not_named_that_an_output_refutes_which_failed_by_the_measured_bar():
    """Without eps (N2), a token of zeros is NaN. With a wrong eps it is off by less than the derived bound there."""
    found = diagnosis("rms_norm", with_fault("rms_norm", "N9/1e-5", ["y"]), "float16")
    assert found.ids == ("N9",)


@pytest.mark.parametrize("output", ["loss", "dlogits"])
def test_a_fault_is_named_that_shows_as_nan_alone(output):
    """T25: softmax without the largest logit subtracted. In the other cases it changes nothing."""
    assert diagnosis("cross_entropy", with_fault("cross_entropy", "T25", [output]), "float32").ids == ("T25",)


def test_another_order_is_told_in_cases_with_any_number_of_axes():
    def shuffled(case):
        y = plain(case)["y"]
        order = np.random.default_rng(3).permutation(y.shape[-1])
        return {**plain(case), "y": y[..., order]}

    assert diagnosis("lora_linear", shuffled).says.startswith("y has its slices along axis -1 in another order (")


@pytest.mark.slow
def test_small_errors_are_not_described_by_what_leaves_most_of_them():
    """Losses are few numbers. In half precision, a factor of K = 1 or an offset is within what is allowed of them."""
    assert "losses is" not in diagnosis("train_steps", with_fault("train_steps", "S5/dB", ["losses"]), "float16").says


def test_the_outputs_that_are_right_are_told():
    found = diagnosis("lora_linear", lambda case: {**plain(case), "y": unscaled(case)["y"]})
    assert found.says.startswith("y: ")
    assert found.says.endswith(". dx, dA and dB are right.")


def test_a_fault_in_the_branch_with_dropout_is_named_there():
    found = diagnosis("lora_linear", lambda case: (unscaled if "mask" in case else plain)(case))
    assert found.ids[0] == "S13"
    assert "with a dropout mask: " in found.says


def test_two_mistakes_in_two_outputs_are_both_named():
    found = diagnosis("lora_linear", lambda case: {**plain(case), "y": unscaled(case)["y"], "dB": -plain(case)["dB"]})
    assert found.ids == ("S13", "B13")
    assert [claim.outputs for claim in found.claims] == [("y",), ("dB",)]


@pytest.mark.parametrize(
    ("wrap", "words"),
    [
        (with_arguments(x=lambda a: 2.0 * a.x), "as if x were doubled"),
        (with_arguments(B=lambda a: 1.25 * a.B), "1.25 times as large"),
        (with_gradients(A=lambda dA, a: dA * np.asarray([1.0, 0.0] + [1.0] * (dA.shape[0] - 2))[:, None]), "rank 1"),
    ],
)
def test_an_edit_that_no_fault_stands_for_is_told_without_an_id(wrap, words):
    found = diagnosis("lora_linear", with_parts("lora_linear", lora_linear=wrap))
    assert found.ids == ()
    assert words in found.says


@pytest.mark.parametrize(
    ("contract", "parts", "words"),
    light(
        [
            ("train_steps", dict(sgd=with_arguments(lr=lambda a: a.lr + 1 / 32)), "lr were larger by 0.03125 in sgd"),
            (
                "lora_mlp",
                dict(glu=with_arguments(gate=lambda a: np.clip(a.gate, -0.75, 0.75))),
                "gate were clipped at 0.75",
            ),
            (
                "lora_mlp",
                dict(glu=with_arguments(up=lambda a: 2.0 * np.tanh(a.up / 2.0))),
                "up were soft-capped at 2 in glu",
            ),
            (
                "lora_attention",
                dict(rope=with_arguments(theta=lambda a: 1.3 * a.theta)),
                "theta were 1.3 times as large",
            ),
        ]
    ),
)
def test_the_degree_of_a_mistake_is_found_where_the_answer_is_not_linear_in_it(contract, parts, words):
    found = diagnosis(contract, with_parts(contract, **parts))
    assert found.ids == ()
    assert words in found.says


def test_a_term_that_an_op_computes_on_the_way_is_told():
    def squared(case):
        outputs, t, s = with_parts("lora_linear")(case), widen(case), scale(case.config)
        h = (t["x"] * t.get("mask", 1.0)) @ t["A"].T
        return outputs | {"y": outputs["y"] + s * (h * h - h) @ t["B"].T}

    assert diagnosis("lora_linear", squared).says.startswith("y: as if the term x A^T were squared.")


@pytest.mark.slow
def test_half_precision_is_enough_to_name_a_fault_in_one_gradient():
    def answer(case):
        outputs = with_parts("lora_attention")(case)
        return outputs | {"dA_q": outputs["dA_q"] / scale(case.config)}

    assert "S5" in diagnosis("lora_attention", answer, "float16").ids


@pytest.mark.slow
@pytest.mark.parametrize(
    ("contract", "name", "output", "dtype"),
    [
        ("lora_mlp_projections", "R6", "dm_gate", "bfloat16"),
        ("lora_mlp_projections", "K1", "dA_gate", "bfloat16"),
        ("lora_attention_projections", "A3", "dm_o", "bfloat16"),
        ("lora_attention_projections", "S7", "dm_o", "float16"),
        ("train_steps", "O1", "losses", "float16"),
        ("lora_attention_projections", "S3", "dA_v", "bfloat16"),  # S5 gives nearly these numbers
        ("lora_attention_projections", "B10", "dB_q", "bfloat16"),  # K1
        ("lora_attention_projections", "D2/unscaled", "dB_k", "bfloat16"),  # S6; and T14, whole, within what is allowed
        ("lora_attention", "T14/share", "dA_k", "float64"),  # bfloat16 on the way, truncated, is off much like this
    ],
)
def test_errors_that_coarse_numbers_hardly_show_are_told_by_how_nearly_they_are_met(contract, name, output, dtype):
    found = diagnosis(contract, with_fault(contract, name, (output,)), dtype)
    assert found.ids[0] == name.partition("/")[0]
    assert [claim.outputs for claim in found.claims] == [(output,)]


@pytest.mark.parametrize(("size", "told"), [(1.0, False), (100.0, True)])
def test_factors_of_their_own_explain_more_than_one_number_each(size, told):
    """Where one number of each row is off by more than is allowed, a factor for each row fits it, whatever it is."""
    case = CONTRACTS["lora_linear"].cases("float64")[0]
    value = np.tile([1.0, 0.25, -0.5, 0.125, 0.375], (4, 1)) + np.arange(4)[:, None] / 64.0
    allowed = np.full(value.shape, 0.09)
    right = Right(value, np.abs(value), allowed, allowed / 12.0, allowed)
    factors = 1.0 + size * np.array([0.1, -0.11, 0.12, -0.13])[:, None]
    says = fit.explain([Wrong("db", case, right, {}, factors * value)])
    assert ("has a factor of its own" in (says or "")) == told


def test_a_constant_is_told_where_rounding_moves_it_in_each_case():
    def answer(case):
        outputs = CONTRACTS["rms_norm"].answer(widen(case), case.config)
        return outputs | {"dw": outputs["dw"] + 0.0625}

    assert "dw is off by 0.06" in diagnosis("rms_norm", answer, "float16").says


def test_a_degree_that_is_found_from_one_number_explains_nothing():
    def answer(case):
        outputs = CONTRACTS["cross_entropy"].answer(widen(case), case.config)
        return outputs | ({"loss": outputs["loss"] * 1.01 + 0.03} if "accumulated" in case.id else {})

    assert "times as large" not in diagnosis("cross_entropy", answer).says


@pytest.mark.parametrize("case", CONTRACTS["lora_merge"].cases("float64")[:3], ids=lambda case: case.id)
def test_the_low_rank_term_is_told_from_the_base_term(case):
    """Whatever takes the place of A: the error is made up of B's columns, in either layout of W."""

    def answer(asked):
        A = np.abs(asked["A"]) ** 1.5  # no edit
        return CONTRACTS["lora_merge"].answer({**widen(asked), "A": A}, asked.config)

    def right(asked):
        return CONTRACTS["lora_merge"].answer(widen(asked), asked.config)

    found = diagnosis("lora_merge", lambda asked: answer(asked) if asked.id == case.id else right(asked))
    assert "W_merged has a wrong low-rank term s B A, and a right base term W" in found.says


FORMULAS = {
    "theta doubled": dict(rope=with_arguments(theta=lambda a: 2.0 * a.theta)),
    "one token rolled": dict(attention=with_arguments(v=lambda a: np.roll(a.v, 1, axis=-2))),
    "scores a little larger": dict(attention=with_arguments(q=lambda a: 1.02 * a.q)),
    "scores capped": dict(attention=with_arguments(q=lambda a: 4.0 * np.tanh(a.q / 4.0))),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMULAS)
def test_a_wrong_formula_is_no_precision(name):
    found = diagnosis("lora_attention", with_parts("lora_attention", **FORMULAS[name]))
    assert "significand" not in found.says
    assert found.ids == ()


def test_float32_with_a_fault_behind_it_is_told_with_the_fault():
    def answer(case):
        narrow = {name: a.astype(np.float32) if a.dtype.kind == "f" else a for name, a in widen(case).items()}
        exact = RIGHT.wrapped(
            glu=with_arguments(activation=lambda a: "gelu" if "gelu" in a.activation else a.activation)
        )
        return CONTRACTS["lora_mlp"].answer(narrow, case.config, exact)

    found = diagnosis("lora_mlp", answer)
    assert "24-bit significand: float32" in found.says
    assert found.ids == ("G1",)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a.weights[::-1], "as if weights were in the reverse order"),
        (lambda a: [*a.weights[:-1], 2.0 * a.weights[-1]], "were doubled"),
    ],
)
def test_a_list_of_numbers_is_edited_number_by_number(change, words):
    found = diagnosis("adapter_combine", with_parts("adapter_combine", combine=with_arguments(weights=change)))
    assert found.ids == ()
    assert words in found.says


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "outputs"),
    [
        ("S3/always", ("y_again",)),  # the mask is read from it
        ("S7", ("y",)),
        ("D9", ("y", "y_again")),
        ("S17", ("y", "y_again")),  # it garbles the masks
        ("L14", ("y",)),
        ("S15", ("y",)),  # some cases have no low-rank path then, and in the other it is as S13
        ("D3/output", ("y", "y_again")),  # another mask than that of the gradients
    ],
)
def test_what_is_wrong_with_an_output_that_shows_its_mask_is_named(name, outputs):
    found = diagnosis_of_drawn(name, outputs)
    assert name.partition("/")[0] in found.claims[0].ids
    assert found.claims[0].outputs == outputs


@pytest.mark.slow
def test_a_gradient_of_another_mask_is_told_from_that_of_the_mask_of_y():
    found = diagnosis_of_drawn("D3/output", ("dA",))
    assert found.ids == ()
    assert found.says == "dA is not the gradient for the mask that y shows."


def diagnosis_of_drawn(name, outputs):
    """Of a subject that draws its masks, with a fault in some outputs."""
    subject, [fault] = Injected(), [fault for fault in FAULTS if fault.name == name]

    def ask(case):
        asked = subject.question(case)
        right, wrong = (
            answer(asked.arrays, asked.config)
            for answer in (CONTRACTS["lora_dropout"].answer, wrong_answer("lora_dropout", fault))
        )
        return right | {output: wrong[output] for output in outputs}

    return diagnosis("lora_dropout", ask)


DIFFERENTIATED = {
    "gate rolled": (
        "lora_mlp",
        "glu",
        with_arguments(gate=lambda a: np.roll(a.gate, 1, -1)),
        with_gradients(gate=lambda t, a: np.roll(t, -1, -1)),
        "gate were rolled forward by one feature (and its gradient accordingly) in glu",
    ),
    "q larger": (
        "lora_attention",
        "attention",
        with_arguments(q=lambda a: 1.25 * a.q),
        with_gradients(q=lambda t, a: 1.25 * t),
        "q were 1.25 times as large (and its gradient accordingly) in attention",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DIFFERENTIATED)
def test_an_edit_that_is_differentiated_is_told_with_its_gradients(name):
    contract, part, change, transpose, says = DIFFERENTIATED[name]
    found = diagnosis(contract, with_parts(contract, **{part: compose(change, transpose)}))
    assert found.says == f"every output: as if {says}."


@pytest.mark.slow
def test_an_activation_that_is_none_of_a_gated_mlps_is_told():
    def wrap(op):
        def hard(gate, up, *, activation):
            act, slope = gate * np.clip(gate + 3, 0, 6) / 6, np.clip(gate + 3, 0, 6) / 6 + gate * (np.abs(gate) < 3) / 6
            y = act * up
            return y, Pullback(lambda dy, wrt: {"gate": dy * up * slope, "up": dy * act}, y, ("gate", "up"))

        return hard

    assert (
        "as if the activation were the hard SiLU in glu" in diagnosis("lora_mlp", with_parts("lora_mlp", glu=wrap)).says
    )


@pytest.mark.slow
def test_keys_and_values_that_are_moved_before_rope_are_told():
    """As a causal mask that leaves out the token itself does."""
    calls = iter(range(1_000_000))

    def wrap(op):
        def moved(*args, **kwargs):
            y, pullback = op(*args, **kwargs)
            if next(calls) % 4 not in (1, 2):
                return y, pullback
            return np.roll(y, 1, -2), Pullback(
                lambda dy, wrt: pullback(np.roll(dy, -1, -2), wrt=wrt), y, pullback.inputs, pullback.frozen
            )

        return moved

    found = diagnosis("lora_attention", with_parts("lora_attention", lora_linear=wrap))
    assert found.says.startswith("every output: as if k and v were rolled forward by one token before rope")


def in_float32(op):
    """The op in float32, its value and its gradients, of float64 arguments."""

    def narrow(t):
        return t.astype(np.float32) if isinstance(t, np.ndarray) and t.dtype.kind == "f" else t

    def wide(t):
        return np.asarray(t, np.float64)

    def coarse(*arrays, **arguments):
        y, pullback = op(*map(narrow, arrays), **{name: narrow(a) for name, a in arguments.items()})
        gradients = lambda dy, wrt: {n: wide(g) for n, g in pullback(narrow(dy), wrt=wrt).items()}  # noqa: E731
        return wide(y), Pullback(gradients, y, pullback.inputs, pullback.frozen)

    return coarse


def norm_in_float32(case):
    t = widen(case)
    V = (t["W"] + scale(case.config) * t["B"] @ t["A"]).astype(np.float32)
    n = np.sqrt(np.sum(V * V, axis=1))
    return CONTRACTS["dora_linear"].answer({**t, "n": n.astype(np.float64)}, case.config)


@pytest.mark.parametrize(
    ("contract", "answer", "place"),
    [
        ("dora_linear", norm_in_float32, "float32 inside the norm"),
        ("dora_linear", with_parts("dora_linear", dora_linear=in_float32), "float32 somewhere inside"),
        ("lora_mlp", with_parts("lora_mlp", glu=in_float32), "float32 inside the activation"),
        ("lora_mlp", with_parts("lora_mlp", lora_linear=in_float32), "float32 somewhere inside"),
    ],
)
def test_the_place_of_a_precision_is_told_where_it_is_proved(contract, answer, place):
    found = diagnosis(contract, answer)
    assert found.ids == ()
    assert place in found.says


def test_what_nothing_explains_is_asked_again():
    def answer(case):  # dA sees a number of W
        right = plain(case)
        return {
            **right,
            "dA": right["dA"]
            * (2.0 + np.sin(9.0 * case["W"].flat[0] + np.arange(right["dA"].size))).reshape(right["dA"].shape),
        }

    found = diagnosis("lora_linear", answer)
    assert found.ids == ()
    assert "dA: it depends on W, but should not" in found.says


def test_a_mistake_in_the_value_is_told_from_one_in_the_backward():
    halved = with_arguments(scale=lambda a: 0.5 * a.scale)

    def value(op):
        wrong = halved(op)
        return lambda *args, **how: (wrong(*args, **how)[0], op(*args, **how)[1])

    found = diagnosis("train_steps", with_parts("train_steps", lora_linear=compose(value)))
    assert "scale were halved in lora_linear, in the value alone" in found.says
