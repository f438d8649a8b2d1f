"""Every form in which people write LoRA layers is adopted as it is and judged rightly; so is every kind of fault."""

import pytest
from oracle.adoption.asked import checked

import npl_lora
from npl_lora.oracle.subjects import TargetError

pytestmark = pytest.mark.torch

# (name, verdict, words that the report must hold)
FORMS = [
    ("BaseRankAlpha", "pass", ["W base_layer.weight (out, in); A lora_A (r, in); B lora_B (out, r); s = alpha / r."]),
    ("BaseRankAlpha", "pass", ["Trained: 4,096 of 266,240 parameters at in = 512, out = 512, r = 4."]),
    ("SizesRankAlpha", "pass", ["SizesRankAlpha(in_features, out_features, r, lora_alpha)", "s = lora_alpha / r"]),
    ("RawWeight", "pass", ["RawWeight(weight, rank, alpha): W weight (out, in)"]),
    ("RawWeightAndBias", "pass", ["RawWeightAndBias(weight, bias, rank, alpha)"]),
    ("SizesScale", "convention", ["s = scale, not alpha / r: scale = 16 at r = 8 is alpha = 128 in PEFT."]),
    ("DoraByInput", "convention", ["m has one number for each input, where PEFT has one for each output"]),
    ("SizesRank", "convention", ["s = 1, not alpha / r: this at r = 8 is alpha = 8 in PEFT."]),
    ("OneSquareSize", "convention", ["OneSquareSize(dim, rank)", "s = 1.", "lora_linear   pass        7/7"]),
    ("OneSquareSize", "convention", ["train_steps   pass        3/3"]),
    ("SquareOfInRows", "pass", ["W weight (in, out); A A (in, r); B B (r, out); s = alpha / r."]),
    ("BaseRank", "convention", ["BaseRank(linear, rank)", "s = 1."]),
    ("FactorsAsModules", "convention", ["A linear_a.weight (r, in); B linear_b.weight (out, r)"]),
    ("FactorsNamedByALetter", "pass", ["A A.weight (r, in); B B.weight (out, r); s = alpha / r."]),
    ("AdapterAddedLater", "pass", ["A lora_A.default (r, in); B lora_B.default (out, r); s = lora_alpha / r."]),
    ("HandedAPath", "pass", ["A lora.A (in, r); B lora.B (r, out); s = alpha / r."]),
    ("RankByItsLastWord", "pass", ["s = weight_alpha / r."]),
    ("PathThatAddsTheBasesOutput", "pass", ["The class is the low-rank path alone"]),
    ("OwnAlphaAndDropout", "convention", ["s = 16 / r, not alpha / r: this at r = 8 is alpha = 16 in PEFT."]),
    ("OwnAlphaAndDropout", "convention", ["Its dropout has a probability of its own: no parameter sets it."]),
    ("EmbeddingOfIdsInRows", "pass", ["E weight (ids, width); A lora_A (ids, r); B lora_B (r, width)"]),
    ("Conv2dWithMatrices", "pass", ["A lora_A (r, in kh kw); B lora_B (r, out)", "lora_conv2d   pass        5/5"]),
    ("Conv2dWithKernelInBothMatrices", "pass", ["A lora_A (r k, in k); B lora_B (out k, r k); s = alpha / r."]),
    ("Conv2dWithKernelInBothMatrices", "pass", ["lora_conv2d   pass        5/5", "takes square kernels only"]),
    ("Conv2dThatHandsItsWordsOn", "pass", ["lora_conv2d   pass        5/5"]),
    ("Conv2dThatPadsByHalf", "pass", ["lora_conv2d   pass        1/1", "padding is always half its kernel"]),
    ("ConfigOfAttributes", "pass", ["ConfigOfAttributes(config)", "s = alpha / r."]),
    ("ConfigOfItems", "pass", ["ConfigOfItems(cfg)", "s = alpha / r."]),
    ("ConfigNested", "pass", ["ConfigNested(config)", "s = alpha / r."]),
    ("BaseAndConfig", "pass", ["BaseAndConfig(base_layer, lora_config)", "s = alpha / r."]),
    ("RowsFirstParametrization", "pass", ["Its input and output sizes are exchanged", "s = alpha / r."]),
    ("RowsFirstWithoutAlpha", "convention", ["Its input and output sizes are exchanged", "s = 1."]),
    ("ColumnsFirstParametrization", "pass", ["W parametrizations.weight.original (out, in)", "s = alpha / r."]),
    ("PathOnly", "pass", ["The class is the low-rank path alone: the check adds a linear layer to it."]),
    ("InheritsFromLinear", "pass", ["W weight (out, in)", "s = lora_alpha / r.", "lora_dropout   pass"]),
    ("AlphaIsAnInt", "pass", ["s = alpha / r."]),
    ("OnTheGpu", "pass", ["OnTheGpu(in_features, out_features, rank, alpha, device)"]),
    ("FactorsOfInRows", "pass", ["A lora_A (in, r); B lora_B (r, out)"]),
    ("FactorsAsLinears", "pass", ["A lora_down.weight (r, in); B lora_up.weight (out, r)"]),
    ("OneLinearOneParameter", "pass", ["A lora_A.weight (r, in); B lora_B (out, r)"]),
    ("NamesExchanged", "pass", ["A lora_B (r, in); B lora_A (out, r)"]),
    ("OnAChild", "pass", ["A lora.A (in, r); B lora.B (r, out)"]),
    ("KeepsItsProduct", "pass", ["W base_layer.weight (out, in)"]),
    ("RawAlpha", "convention", ["s = alpha, not alpha / r: alpha = 16 at r = 8 is alpha = 128 in PEFT."]),
    ("NoAlpha", "convention", ["s = 1, not alpha / r"]),
    ("FixedTwo", "convention", ["s = 2, not alpha / r: this at r = 8 is alpha = 16 in PEFT."]),
    ("OneOverRank", "convention", ["s = 1 / r, not alpha / r: this at r = 8 is alpha = 1 in PEFT."]),
    ("ScaleOverRank", "pass", ["s = scale / r."]),
    ("AlphaOverRoot", "convention", ["s = alpha / sqrt(r), not alpha / r"]),
    ("RootAsPower", "convention", ["s = alpha / sqrt(r), not alpha / r"]),
    (
        "TwiceAlphaOverRank",
        "convention",
        ["s = 2 alpha / r, not alpha / r: alpha = 16 at r = 8 is alpha = 32 in PEFT."],
    ),
    ("FixedThird", "convention", ["s = 0.3, not alpha / r"]),
    ("OddLaw", "convention", ["s = c(r) alpha with 0.3704 at r = 1, 0.2703 at r = 2"]),
    ("ScaleIsABuffer", "pass", ["s = alpha / r."]),
    ("RsLora", "pass", ["s = alpha / r."]),
    ("DropoutOnX", "pass", ["lora_dropout   pass        2/2"]),
    ("DropoutOnXA", "pass", ["Dropout acts on x A^T, where PEFT has it on x."]),
    ("DropoutAfterB", "pass", ["Dropout acts after B, where PEFT has it on x."]),
    ("DrawsItsOwnMask", "pass", ["no dropout mask can be handed to it"]),
    ("DropoutOnColumnsOfA", "pass", ["Dropout acts on the columns of A, where PEFT has it on x."]),
    ("FreezesNothing", "pass", ["A and B are 4,096: freezing the rest is left to the caller."]),
    ("TrainsItsBias", "pass", [" is trained, and W is frozen; PEFT trains no bias by default."]),
    ("StartsAsHanded", "pass", ["W is changed so that the start is the base that was handed over, as PiSSA does."]),
    ("NormalA", "pass", ["A starts with a standard deviation of about 1 at in = 400, r = 50"]),
    ("StartsWithAZero", "pass", ["A starts at zero, where PEFT has B at zero."]),
    ("UniformByRank", "pass", ["A starts uniform within +-1/sqrt(r), where PEFT has +-1/sqrt(in)."]),
    ("Merges", "pass", ["lora_merge    pass        4/4   W_unmerged"]),
    ("MergesForGood", "pass", ["lora_merge    pass        4/4   W_merged"]),
    ("MergesInEval", "pass", ["lora_merge    pass        4/4   W_unmerged"]),
    ("MergesToNew", "pass", ["lora_merge    pass        4/4   W_merged"]),
    (
        "LoraEmbedding",
        "pass",
        ["E embedding.weight (ids, width); A lora_A (r, ids)", "lora_embedding   pass        3/3"],
    ),
    ("LoraConv2d", "pass", ["W conv.weight (out, in, kh, kw)", "lora_conv2d   pass        7/7"]),
    ("DoraLinear", "pass", ["m magnitude; s = alpha / r.", "dora_linear   pass        3/3"]),
    ("DoraWithDropout", "pass", ["dora_linear   pass        3/3"]),
    ("Conv2dWithDropout", "pass", ["lora_conv2d   pass"]),
    ("DoraOverTheOtherAxis", "convention", ["m has one number for each input, where PEFT has one for each output"]),
    ("LoraConv1D", "pass", ["W base_layer.weight (in, out); A lora_A (in, r); B lora_B (r, out)"]),
    ("TakesAWeightOfAnyName", "pass", ["W parametrizations.weight.original (out, in)", "s = alpha / r."]),
    ("OnADeviceThatTorchLacks", "pass", ["s = alpha / r."]),
    ("LeavesItsStart", "convention", ["The class sets no start for A and B, so a fresh layer is not its base"]),
    ("LeavesItsMemory", "convention", ["the caller must set one to zero."]),
    ("WaitsToBeTrained", "pass", ["W is trained, and A and B are not (requires_grad is False)"]),
    ("TrainsBAlone", "pass", ["A is not trained, as in LoRA-FA.", "trains one factor alone"]),
    ("StartsFromSingularVectors", "pass", ["its rank is at most min(in, out)", "as PiSSA does."]),
    ("TaskByTask", "pass", ["A down.0 (r, in); B up.0 (out, r); s = alpha / r."]),
    ("WithABottleneck", "pass", ["A and B are 4,096 of these."]),
    ("MergesLater", "pass", ["s = alpha / r."]),
    ("OverConv1D", "pass", ["W conv.weight (in, out); A A (in, r); B B (r, out)"]),
    ("MakesItsConvolution", "pass", ["A lora_A (r k, in k); B lora_B (out k, r k)"]),
    ("GivesItsWeight", "convention", ["W of.proj (out, in); A of.down (r, in); B of.up (out, r); s = 1."]),
    ("WeightIsLoadedLater", "pass", ["lora_merge    pass        4/4   W_unmerged"]),
    ("build", "pass", ["build(in_features, out_features, rank, alpha, dropout, bias)", "lora_dropout   pass"]),
]

FAULTS = [
    ("FactorsLostInAnotherDtype", "A and B are not parameters of a layer in another dtype: never trained"),
    ("FactorsLostOnAnotherDevice", "A and B are not parameters of a layer on another device: never trained"),
    ("FactorsAreTensors", "A and B are not parameters: never trained and never saved."),
    ("BothRandom", "Neither A nor B is zero at the start, so a fresh layer is not its base."),
    ("BothZero", "A and B are both zero at the start, so both gradients are zero: nothing is ever learned."),
    ("NeverNegative", "A has no negative number at the start."),
    ("WholeDivision", "s = alpha // r, which is not proportional to alpha."),
    ("WholeDivision", "(S15)"),
    ("RankOverAlpha", "s = r / alpha, which is not proportional to alpha."),
    ("RankOverAlpha", "(S16)"),
    ("AlphaWithoutEffect", "The parameter alpha has no effect: s = 1, whatever alpha is."),
    ("AlphaWithoutEffect", "(S13)"),
    ("AddsNothing", "the adapter is not applied"),
    ("AddsNothingWithoutAlpha", "the adapter is not applied"),
    ("ScalesTheBaseToo", "(S17)"),
    ("DropoutAlwaysOn", "(D4)"),
    ("DropoutOnTheBaseToo", "(D3)"),
    ("DropoutNowhere", "The parameter dropout has no effect in training."),
    ("AddsInPlace", "A call in training changes W."),
    ("WeightNoParameter", "After a call in training W is no parameter any more."),
    (
        "RightForSquareAlone",
        "Called with x of shape (1, 5, 13) it raised RuntimeError: mat1 and mat2 shapes cannot be multiplied",
    ),
    ("MergesUntransposed", "RuntimeError: The size of tensor a (13) must match"),
    ("MergesInTheWrongOrder", "RuntimeError: mat1 and mat2 shapes cannot be multiplied"),
    ("MergesWithoutScale", "(S2)"),
    ("MergesTwice", "merge() twice adds the update twice."),
    ("StillAddsAfterMerge", "W has the update, and forward still adds the low-rank path."),
    ("HidesItsMerge", "The attribute merge hides the method merge(), so nobody can call it."),
    ("NeedsABias", "A base layer without bias is refused: AttributeError"),
    ("FactorsHaveBiases", "A base layer without bias gets one here, and it is not zero. Passed: 16/18."),
    ("RandomBias", "A base layer without bias gets one here, and it is not zero."),
    ("FreezesByAttribute", "requires_grad = False on the module base_layer freezes nothing"),
    ("RankClipped", "in a layer that was asked for"),
    ("TwoAxesOnly", "It gives no answer wherever x has not 2 axes."),
    ("DoraStartsElsewhere", "A fresh layer is not its base: y differs from x W^T + b."),
    ("Conv2dWithAnotherView", "lora_conv2d   fail        "),
    ("Conv2dWhoseUpdateIsNotPadded", "lora_conv2d   fail        0/1"),
    ("FactorIsDetached", "A step of the optimiser does not change A."),
    ("NotTrained", "Neither A nor B is trained: requires_grad is False."),
    ("SizedByTheOutput", "It works for a square W alone: with in = 13 and out = 11 a call raises RuntimeError: mat1"),
    ("SizedByTheOutput", "lora_linear   pass"),
    ("BiasOfNothing", "A base layer without bias is refused: RuntimeError"),
    ("BiasOfNothing", "lora_linear   pass"),
    ("BiasesBeforeTheBase", "A fresh layer is not its base: y differs from x W^T + b."),
    ("BiasesBeforeTheBase", "lora_linear   pass"),
    (
        "FactorsOutOfTheStateDict",
        "A and B are buffers, not parameters: never trained. A and B are not in the state dict: never saved.",
    ),
]


@pytest.mark.parametrize(("name", "verdict", "words"), FORMS)
def test_a_right_layer_of_every_form(name, verdict, words):
    reports = checked("torch_forms", name)
    assert reports.verdict == verdict, str(reports)
    for sentence in words:
        assert sentence in str(reports)


@pytest.mark.parametrize(("name", "words"), FAULTS)
def test_a_layer_with_every_kind_of_fault(name, words):
    reports = checked("torch_faults", name)
    assert reports.verdict == "fail", str(reports)
    assert "convention:" not in str(reports)
    assert words in str(reports)


@pytest.mark.parametrize("name", ["TakesItsUpdateAway", "AddsWhatItDrew"])
def test_what_is_wrong_in_a_clean_call_is_not_blamed_on_what_follows(name):
    (report,) = checked("torch_faults", name).reports
    layer = next(one for one in report.contracts if one.contract == "layer")
    assert report.verdict == "fail"
    assert not layer.diagnosis.ids  # a kind U is wrong after something, or under something


def test_another_method_than_lora_is_not_called_wrong():
    with pytest.raises(TargetError, match="no multiple of B A, and it has gate besides"):
        checked("torch_faults", "Gated")


def test_an_instance_is_checked_as_its_class_is():
    from oracle.adoption.torch_forms import SizesRankAlpha

    reports = npl_lora.check(SizesRankAlpha(5, 4, 2, 3.0), dtypes=["float64"], contract="lora_linear")
    assert reports.verdict == "pass"
    assert "s = lora_alpha / r." in reports._repr_html_()
