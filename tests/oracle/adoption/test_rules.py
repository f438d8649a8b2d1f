"""The rules of adoption without any framework: names, signatures, shapes, and what a config object answers."""

from types import SimpleNamespace

import pytest

from npl_lora.oracle.adoption.config import AnyConfig
from npl_lora.oracle.adoption.constructor import Constructor
from npl_lora.oracle.adoption.kinds import CONV1D, CONV2D, EMBEDDING, LINEAR, kind_of
from npl_lora.oracle.adoption.shapes import Held, find_roles, square_candidates
from npl_lora.oracle.adoption.wanted import PROBE, SHAPED, SQUARE, NotAdoptedError
from npl_lora.oracle.adoption.words import is_weight, of_factor, role_of

ROLES = {
    "in_features": "in",
    "features_in": "in",
    "d_in": "in",
    "out_dim": "out",
    "fan_out": "out",
    "r": "rank",
    "lora_dim": "rank",
    "_rank": "rank",
    "loraRank": "rank",
    "lora_alpha": "alpha",
    "network_alpha": "alpha",
    "scaling": "scale",
    "dropout_p": "dropout",
    "lora_droppout": "dropout",
    "bais": "bias",
    "use_rslora": "rslora",
    "fan_in_fan_out": "transposed",
    "original_layer": "base",
    "baseLinear": "base",
    "weight": "weight",
    "vocab_size": "ids",
    "embedding_dim": "width",
    "kernel_size": "kernel",
    "d_model": "size",
    # by words
    "frozen_linear": "base",
    "old_proj": "base",
    "num_input_channels": "in",
    "output_feature_dim": "out",
    "adapter_rank": "rank",
    "my_alpha": "alpha",
    "attn_dropout": "dropout",
    # none
    "init_alpha": None,
    "dropout_type": None,
    "temperature": None,
    "num_heads": None,
}


@pytest.mark.parametrize(("name", "role"), ROLES.items())
def test_a_name_tells_its_role(name, role):
    assert role_of(name) == role


def test_a_forward_whose_first_argument_is_a_weight():
    assert is_weight("W")
    assert is_weight("original_weights")
    assert is_weight("weight_matrix")
    assert not is_weight("x")
    assert not is_weight("inputs")


def test_a_path_names_its_factor():
    for path in ("lora_A", "lora_A.default.weight", "A", "w_a.weight", "loraA", "lora_down.weight"):
        assert of_factor(path, "a"), path
        assert not of_factor(path, "b"), path
    assert of_factor("lora_up", "b")
    assert not of_factor("base.weight", "a")


# What a constructor is handed. Parts stand for what a framework makes.
PARTS = {
    "base": lambda wanted: ("layer", wanted.in_, wanted.out, wanted.bias),
    "weight": lambda wanted: ("weight", wanted.out, wanted.in_),
    "bias tensor": lambda wanted: ("bias", wanted.out),
    "A": lambda wanted: "A",
    "B": lambda wanted: "B",
    "device": lambda wanted: wanted.device or "cpu",
    "dtype": lambda wanted: wanted.dtype or "float32",
}


def built(call, wanted=PROBE):
    return Constructor(call, PARTS).build(wanted)


def test_sizes_rank_and_alpha():
    assert built(lambda in_dim, out_dim, r, alpha: (in_dim, out_dim, r, alpha)) == (13, 11, 3, 8.0)


def test_the_signature_is_told_with_the_names_of_its_author():
    def lora(in_features, out_features, rank=4, *args, **kwargs): ...

    constructor = Constructor(lora, PARTS)
    assert constructor.signature == "lora(in_features, out_features, rank)"
    assert constructor.builds_a_layer
    assert constructor.parameter("rank") == "rank"
    assert constructor.parameter("alpha") is None


def test_alpha_is_an_int_where_it_is_annotated_so():
    def whole(base, rank: int, alpha: int):
        return alpha

    def either(base, rank: int, alpha: int | float):
        return alpha

    assert type(built(whole)) is int
    assert type(built(either)) is float
    assert built(whole, PROBE.but(strength=2.5)) == 2.5


def test_a_bias_is_a_flag_and_beside_a_weight_a_tensor():
    assert built(lambda in_dim, out_dim, rank, bias: bias, PROBE.but(bias=True)) is True
    assert built(lambda weight, bias, rank: (weight, bias), PROBE.but(bias=True)) == (("weight", 11, 13), ("bias", 11))
    assert built(lambda weight, bias, rank: bias) is None


def test_dim_is_the_input_beside_an_output_and_else_both():
    assert built(lambda dim, out_dim, rank: (dim, out_dim)) == (13, 11)
    square = Constructor(lambda dim, rank: dim, PARTS)
    assert square.square_only
    assert square.build(SQUARE) == 12
    with pytest.raises(NotImplementedError, match="square"):
        square.build(PROBE)


def test_an_unknown_parameter_without_a_default_stops():
    constructor = Constructor(lambda base, rank, heads, tasks, colour="red": None, PARTS)
    assert not constructor.builds_a_layer
    with pytest.raises(
        NotAdoptedError, match=r"^its constructor needs heads and tasks, which no rule knows\. Write build"
    ):
        constructor.build(PROBE)


def test_an_unknown_parameter_with_a_default_is_left():
    assert built(lambda base, rank, colour="red": colour) == "red"


def test_a_scale_beside_alpha_is_one():
    assert built(lambda base, rank, alpha, scale: (alpha, scale)) == (8.0, 1.0)
    assert built(lambda base, rank, alpha, scale=3.0: scale) == 3.0
    assert built(lambda base, rank, scale=3.0: scale) == 8.0


def test_switches_are_off():
    def lora(base, rank, merge_now: bool, use_bias_correction, enable_lora): ...

    roles = Constructor(lora, PARTS).roles
    assert [roles[name] for name in ("merge_now", "use_bias_correction", "enable_lora")] == ["switch"] * 3
    assert built(lambda base, rank, is_merged: is_merged) is False


def test_a_choice_among_words_is_no_number():
    assert built(lambda base, rank, bias="none": bias) == "none"

    def lora(base, rank, alpha: str = "auto"):
        return alpha

    assert built(lora) == "auto"


def test_cuda_becomes_cpu():
    assert built(lambda base, rank, device="cuda": device) == "cpu"
    assert built(lambda base, rank, device=None: device) is None
    assert built(lambda base, rank, device=None: device, PROBE.but(device="meta")) == "meta"


def test_what_takes_anything_more_is_told_of_the_bias():
    assert built(lambda in_dim, out_dim, rank, **kwargs: kwargs, PROBE.but(bias=True)) == {"bias": True}

    def strict(in_dim, out_dim, rank, **kwargs):
        if kwargs:
            raise TypeError("unexpected")
        return "built"

    assert built(strict) == "built"
    assert built(lambda base, rank, **kwargs: kwargs) == {}


def test_a_config_object_answers_names_items_and_nesting():
    def lora(config):
        return config.hidden.in_features, config["out_dim"], config.get("r"), config.lora.alpha

    constructor = Constructor(lora, PARTS)
    assert not constructor.has("alpha")
    assert constructor.build(PROBE) == (13, 11, 3, 8.0)
    assert constructor.has("alpha")
    assert constructor.parameter("alpha") == "alpha"


def test_a_config_object_has_switches_off_and_choices_open():
    config = AnyConfig(lambda role: role)
    assert config.use_cache is False
    assert config.init_method is None
    assert "rank" in config
    assert "colour" not in config
    with pytest.raises(AttributeError):
        _ = config.__deepcopy__


def test_factors_with_a_default_are_left_to_the_layer():
    assert built(lambda base, lora_A, lora_B: (lora_A, lora_B)) == ("A", "B")
    assert built(lambda base, rank, lora_A=None: lora_A) is None


def test_a_tensor_in_the_place_of_a_layer():
    class Tensor: ...

    def lora(base: Tensor, rank):
        return base

    assert built(lora) == ("weight", 11, 13)


def test_what_is_no_layers_constructor():
    for call in (
        lambda d_model, n_heads: None,
        lambda in_features, out_features: None,
        lambda sizes: None,
        lambda in_features, rank: None,
    ):
        assert not Constructor(call, PARTS).builds_a_layer
    assert Constructor(lambda vocab_size, embedding_dim, rank: None, PARTS).builds_a_layer
    assert Constructor(lambda cfg: None, PARTS).builds_a_layer


def test_the_kind_is_told_by_names():
    def kind(name, call):
        call.__name__ = name
        return kind_of(Constructor(call, PARTS))

    assert kind("LoRALinear", lambda in_features, out_features, rank: None) is LINEAR
    assert kind("LoRA", lambda num_embeddings, embedding_dim, rank: None) is EMBEDDING
    assert kind("LoRAEmbedding", lambda base, rank: None) is EMBEDDING
    assert kind("LoRA", lambda conv, rank: None) is CONV2D
    assert kind("LoRA", lambda in_channels, out_channels, kernel_size, rank: None) is CONV2D
    assert kind("LoRAConv1D", lambda base, rank: None) is CONV1D


W, A, B = (11, 13), (3, 13), (11, 3)


def test_the_shape_decides_and_not_the_name():
    roles = find_roles({"lora_B": A, "lora_A": B, "weight": W}, PROBE, LINEAR)
    assert [Held("lora_B"), Held("lora_A"), Held("weight")] == [roles.A, roles.B, roles.W]


@pytest.mark.parametrize("turned", [(a, b, w) for a in (0, 1) for b in (0, 1) for w in (0, 1)])
def test_every_orientation_is_seen(turned):
    stored = {name: s[::-1] if t else s for name, s, t in zip("ABW", (A, B, W), turned, strict=True)}
    roles = find_roles(stored, PROBE, LINEAR)
    assert [held.transposed for held in (roles.A, roles.B, roles.W)] == [bool(t) for t in turned]


def test_a_name_breaks_a_tie():
    shapes = {"momentum": A, "lora_A.weight": A, "lora_B.weight": B, "weight": W}
    assert find_roles(shapes, PROBE, LINEAR).A.path == "lora_A.weight"


def test_a_parameter_is_preferred_to_a_buffer():
    shapes = {"cache": A, "down": A, "up": B, "delta": W, "weight": W}
    roles = find_roles(shapes, PROBE, LINEAR, frozenset(["down", "up", "weight"]))
    assert (roles.A.path, roles.W.path) == ("down", "weight")
    assert find_roles({"down": A, "up": B, "weight": W}, PROBE, LINEAR, frozenset(["up"])).W.path == "weight"


def test_without_w_it_is_the_low_rank_path_alone():
    assert find_roles({"A": A, "B": B}, PROBE, LINEAR).W is None


def test_biases_and_the_magnitude_are_told_by_length_and_name():
    shapes = {"A": A, "B": B, "W": W, "base.bias": (11,), "norm": (11,), "m": (11, 1)}
    roles = find_roles(shapes, PROBE, LINEAR)
    assert roles.biases == ("base.bias",)
    assert roles.m == "m"
    assert find_roles({"A": A, "B": B, "W": W, "m": (2,)}, PROBE, LINEAR).m is None


def test_what_is_missing_is_said_with_the_tensors_that_are_there():
    with pytest.raises(NotAdoptedError) as error:
        find_roles({"q": A, "v": A, "weight": W}, PROBE, LINEAR)
    assert str(error.value) == (
        "built with in = 13, out = 11 and r = 3 it has 2 matrices (r, in) and 0 matrices (out, r), expected one of"
        " each. Its tensors: q (3, 13), v (3, 13), weight (11, 13)"
    )


def test_a_convolution_and_an_embedding_have_shapes_of_their_own():
    shapes = {"down": (3, 13, 5, 5), "up": (11, 3, 1, 1), "conv.weight": (11, 13, 5, 5)}
    roles = find_roles(shapes, SHAPED, CONV2D)
    assert (roles.A.path, roles.B.path, roles.W.path) == ("down", "up", "conv.weight")
    roles = find_roles({"E": (13, 11), "A": A, "B": (3, 11)}, PROBE, EMBEDDING)
    assert [Held("E"), Held("A"), Held("B", transposed=True)] == [roles.W, roles.A, roles.B]


def test_the_two_factors_of_a_square_layer():
    found = square_candidates({"down": (12, 3), "up": (3, 12), "weight": (12, 12)}, SQUARE)
    assert found == [Held("down", transposed=True), Held("up")]
    with pytest.raises(NotAdoptedError, match="it has 1 matrices of a factor"):
        square_candidates({"down": (12, 3)}, SQUARE)


def test_a_held_matrix_is_described_with_its_axes():
    assert Held("lora_A").describe("(r, in)") == "lora_A (r, in)"
    assert Held("lora_A", transposed=True).describe("(r, in)") == "lora_A (in, r)"


def test_an_instance_is_named_after_its_class():
    assert Constructor(SimpleNamespace(), PARTS).name == "SimpleNamespace"
