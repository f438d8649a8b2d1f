"""A short run of what `npl-lora check --power` measures."""

import pytest

from npl_lora.oracle import DTYPES
from npl_lora.oracle.definition import RIGHT
from npl_lora.oracle.power import Counts, false_alarms, misses


def nothing(what, done, total):
    """Progress that nobody looks at."""


def test_right_answers_pass():
    counts = Counts()
    false_alarms(160, DTYPES, counts, nothing)
    assert counts.alarms == []
    assert counts.answers >= 160
    assert 0.1 < counts.nearest < 1.0


@pytest.mark.slow
def test_no_fault_is_missed_where_it_is_clear():
    counts = Counts()
    misses(("float32",), counts, nothing)
    assert counts.misses == []
    assert counts.faults > 200


@pytest.mark.slow
def test_measuring_leaves_the_definition_as_it_is():
    """The first of the right ways is the op itself: to wrap it in itself would hide its signature from the faults."""
    false_alarms(8, ("float64",), Counts(), nothing)
    assert not hasattr(RIGHT.lora_linear, "__wrapped__")
    counts = Counts()
    misses(("float64",), counts, nothing)
    assert counts.misses == []
