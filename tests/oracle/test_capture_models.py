"""capture on models whose LoRA layers somebody wrote: they are found, their scale is measured, and each is judged, or
named with a true reason."""

import random

import numpy as np
import pytest
from light import light
from safetensors import safe_open

from npl_lora.oracle.adoption.constructor import Constructor
from npl_lora.oracle.adoption.layer import Layer
from npl_lora.oracle.adoption.wanted import Wanted
from npl_lora.oracle.dumps import capture, judge_dump, unjudged

pytestmark = pytest.mark.torch

torch = pytest.importorskip("torch")

from oracle import own_layers as own  # noqa: E402
from oracle.adoption import torch_faults, torch_forms  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from npl_lora.oracle.adoption.torch_layers import TorchLayers  # noqa: E402

OUTPUTS = {"y", "dx", "dA", "dB"}


def linear(out=8, in_=10, bias=True):
    return nn.Linear(in_, out, bias=bias)


class Model(nn.Module):
    """Something trained below, so that x requires a gradient, and a residual branch beside the layer."""

    def __init__(self, layer, call=lambda layer, x: layer(x)):
        super().__init__()
        self.below, self.layer, self.call = nn.Linear(10, 10), layer, call

    def forward(self, x):
        h = self.below(x)
        y = self.call(self.layer, h)
        return y.square().sum() + h.sin().sum()


def model(layer, dtype=torch.float64, **more):
    return Model(layer, **more).to(dtype)


def batch(dtype=torch.float64):
    return torch.randn(2, 7, 10, dtype=dtype)


def train(model, x=None):
    torch.manual_seed(1)
    parameter = next(model.parameters())
    loss = model(batch(parameter.dtype) if x is None else x)
    loss.backward()
    return loss


def judged(folder, name="layer"):
    """The report on the dump of one layer, and its only case."""
    report = judge_dump(folder / f"{name}.safetensors")
    assert not report.problem, report.problem
    (contract,) = report.contracts
    return contract, contract.cases[0]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "dumps"


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# Right layers


RIGHT = {
    "course": (lambda out: own.Course(10, out), "s = 1, not alpha / r: at r = 3 this is alpha = 3 in PEFT"),
    "wrapper": (lambda out: own.Wrapper(linear(out)), "s = alpha / r = 2.333"),
    "without a bias": (lambda out: own.Wrapper(linear(out, bias=False)), "s = alpha / r = 2.333"),
    "of linears": (
        lambda out: own.OfLinears(linear(out)),
        "s = lora_alpha = 0.5, not alpha / r: at r = 3 this is alpha = 1.5 in PEFT",
    ),
    "a root of r": (
        lambda out: own.Rank(linear(out)),
        "s = alpha / sqrt(r) = 4.041, not alpha / r: at r = 3 this is alpha = 12.12 in PEFT",
    ),
    "no root of r": (lambda out: own.Rank(linear(out), use_rslora=False), "s = alpha / r = 2.333"),
    "a path inside": (lambda out: own.WithPath(linear(out)), "s = alpha / r = 2.333"),
    "unnamed": (
        lambda out: own.Unnamed(linear(out)),
        "s = 0.25, as measured on the layer: at r = 3 this is alpha = 0.75 in PEFT",
    ),
    "names exchanged": (
        lambda out: own.Exchanged(linear(out)),
        "s = 0.25, as measured on the layer: at r = 3 this is alpha = 0.75 in PEFT",
    ),
    "a weight (in, out)": (
        lambda out: own.Transposed(10, out),
        "s = 1, as measured on the layer: at r = 3 this is alpha = 3 in PEFT",
    ),
    "parametrized": (lambda out: own.parametrized(linear(out)), "s = alpha / r = 2.333"),
    "keeps a tensor of its graph": (lambda out: own.Keeping(linear(out)), "s = alpha / r = 2.333"),
}


@pytest.mark.parametrize("out", [8, 10])
@pytest.mark.parametrize("name", RIGHT)
def test_a_right_layer_is_found_and_its_scale_is_said(folder, name, out):
    make, says = RIGHT[name]
    watched = model(make(out))
    train(watched)
    with capture(watched, folder):
        train(watched)
    assert [path.name for path in folder.iterdir()] == ["layer.safetensors"]
    _, case = judged(folder)
    assert (case.verdict, case.message) == ("pass", says)
    assert set(case.outputs) == OUTPUTS


NOT_PLAIN = {
    "LoraEmbedding": "it is on an embedding",
    "LoraConv2d": "it is on a convolution",
    "Conv2dWithMatrices": "it is on a convolution",
    "Conv2dWithKernelInBothMatrices": "it is on a convolution",
    "Conv2dThatHandsItsWordsOn": "it is on a convolution",
    "Conv2dThatPadsByHalf": "it is on a convolution",
    "EmbeddingOfIdsInRows": "it is on an embedding",
    "PathThatAddsTheBasesOutput": "its forward needs original_output",
    "Conv2dWithDropout": "it is on a convolution",
    "DropoutOnXA": "its dropout acts on a tensor of shape",
    "DropoutAfterB": "its dropout acts on a tensor of shape",
    "DropoutOnColumnsOfA": "its dropout acts on a tensor of shape",
    "MakesItsConvolution": "it is on a convolution",
    "WithABottleneck": "with A and B at zero it is not",
    "DrawsItsOwnMask": "it draws random numbers by other means",
    **dict.fromkeys(("DoraLinear", "DoraWithDropout", "DoraOverTheOtherAxis", "DoraByInput"), "it is DoRA"),
}
OF_ANY_NUMBERS = ("LeavesItsMemory", "WeightIsLoadedLater")  # whatever their memory holds
FORMS = [
    kind
    for name, kind in vars(torch_forms).items()
    if isinstance(kind, type) and kind.__module__ == torch_forms.__name__ and name not in OF_ANY_NUMBERS
]


@pytest.mark.parametrize("kind", light(FORMS, 12), ids=lambda kind: kind.__name__)
def test_every_form_that_is_adopted_is_read_where_it_stands(folder, kind):
    """The layer is built by the rules of adoption, and read by those for a layer that stands. Both find one law."""
    framework = TorchLayers()
    adopted = Layer(framework, Constructor(kind, framework.parts))
    wanted = adopted.probe.but(in_=10, out=10 if adopted.constructor.square_only else 8, strength=7.0, dropout=0.4)
    layer = framework.finish(adopted.constructor.build(wanted), wanted, adopted.constructor)
    for parameter in layer.parameters():
        if parameter.requires_grad and not parameter.any():
            nn.init.normal_(parameter)
    watched = model(layer).train()
    if why := NOT_PLAIN.get(kind.__name__):
        with pytest.raises((ValueError, RuntimeError), match=f"judged, because {why}"), capture(watched, folder):
            train(watched)
        return
    with capture(watched, folder):
        train(watched)
    _, case = judged(folder)
    assert case.verdict == "pass", case.message
    trained = adopted.framework.tensors(layer)
    paths = {one: getattr(adopted.roles, one).path for one in "AB"}
    if adopted.path_alone:  # its roles are those beside a base
        paths = {one: path.removeprefix("path.") for one, path in paths.items()}
    fixed = {f"d{one}" for one, path in paths.items() if not trained[path].trained}
    assert set(case.outputs) == OUTPUTS - fixed
    # OddLaw has another number for each r; of AdapterAddedLater only a number is left, which no attribute holds.
    law = {"OddLaw": "scaling", "AdapterAddedLater": "2.333"}.get(kind.__name__, adopted.law.formula)
    assert f"s = {law}" in case.message


def test_a_number_that_nobody_knows_the_origin_of(folder):
    """The class can't be built, so its law is unknown; alpha / r is not denied."""
    with capture(watched := model(own.Secretive(linear(), None)), folder):
        train(watched)
    assert judged(folder)[1].message == "s = scaling = 0.75: at r = 3 this is alpha = 2.25 in PEFT"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_the_step_is_the_same_to_the_bit(folder, dtype, dropout):
    def build():
        torch.manual_seed(0)
        layers = own.Wrapper(linear(10), dropout=dropout), own.Attention(), own.Course(10, 8)
        return model(nn.Sequential(*layers), dtype)

    alone, watched = build(), build()
    loss = train(alone)
    with capture(watched, folder):
        assert torch.equal(train(watched), loss)
    for one, other in zip(alone.parameters(), watched.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        assert one.grad is None or torch.equal(one.grad, other.grad)
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in watched.modules())
    for path in folder.iterdir():
        _, case = judged(folder, path.stem)
        assert case.verdict == "pass", case.message
        assert set(case.outputs) == OUTPUTS


def test_probing_leaves_everything_as_it_was(folder):
    watched = model(own.Wrapper(linear(), dropout=0.4))
    train(watched)
    numbers = [(p.detach().clone(), p.grad, p.requires_grad) for p in watched.parameters()]
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate(), torch.get_num_threads()
    modes = [m.training for m in watched.modules()]
    with capture(watched, folder):
        now = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate(), torch.get_num_threads()
        assert torch.equal(now[0], states[0])
        assert now[1:] == states[1:]
        assert modes == [m.training for m in watched.modules()]
        for p, (number, grad, trained) in zip(watched.parameters(), numbers, strict=True):
            assert torch.equal(p, number)
            assert p.grad is grad
            assert p.requires_grad == trained
        train(watched)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_with_dropout(folder, use_reentrant):
    call = lambda layer, x: checkpoint(layer, x, use_reentrant=use_reentrant)  # noqa: E731
    with capture(watched := model(own.Wrapper(linear(), dropout=0.4), call=call), folder):
        train(watched)
    _, case = judged(folder)
    assert case.verdict == "pass"
    assert set(case.outputs) == OUTPUTS
    with safe_open(folder / "layer.safetensors", "pt") as file:
        assert "mask" in set(file.keys())


@pytest.mark.parametrize("inside", [False, True])
def test_autocast(folder, inside):
    """A layer that gives float32 back has computed in bfloat16 all the same. inside: it switches autocast on itself."""
    watched = model((own.Autocast if inside else own.Single)(linear()), torch.float32)
    with capture(watched, folder), torch.autocast("cpu", torch.bfloat16, enabled=not inside):
        train(watched)
    _, case = judged(folder)
    assert (case.verdict, case.dtype) == ("pass", "bfloat16")


@pytest.mark.parametrize(("frozen", "left"), [("A", {"y", "dx", "dB"}), ("AB", {"y", "dx"})])
def test_a_frozen_factor_has_no_gradient_and_that_is_right(folder, frozen, left):
    watched = model(own.Wrapper(linear()))
    for name in frozen:
        getattr(watched.layer, name).requires_grad_(False)
    with capture(watched, folder):
        train(watched)
    _, case = judged(folder)
    assert case.verdict == "pass"
    assert set(case.outputs) == left
    assert "dA is not in the dump" in case.message


def test_blocks_are_captured_layer_by_layer(folder):
    """Attention and an MLP of somebody's own, with LoRA in every linear layer, one of which is wrong."""
    broken = spoiled(WRONG["x is detached"][0])
    with capture(watched := model(own.Block(own.Wrapper, broken)), folder):
        train(watched)
    names = {"attention.q", "attention.k", "attention.v", "attention.o", "mlp.up", "mlp.gate", "mlp.down"}
    verdicts = {name: judged(folder, f"layer.{name}")[1].verdict for name in names}
    assert len(list(folder.iterdir())) == len(names)
    assert verdicts == {**dict.fromkeys(names, "pass"), "mlp.gate": "fail"}


def test_a_path_outside_of_the_linear_layer_is_judged_alone(folder):
    with capture(watched := model(own.Attention()), folder):
        train(watched)
    for name, s in (("layer.lora_q", "2.333"), ("layer.lora_v", "3.5")):
        _, case = judged(folder, name)
        assert case.verdict == "pass"
        assert case.message == f"the low-rank path alone: W is zero here; s = alpha / r = {s}"


def test_a_layer_that_is_called_twice_is_judged_by_its_first_call(folder):
    watched = model(own.Wrapper(linear(10)), call=lambda layer, x: layer(layer(x).tanh()))
    with capture(watched, folder):
        train(watched)
    _, case = judged(folder)
    assert case.verdict == "pass"
    assert set(case.outputs) == {"y", "dx"}
    assert "ran more than once before its backward: dA and dB are sums" in case.message


def test_loralib(folder):
    loralib = pytest.importorskip("loralib")
    layer = loralib.Linear(10, 8, r=3, lora_alpha=7, lora_dropout=0.4)
    nn.init.normal_(layer.lora_B)
    with capture(watched := model(layer), folder):
        train(watched)
    _, case = judged(folder)
    assert (case.verdict, case.message) == ("pass", "s = lora_alpha / r = 2.333")


# Wrong layers


def spoiled(forward):
    """A Wrapper that computes something else. forward(layer, x, s)."""
    return type("Spoiled", (own.Wrapper,), {"forward": lambda self, x: forward(self, x, self.alpha / self.rank)})


def without_graph(layer, x, s):
    with torch.no_grad():
        h = x @ layer.A @ layer.B
    return layer.linear(x) + s * h


WRONG = {
    "x is detached": (
        lambda m, x, s: m.linear(x) + s * (x.detach() @ m.A @ m.B),
        {"dx"},
        "the low-rank path is missing from dx (B10)",
    ),
    "x is detached from both paths": (
        lambda m, x, s: m.linear(x.detach()) + s * (x.detach() @ m.A @ m.B),
        {"dx"},
        "dx alone: no gradient reaches x",
    ),
    "x A is detached": (
        lambda m, x, s: m.linear(x) + s * ((x @ m.A).detach() @ m.B),
        {"dx", "dA"},
        "dA = 0",
    ),
    "without a graph": (without_graph, {"dx", "dA", "dB"}, "the adapter is not applied and gets no gradient (L11)"),
    "no path": (lambda m, x, s: m.linear(x), OUTPUTS, "the adapter is not applied and gets no gradient (L11)"),
    "a Function without dA": (lambda m, x, s: m.linear(x) + s * (own.WithoutdA.apply(x, m.A) @ m.B), {"dA"}, "dA"),
    "a Function whose dB lacks s": (
        lambda m, x, s: m.linear(x) + own.WithoutS.apply(x, m.A, m.B, s),
        {"dB"},
        "dB lacks s = alpha / r, which dA has (S5)",
    ),
    "dropout on the base path too": (
        own.dropped,
        {"y", "dx"},
        "dropout acts on the base path as well (D3)",
    ),
    "alpha has no effect": (
        lambda m, x, s: m.linear(x) + x @ m.A @ m.B,
        OUTPUTS,
        "the scale is not applied: s is 1 instead of alpha / r (S13)",
    ),
    "an activation between": (lambda m, x, s: m.linear(x) + s * (torch.relu(x @ m.A) @ m.B), OUTPUTS, "low-rank term"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_layer_fails_with_its_reason(folder, name):
    forward, failing, says = WRONG[name]
    watched = model(spoiled(forward)(linear(), dropout=0.4 if "dropout" in name else 0.0))
    with capture(watched, folder):
        train(watched)
    contract, case = judged(folder)
    assert case.verdict == "fail"
    assert {output for output, verdict in case.outputs.items() if verdict.verdict == "fail"} == failing
    assert says in contract.diagnosis.says


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "alpha has no effect",
            "the parameter alpha has no effect: s = 1, whatever alpha is: it is judged with s",
        ),
        ("no path", "it adds B A with s = 0: it is judged with s = 2.333, alpha / r"),
        ("an activation between", "what it adds to x W^T + b is no multiple of B A: it is judged with s = 2.333"),
        ("a Function without dA", "dA never came, although A is trained"),
    ],
)
def test_what_probing_found_is_said_as_well(folder, name, sentence):
    with capture(watched := model(spoiled(WRONG[name][0])(linear())), folder):
        train(watched)
    assert sentence in judged(folder)[1].message


def test_a_layer_that_keeps_no_number_is_judged_with_one(folder):
    with capture(watched := model(own.Idle(10, 8)), folder):
        train(watched)
    _, case = judged(folder)
    assert case.verdict == "fail"
    assert case.message.endswith("it adds B A with s = 0: it is judged with s = 1, since it keeps no alpha")


@pytest.mark.parametrize(
    ("kind", "verdict", "sentence"),
    [
        ("WholeDivision", "pass", "s = alpha // r, which is not proportional to alpha; here s = 2"),
        ("AlphaWithoutEffect", "pass", "the parameter alpha has no effect: s = 1, whatever alpha is; here s = 1"),
        ("AddsNothing", "fail", "it adds B A with s = 0: it is judged with s = 2.333, its scaling"),
        ("AddsNothingWithoutAlpha", "fail", "it adds B A with s = 0: it is judged with s = 1, its scaling"),
    ],
)
def test_a_fault_of_the_class_is_said_where_the_layer_keeps_no_alpha(folder, kind, verdict, sentence):
    framework = TorchLayers()
    constructor = Constructor(getattr(torch_faults, kind), framework.parts)
    layer = constructor.build(Wanted(10, 8, 3, strength=7.0))
    nn.init.normal_(layer.lora_B)
    with capture(watched := model(layer), folder):
        train(watched)
    _, case = judged(folder)
    assert case.verdict == verdict
    assert case.message.endswith(sentence)


def test_a_layer_without_a_graph_is_said(folder):
    """Nothing reaches its dy, so no gradient can be judged."""

    def all_without(layer, x, s):
        with torch.no_grad():
            return own.Wrapper.forward(layer, x)

    with capture(watched := model(spoiled(all_without)(linear())), folder):
        train(watched)
    assert "y has no graph, so no gradient can reach A and B" in judged(folder)[1].message


def test_a_backward_that_asks_for_some_gradients_only_is_right(folder):
    """No zero is put where a gradient was not asked for."""
    watched = model(own.Wrapper(linear()))
    with capture(watched, folder):
        torch.autograd.grad(watched(batch()), [watched.layer.B])
    _, case = judged(folder)
    assert case.verdict == "pass"
    assert set(case.outputs) == {"y", "dB"}


# What is not judged


UNREAD = {
    "fused": (
        lambda: own.QKV(nn.Linear(10, 30)),
        "it has several factors at once: lora_A_q, lora_A_v, lora_B_q, lora_B_v",
    ),
    "inline": (own.Inline, "with A and B at zero it is not x W^T + b"),
    "after an activation": (
        lambda: spoiled(lambda m, x, s: torch.tanh(own.Wrapper.forward(m, x)))(linear()),
        "with A and B at zero it is not x W^T + b",
    ),
    "another method": (
        lambda: own.Sandwich(linear()),
        "what it adds to x W^T + b is no multiple of B A, and it has lora_R besides",
    ),
    "a bias in B": (lambda: own.WithBias(linear()), "it has a bias in B"),
    "merged": (lambda: own.merged(linear()), "it has merged = True"),
    "off": (lambda: own.Wrapper(linear(), alpha=0.0), "it multiplies B A by 0"),
    "more than x": (lambda: own.Gated(linear()), "its forward needs gate, which no rule knows"),
    "dora": (lambda: own.Dora(linear()), "it is DoRA, with the magnitude m"),
    "convolution": (own.Convolution, "it is on a convolution"),
}


@pytest.mark.parametrize("name", UNREAD)
def test_what_cannot_be_read_is_named_with_the_reason(folder, name):
    make, why = UNREAD[name]
    both = nn.ModuleDict({"other": own.Course(10, 8), "unread": make()})
    watched = model(both, call=lambda layers, x: layers["other"](x))
    with pytest.warns(UserWarning, match="not judged, because") as warned, capture(watched, folder):
        train(watched)
    said = [str(warning.message) for warning in warned if "because" in str(warning.message)]
    assert len(said) == 1
    assert said[0].startswith(f"layer.unread was not judged, because {why}")
    assert unjudged(folder) == said
    assert judged(folder, "layer.other")[1].verdict == "pass"


def test_an_embedding_is_named(folder):
    layers = nn.Sequential(own.Embedding(nn.Embedding(20, 10)), own.Course(10, 8)).double()
    with pytest.warns(UserWarning, match="^0 was not judged, because it is on an embedding$"), capture(layers, folder):
        layers(torch.arange(6)).square().sum().backward()
    assert judged(folder, "1")[1].verdict == "pass"


@pytest.mark.parametrize(
    ("forward", "why"),
    [
        (
            lambda m, x, s: m.linear(x) + s * (m.dropout(x @ m.A) @ m.B),
            r"its dropout acts on a tensor of shape \(2, 7, 3\), not on x",
        ),
        (
            lambda m, x, s: m.linear(x) + s * (x * (torch.rand_like(x) < 0.6) @ m.A @ m.B if m.training else 0),
            "it draws random numbers by other means than torch's dropout",
        ),
        (
            lambda m, x, s: m.linear(x) + s * (m.dropout(x) @ m.A @ m.B) + 0 * m.dropout(x).sum(),
            "it draws more than one dropout mask",
        ),
    ],
)
def test_randomness_that_no_mask_on_x_explains_is_named(folder, forward, why):
    layers = nn.Sequential(spoiled(forward)(linear(10), dropout=0.4), own.Course(10, 8))
    said = f"^layer.0 was not judged, because {why}$"
    with pytest.warns(UserWarning, match=said), capture(watched := model(layers), folder):
        train(watched)
    assert judged(folder, "layer.1")[1].verdict == "pass"


def test_where_nothing_is_judged_the_reason_is_that_of_the_layer_that_has_it(folder):
    drawing = spoiled(lambda m, x, s: m.linear(x) + s * (m.dropout(x @ m.A) @ m.B))
    layers = nn.ModuleList([own.Course(10, 8), drawing(linear(), dropout=0.4)])
    watched = model(layers, call=lambda layers, x: layers[1](x))
    with pytest.raises(RuntimeError, match=r"^layer.1 was not judged, because its dropout"), capture(watched, folder):
        train(watched)


def test_an_earlier_list_of_the_unjudged_is_not_kept(folder):
    folder.mkdir()
    (folder / "not_judged.json").write_text('{"old": "old was not judged"}')
    with capture(watched := model(own.Course(10, 8)), folder):
        train(watched)
    assert unjudged(folder) == []


def test_tied_factors_are_named(folder):
    first, second = own.Wrapper(linear(10)), own.Wrapper(linear(10))
    second.A = first.A
    watched = model(nn.Sequential(first, second, own.Course(10, 8)))
    said = "^2 layers were not judged, each because it shares A or B with another layer: layer.0, layer.1$"
    with pytest.warns(UserWarning, match=said), capture(watched, folder):
        train(watched)
    assert judged(folder, "layer.2")[1].verdict == "pass"


def test_a_tied_base_is_no_obstacle(folder):
    first, second = own.Wrapper(linear(10)), own.Wrapper(linear(10))
    second.linear.weight = first.linear.weight
    with capture(watched := model(nn.Sequential(first, second)), folder):
        train(watched)
    assert {judged(folder, f"layer.{k}")[1].verdict for k in (0, 1)} == {"pass"}


def test_a_layer_that_is_not_called_is_named(folder):
    layers = nn.ModuleList([own.Course(10, 8), own.Wrapper(linear())])
    watched = model(layers, call=lambda layers, x: layers[0](x))
    said = "not called with gradients enabled, so they are not judged: layer.1$"
    with pytest.warns(UserWarning, match=said), capture(watched, folder):
        train(watched)
    assert unjudged(folder) == ["layer.1 was not judged, because it was not called with gradients enabled"]


@pytest.mark.parametrize("call", [lambda layer, x: layer(x, 2.0), lambda layer, x: layer(x, strength=2.0)])
def test_a_call_with_more_than_x_is_named(folder, call):
    why = "it was called with more than x"
    with (
        pytest.raises(RuntimeError, match=f"^layer was not judged, because {why}$"),
        capture(watched := model(own.Adjustable(linear()), call=call), folder),
    ):
        train(watched)


@pytest.mark.parametrize("other", [own.GatedMLP, lambda: nn.Sequential(nn.Linear(10, 3), nn.Tanh(), nn.Linear(3, 10))])
def test_other_layers_are_not_taken_for_lora(folder, other):
    with (
        pytest.raises(ValueError, match="the model has no LoRA layers"),
        capture(model(other()), folder),
    ):
        pass


def test_a_named_layer_that_cannot_be_read_is_refused_before_the_step(folder):
    watched = model(nn.Sequential(own.Inline(), own.Course(10, 8)))
    sentence = r"layer.0 can't be judged, because with A and B at zero it is not x W\^T \+ b"
    with pytest.raises(ValueError, match=sentence), capture(watched, folder, layers="0"):
        raise AssertionError("the block runs")


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_half_precision_of_the_base_alone(folder, dropout):
    """The base is bfloat16 and A and B are float32, as with PEFT's autocast of adapters."""
    layer = own.Mixed(linear().to(torch.bfloat16), dropout=dropout)
    watched = Model(layer, call=lambda layer, x: layer(x.to(torch.bfloat16)))
    with capture(watched, folder):
        train(watched, batch(torch.float32))
    _, case = judged(folder)
    assert (case.verdict, case.dtype) == ("pass", "bfloat16")
