"""The points that the tests of the ops stand on are in general position: what is not there cannot be tested."""

import numpy as np
import pytest
from configurations import FIRST, OPS, POINTS, build, points_of

from npl_lora import ops
from npl_lora.ops.glu import ACTIVATIONS


def test_every_op_has_a_configuration():
    assert sorted(OPS) == sorted(set(ops.__all__) - {"Pullback"})


@pytest.mark.parametrize("point", POINTS.values(), ids=POINTS)
def test_sizes_differ_and_the_adapter_is_awake(point):
    inputs, config = build("lora_linear", point)
    out, rank = inputs["B"].shape
    assert len({out, rank, inputs["x"].shape[-1], inputs["x"].size}) == 4
    assert inputs["B"].all()
    assert config["scale"] not in (0, 1, rank)


def test_the_scale_takes_both_signs():
    assert {np.sign(point["scale"]) for point in POINTS.values()} == {-1, 1}


@pytest.mark.parametrize("name", ["glu", "gated_mlp", "lora_mlp"])
@pytest.mark.parametrize("labels", [tuple(POINTS), ("first", "second")])
def test_the_points_of_a_gated_mlp_have_every_activation_of_glu(name, labels):
    got = [build(name, point)[1]["activation"] for point in points_of(name, labels).values()]
    assert sorted(got) == sorted(ACTIVATIONS)


@pytest.mark.parametrize("name", ["embedding", "lora_embedding"])
def test_ids_repeat_and_name_the_padding_token_and_others(name):
    inputs, config = build(name, FIRST)
    tokens, counts = np.unique(inputs["ids"], return_counts=True)
    assert config["padding_idx"] in tokens
    assert max(counts[tokens != config["padding_idx"]]) > 1
    assert set(tokens) < set(range(len(inputs["E"])))


@pytest.mark.parametrize("point", POINTS.values(), ids=POINTS)
def test_some_rows_of_a_batch_have_an_adapter_and_some_have_none(point):
    inputs, config = build("lora_batched", point)
    assert -1 in inputs["ids"]
    assert len({*inputs["ids"]} - {-1}) > 1
    assert len(set(config["ranks"])) > 1
    assert min(config["ranks"]) < inputs["A"].shape[1]


def test_dropout_drops_and_keeps():
    for name in ("dropout", "lora_linear"):
        mask = build(name, FIRST)[0]["mask"]
        assert 0 < np.count_nonzero(mask) < mask.size
        assert 1.0 not in mask


def test_attention_hides_keys_and_whole_rows_and_shares_heads():
    inputs, config = build("attention", FIRST)
    y, _ = ops.attention(**inputs, **config)
    empty = ~y.any(axis=-1)
    assert 0 < np.count_nonzero(empty) < empty.size
    assert inputs["key_mask"].any()
    assert not inputs["key_mask"].all()
    assert inputs["q"].shape[-3] > inputs["k"].shape[-3] > 1


def test_some_labels_count_and_some_do_not():
    inputs, config = build("cross_entropy", FIRST)
    ignored = inputs["labels"] == config["ignore_index"]
    assert 0 < np.count_nonzero(ignored) < ignored.size
    assert config["count"] not in (np.count_nonzero(~ignored), ignored.size)
