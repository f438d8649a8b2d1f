"""A short run of what `python -m fuzz` does at length."""

import pytest
from fuzz.edits import hostile
from fuzz.targets import TARGETS
from hypothesis import given, settings


@pytest.mark.parametrize("name", TARGETS)
def test_right_inputs_do_not_raise(name):
    for seed in TARGETS[name].seeds:
        TARGETS[name].read(seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_strange_inputs_do_not_raise(name):
    target = TARGETS[name]

    @settings(max_examples=100, deadline=None)
    @given(hostile(target.seeds))
    def strange(data):
        target.read(data)

    strange()
