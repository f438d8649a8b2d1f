"""What one clean call does not show: layers that go wrong afterwards are told, and right ones are left in peace."""

import pytest
from oracle.adoption.asked import checked

pytestmark = pytest.mark.torch

RIGHT = ["ByHand", "KeepsItsCacheUpToDate"]

WRONG = [
    ("CachesForGood", "After A was changed by copy_, y in evaluation is still that of the old A."),
    ("CachesByVersion", "After A was changed through .data, y in evaluation is still that of the old A."),
    ("CachesByPointer", "After A was changed by copy_, y in evaluation is still that of the old A."),
    ("CachesByPointerInTraining", "After A was changed by copy_, y and dx are still those of the old A."),
    ("CachesOnlyA", "After B was changed by copy_, y in evaluation is still that of the old B."),
    ("SecondBackwardDiffers", "After a second backward through the same graph dB is no longer the same."),
    ("OverwritesDy", "dy is overwritten in the backward: a branch that shares it gets other numbers."),
    ("OverwritesX", "x is overwritten: a branch that uses it after the call gets other numbers."),
    ("OverwritesX", "Under gradient checkpointing, dA and dB are wrong."),
    ("KeepsLastX", "Called twice in one graph, dA and dB are wrong."),
    ("ForgetsItsUnmerge", "After a call in evaluation, y in training is another one."),
    ("ForgetsItsUnmerge", "(M6)"),
    ("ScalesOnceMore", "After a call in evaluation, y in training is another one."),
    ("AddsByIndex", "autocast: RuntimeError: index_add_()"),
    ("LeavesAutocastAlone", "Under torch.autocast, y, dx, dA and dB are far off."),
    ("ReadsMemory", "With an x that is not contiguous, y, dx, dA and dB are wrong."),
]


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_layer_with_states_passes(name):
    reports = checked("torch_stateful", name)
    assert reports.verdict == "pass", str(reports)


@pytest.mark.parametrize(("name", "words"), WRONG)
def test_a_layer_that_goes_wrong_after_a_call_is_told(name, words):
    reports = checked("torch_stateful", name)
    assert reports.verdict == "fail", str(reports)
    assert words in str(reports)


@pytest.mark.parametrize("name", sorted({name for name, _ in WRONG} - {"ForgetsItsUnmerge"}))
def test_one_clean_call_shows_nothing(name):
    contracts = {one.contract: one.verdict for one in checked("torch_stateful", name).reports[0].contracts}
    assert contracts.pop("layer") == "fail"
    assert contracts["lora_linear"] == "pass"
