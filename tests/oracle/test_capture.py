"""capture: what a PEFT model's step was comes out of it as dumps that are judged right, and the step is the same."""

import json
import sys

import pytest
from safetensors import safe_open

from npl_lora.oracle.dumps import capture, judge_dump
from npl_lora.oracle.tolerance.rounding import PRECISIONS

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning"),  # the name is changing
    pytest.mark.filterwarnings("ignore:`lora_bias=True`"),
]

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ALL = {"x", "W", "A", "B", "dy", "y", "dx", "dA", "dB"}


@pytest.fixture(autouse=True)
def without_torchao(monkeypatch):
    """PEFT adapts nothing where an older torchao is installed, which torchtune needs: None says that there is none."""
    monkeypatch.setitem(sys.modules, "torchao", None)


def model(dtype=torch.float64, dropout=0.0, targets=LAYERS, **lora):
    """A Llama of two blocks with LoRA everywhere, B as if it had been trained."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=50,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    lora = {"r": 3, "lora_alpha": 7, "lora_dropout": dropout, "target_modules": targets, **lora}
    adapted = peft.get_peft_model(transformers.LlamaForCausalLM(config), peft.LoraConfig(**lora)).to(dtype)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return adapted.train()


def train(model):
    torch.manual_seed(1)
    ids = torch.randint(0, 50, (2, 7))
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    return loss


def grads(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def dumps(folder):
    """name of the file -> (verdict, message, what it holds)"""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        report = judge_dump(path)
        assert not report.problem, report.problem
        case = report.contracts[0].cases[0]
        with safe_open(path, "pt") as file:
            found[path.stem] = (case.verdict, case.message, set(file.keys()))
    return found


def layers(model):
    return {name: m for name, m in model.named_modules() if isinstance(m, peft.tuners.lora.Linear)}


@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("dtype", [name for name in ("float64", "float32", "bfloat16") if name in PRECISIONS])
def test_a_captured_step_is_right_and_is_the_same_step(tmp_path, dtype, dropout, use_rslora):
    alone, watched = (model(getattr(torch, dtype), dropout, use_rslora=use_rslora) for _ in range(2))
    loss = train(alone)
    with capture(watched, tmp_path / "dumps") as folder:
        assert torch.equal(train(watched), loss)
    assert grads(alone).keys() == grads(watched).keys()
    assert all(torch.equal(gradient, grads(watched)[name]) for name, gradient in grads(alone).items())
    found = dumps(folder)
    assert found.keys() == layers(watched).keys()
    for name, (verdict, message, arrays) in found.items():
        assert verdict == "pass", (name, message)
        first = ".layers.0." in name and name.endswith(("q_proj", "k_proj", "v_proj"))
        expected = ALL - ({"dx"} if first else set())  # nothing below the first block's projections is trained
        assert arrays == expected | ({"mask"} if dropout else set())
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in watched.modules())


def test_dx_is_this_layers_alone(tmp_path):
    """q, k and v share x: the sum of their dx, and not each of them, is x's gradient."""
    watched = model()
    with capture(watched, tmp_path / "dumps", layers=["layers.1.self_attn.q_proj", "1.self_attn.k_proj"]):
        train(watched)
    found = dumps(tmp_path / "dumps")
    assert len(found) == 2
    assert all(verdict == "pass" and "dx" in arrays for verdict, _, arrays in found.values())


def test_a_bias_and_a_transposed_base_weight(tmp_path):
    """GPT-2's Conv1D keeps W as (in, out)."""
    config = transformers.GPT2Config(vocab_size=50, n_embd=24, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    lora = peft.LoraConfig(r=3, lora_alpha=7, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True)
    adapted = peft.get_peft_model(transformers.GPT2LMHeadModel(config), lora).double()
    with capture(adapted, tmp_path / "dumps"):
        train(adapted)
    for verdict, message, arrays in dumps(tmp_path / "dumps").values():
        assert verdict == "pass", message
        assert "B is 0, as in the first step of every run" in message
        assert "b" in arrays


def test_what_the_optimiser_and_earlier_gradients_do_is_left_out(tmp_path):
    """A.grad holds another step's gradient before, and A has moved when the dump is written."""
    watched = model()
    train(watched)
    optimizer = torch.optim.SGD(watched.parameters(), lr=1.0)
    with capture(watched, tmp_path / "dumps", layers="up_proj"):
        train(watched)
        optimizer.step()
        optimizer.zero_grad()
        train(watched)
    assert {verdict for verdict, _, _ in dumps(tmp_path / "dumps").values()} == {"pass"}


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_recomputed_activations(tmp_path, use_reentrant):
    watched = model(dropout=0.4)
    watched.enable_input_require_grads()
    watched.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    with capture(watched, tmp_path / "dumps"):
        train(watched)
    for name, (verdict, message, arrays) in dumps(tmp_path / "dumps").items():
        assert verdict == "pass", (name, message)
        assert arrays == ALL | {"mask"}


def test_a_layer_that_runs_twice_in_one_step_gives_no_dA(tmp_path):
    watched = model(targets=["up_proj"])
    with capture(watched, tmp_path / "dumps"):
        ids = torch.arange(6)[None]
        (watched(input_ids=ids, labels=ids).loss + watched(input_ids=ids + 9, labels=ids).loss).backward()
    for verdict, message, arrays in dumps(tmp_path / "dumps").values():
        assert verdict == "pass"
        assert arrays | {"dx"} == ALL - {"dA", "dB"}  # in the first block nothing below is trained: no dx
        assert "ran more than once before its backward: dA and dB are sums over its calls and are left out" in message


def test_autocast_is_judged_in_the_dtype_that_it_casts_to(tmp_path):
    watched = model(torch.float32)
    with capture(watched, tmp_path / "dumps"), torch.autocast("cpu", torch.bfloat16):
        train(watched)
    for path in (tmp_path / "dumps").iterdir():
        with safe_open(path, "pt") as file:
            assert file.metadata()["dtype"] == "bfloat16"
        if "bfloat16" in PRECISIONS:
            assert judge_dump(path).verdict == "pass"


class ScaledBackward(torch.autograd.Function):
    """The identity, whose gradient is multiplied."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return ctx.factor * gradient, None


def break_backward(layer, factor):
    """The gradient that comes back through the low-rank path is multiplied: what follows from it is wrong, y is not."""
    layer.lora_B["default"].register_forward_hook(lambda m, a, out: ScaledBackward.apply(out, factor))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_broken_layer_is_named_and_so_is_what_is_wrong(tmp_path, dtype):
    watched = model(dtype)
    broken = next(name for name in layers(watched) if name.endswith("layers.1.mlp.gate_proj"))
    break_backward(layers(watched)[broken], 3.0)
    with capture(watched, tmp_path / "dumps"):
        train(watched)
    found = dumps(tmp_path / "dumps")
    assert {name for name, (verdict, _, _) in found.items() if verdict == "fail"} == {broken}
    message = found[broken][1]
    for sentence in (
        "dx: ",
        "its low-rank term is 3 = r times the right one",
        "dA: 3 times the right answer, everywhere; 3 = r",
        "dB: 3 times the right answer, everywhere; 3 = r",
    ):
        assert sentence in message
    assert "y: " not in message


def detach(part):
    """Cut a part of the layer off from x."""
    forward = part.forward
    part.forward = lambda x: forward(x.detach())


@pytest.mark.parametrize("part", ["base", "low-rank path"])
def test_a_share_of_dx_that_never_came_is_zero(tmp_path, part):
    watched = model(targets=["up_proj"])
    name, layer = next((n, m) for n, m in layers(watched).items() if "layers.1" in n)
    detach(layer.get_base_layer() if part == "base" else layer.lora_A["default"])
    with capture(watched, tmp_path / "dumps"):
        train(watched)
    verdict, _, arrays = dumps(tmp_path / "dumps")[name]
    assert verdict == "fail"
    assert arrays == ALL
    (contract,) = judge_dump(tmp_path / "dumps" / f"{name}.safetensors").contracts
    assert f"the {'base path' if part == 'base' else 'low-rank path'} is missing from dx" in contract.diagnosis.says


def test_a_factor_that_got_no_gradient_is_said_and_wrong(tmp_path):
    watched = model(targets=["up_proj"])
    detach(next(iter(layers(watched).values())).lora_B["default"])
    with capture(watched, tmp_path / "dumps"):
        train(watched)
    first, second = dumps(tmp_path / "dumps").values()
    sentence = "dA never came, although A is trained"
    assert sentence in first[1]
    assert sentence not in second[1]
    assert (first[0], second[0]) == ("fail", "pass")
    assert "dA: 0 times the right answer, everywhere" in first[1]


def go_around(layer, spoil):
    """What stands for a fused kernel computes this layer from its weights. spoil: the factor of a mistake in dA."""

    def fused(self, x):
        A, B = ScaledBackward.apply(self.lora_A["default"].weight, spoil), self.lora_B["default"].weight
        return x @ self.get_base_layer().weight.T + self.scaling["default"] * (x @ A.T @ B.T)

    layer.__class__ = type("Fused", (type(layer),), {"__call__": fused})


@pytest.mark.parametrize("spoil", [1.0, 2.0])
def test_a_layer_that_a_kernel_goes_around_is_named(tmp_path, spoil):
    watched = model(targets=["up_proj"])
    name, layer = list(layers(watched).items())[1]
    go_around(layer, spoil)
    said = f"without being called.* not judged: {name}$"
    with pytest.warns(UserWarning, match=said), capture(watched, tmp_path / "dumps"):
        train(watched)
    verdict, message, arrays = dumps(tmp_path / "dumps")[name]
    assert arrays == {"A", "B", "dA", "dB"}
    assert verdict == ("pass" if spoil == 1.0 else "fail")  # dA and dB must agree with each other
    assert "y is not in the dump" in message
    assert "without being called" in message


@pytest.mark.parametrize("autocast", [False, True])
def test_what_a_kernel_computed_in_is_not_known(tmp_path, autocast):
    """A and B are float32. The base is bfloat16, or autocast is on: a kernel that casts A and B down is right."""
    watched = model(torch.float32, targets=["up_proj"])
    name, layer = list(layers(watched).items())[1]
    if not autocast:
        layer.get_base_layer().to(torch.bfloat16)

    def fused(self, x):
        narrow = [t.to(torch.bfloat16) for t in (self.lora_A["default"].weight, self.lora_B["default"].weight, x)]
        A, B, x = narrow
        return (x @ layer.get_base_layer().weight.to(x.dtype).T + self.scaling["default"] * (x @ A.T @ B.T)).float()

    layer.__class__ = type("Fused", (type(layer),), {"__call__": fused})
    with (
        pytest.warns(UserWarning, match="without being called"),
        capture(watched, tmp_path / "dumps"),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        train(watched)
    path = tmp_path / "dumps" / f"{name}.safetensors"
    assert judge_dump(path).contracts[0].cases[0].dtype == "bfloat16"
    assert judge_dump(path).verdict == "pass"


def test_a_batch_of_several_adapters_is_left_out(tmp_path):
    watched = model(targets=["up_proj"])
    watched.add_adapter("other", watched.peft_config["default"])
    watched.eval()
    said = "were not called with gradients enabled|ran inside capture"
    with pytest.raises(RuntimeError, match=said), capture(watched, tmp_path / "dumps"):
        watched(input_ids=torch.arange(6).reshape(2, 3), adapter_names=["default", "other"])
    assert not (tmp_path / "dumps").exists()


def test_a_layer_that_took_no_part_is_named(tmp_path):
    watched = model(targets=["up_proj"])
    (name, _), (other, layer) = layers(watched).items()
    said = f"were not called with gradients enabled, so they are not judged: {name}$"
    with pytest.warns(UserWarning, match=said), capture(watched, tmp_path / "dumps"):
        layer(torch.randn(2, 24, dtype=torch.float64)).sum().backward()
    assert list(dumps(tmp_path / "dumps")) == [other]


def test_a_scale_that_was_changed_is_said(tmp_path):
    watched = model(targets=["up_proj"])
    for layer in layers(watched).values():
        layer.scale_layer(2.0)
    with capture(watched, tmp_path / "dumps"):
        train(watched)
    for verdict, message, _ in dumps(tmp_path / "dumps").values():
        assert verdict == "fail"
        assert "the layer multiplies by 4.66667, but r and alpha give 2.33333" in message


def test_the_configuration_is_the_layers_own(tmp_path):
    watched = model(targets=["up_proj", "down_proj"], rank_pattern={"up_proj": 5}, alpha_pattern={"down_proj": 4})
    with capture(watched, tmp_path / "dumps"):
        train(watched)
    configs = {}
    for path in (tmp_path / "dumps").iterdir():
        with safe_open(path, "pt") as file:
            configs[path.stem.rpartition(".")[2]] = json.loads(file.metadata()["config"])
    assert configs == {
        "up_proj": {"r": 5, "alpha": 7, "use_rslora": False},
        "down_proj": {"r": 3, "alpha": 4, "use_rslora": False},
    }
    assert {verdict for verdict, _, _ in dumps(tmp_path / "dumps").values()} == {"pass"}


# What cannot be captured


def two_adapters():
    adapted = model(targets=["up_proj"])
    adapted.add_adapter("second", peft.LoraConfig(r=2, target_modules=["up_proj"]))
    adapted.base_model.set_adapter(["default", "second"])
    return adapted


def merged():
    adapted = model(targets=["up_proj"])
    adapted.merge_adapter()
    return adapted


def disabled():
    adapted = model(targets=["up_proj"])
    adapted.base_model.disable_adapter_layers()
    return adapted


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: model(targets=["up_proj"], use_dora=True), "is a DoraLinearVariant"),
        (lambda: model(targets=["embed_tokens"]), "is a Embedding"),
        (lambda: model(targets=["up_proj"], lora_bias=True, bias="none"), "has a bias in B"),
        (two_adapters, "has 2 active adapters, expected 1"),
        (merged, "has its adapter merged"),
        (disabled, "has its adapter disabled"),
        (lambda: torch.nn.Linear(2, 2), "the model has no LoRA layers"),
    ],
)
def test_what_is_no_plain_lora_is_refused_before_the_step(tmp_path, make, sentence):
    with pytest.raises(ValueError, match=sentence), capture(make(), tmp_path / "dumps"):
        raise AssertionError("the block runs")
    assert not (tmp_path / "dumps").exists()


def test_names_that_fit_nothing_are_refused(tmp_path):
    sentence = "layers names 'proj', but no LoRA layer has a name with that ending"
    with pytest.raises(ValueError, match=sentence), capture(model(), tmp_path / "dumps", layers=["proj"]):
        pass


def test_a_folder_with_dumps_is_not_written_over(tmp_path):
    watched = model(targets=["up_proj"])
    with capture(watched, tmp_path / "dumps"):
        train(watched)
    with (
        pytest.raises(ValueError, match="already holds dumps: name another folder, or empty it"),
        capture(watched, tmp_path / "dumps"),
    ):
        pass


def test_a_step_that_raises_leaves_nothing_behind(tmp_path):
    watched = model(targets=["up_proj"])
    with pytest.raises(IndexError), capture(watched, tmp_path / "dumps"):
        watched(input_ids=torch.full((1, 3), 50))  # beyond the vocabulary
    assert not (tmp_path / "dumps").exists()
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in watched.modules())


def test_a_block_that_runs_nothing_is_said(tmp_path):
    with pytest.raises(RuntimeError, match="none of the 14 LoRA layers ran"), capture(model(), tmp_path / "dumps"):
        pass


def test_without_a_backward_y_is_judged(tmp_path):
    watched = model(targets=["up_proj"])
    with capture(watched, tmp_path / "dumps"):
        watched(input_ids=torch.arange(6)[None])
    for verdict, message, arrays in dumps(tmp_path / "dumps").values():
        assert verdict == "pass"
        assert arrays == {"x", "W", "A", "B", "y"}
        assert "dA is not in the dump" in message


def test_a_reference_pass_without_the_adapter_is_passed_over(tmp_path):
    """As in DPO, whose reference is the same model with its adapters off."""
    watched = model(targets=["up_proj"])
    with capture(watched, tmp_path / "dumps"):
        with watched.disable_adapter():
            watched(input_ids=torch.arange(6)[None])
        train(watched)
    for verdict, message, arrays in dumps(tmp_path / "dumps").values():
        assert verdict == "pass", message
        assert arrays | {"dx"} == ALL
