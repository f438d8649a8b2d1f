"""What one clean call does not show: layers that go wrong afterwards are told, and right ones are left in peace."""

import pytest
from oracle.adoption.asked import checked

pytestmark = pytest.mark.torch

RIGHT = ["ByHand", "KeepsItsCacheUpToDate", "Switches", "AddsItsAdaptersUnderOtherRules"]

WRONG = [
    ("CachesForGood", "After A was changed by copy_, y in evaluation is still that of the old A (U1)."),
    ("CachesByVersion", "After A was changed through .data, y in evaluation is still that of the old A (U1)."),
    ("CachesByPointer", "After A was changed by copy_, y in evaluation is still that of the old A (U1)."),
    ("CachesByPointerInTraining", "After A was changed by copy_, y and dx are still those of the old A (U1)."),
    ("CachesOnlyA", "After B was changed by copy_, y in evaluation is still that of the old B (U1)."),
    ("SecondBackwardDiffers", "After a second backward through the same graph dB is no longer the same (U2)."),
    ("OverwritesDy", "dy is overwritten in the backward: a branch that shares it gets other numbers (U3)."),
    ("OverwritesX", "x is overwritten: a branch that uses it after the call gets other numbers (U3)."),
    ("OverwritesX", "Under gradient checkpointing, dA and dB are wrong (U8)."),
    ("KeepsLastX", "Called twice in one graph, dA and dB are wrong (U4)."),
    ("ForgetsItsUnmerge", "After a call in evaluation, y in training is another one."),
    ("ForgetsItsUnmerge", "(M6)"),
    ("ForgetsItsUnmerge", "(U5)"),
    ("ScalesOnceMore", "(U5)"),
    ("ScalesOnceMore", "After a call in evaluation, y in training is another one."),
    ("AddsByIndex", "autocast: RuntimeError: index_add_()"),
    ("AddsByIndex", "(U6)"),
    ("LeavesAutocastAlone", "Under torch.autocast, y, dx, dA and dB are far off (U6)."),
    ("FreesItsGraph", "second-backward: RuntimeError"),
    ("FreesItsGraph", "(U2)"),
    ("DoublesItsMemory", "After a second backward through the same graph dA is no longer the same (U2)."),
    ("RemembersItsInput", "Under gradient checkpointing, dx, dA and dB are wrong (U8)."),
    ("CachesByVersionInTraining", "After A was changed through .data, y and dx are still those of the old A (U1)."),
    ("OverwritesXInBackward", "x is overwritten: a branch that uses it after the call gets other numbers (U3)."),
    ("CachesWithoutAName", "After switching to another adapter, y in evaluation is still that of the last one (U9)."),
    ("SwitchesNothing", "Switching to another adapter has no effect (U9)."),
    ("SwitchesOnlyB", "After switching to another adapter, y in evaluation, y, dx, dA and dB are wrong (U9)."),
    ("FreezesForGood", "After switching to another adapter, dA and dB are wrong (U9)."),
    ("ViewsItsInput", "not-contiguous: RuntimeError: view size is not compatible"),
    ("ViewsItsInput", "(U7)"),
    ("ReadsMemory", "With an x that is not contiguous, y, dx, dA and dB are wrong (U7)."),
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


def test_the_ids_are_in_the_json():
    layer = checked("torch_stateful", "CachesForGood").reports[0].as_json()["contracts"]["layer"]
    assert layer["diagnosis"] == ["U1"]
    assert [claim["ids"] for claim in layer["claims"]] == [["U1"]]
