"""The page: self-contained, with the diagnosis and pictures of what failed, whatever came back."""

from html.parser import HTMLParser

import numpy as np
import pytest

from npl_lora.oracle import CONTRACTS, Report, check
from npl_lora.oracle.faults import FAULTS
from npl_lora.oracle.page import _LARGEST, _picture, page
from npl_lora.oracle.subjects.injected import Injected


class Tags(HTMLParser):
    """Every tag and attribute, and whether each that was opened was closed."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(html):
    tags = Tags()
    tags.feed(html)
    assert tags.open == []
    return tags


def named(name):
    return next(fault for fault in FAULTS if fault.name == name)


def test_a_failure_has_its_diagnosis_its_source_and_three_pictures_an_output():
    report = check(Injected(named("S5/dB")), contract="lora_linear", dtypes=["float32"])
    tags = read(page([report]))
    words = " ".join(tags.text)
    assert "dB lacks s = alpha / r" in words
    assert "S5: hidden when s = 1. Seen in: hand-written backward passes." in words
    assert sum(tag == "svg" for tag, _ in tags.seen) == 3
    size = CONTRACTS["lora_linear"].cases("float32")[0]["B"].size
    assert sum(tag == "rect" for tag, _ in tags.seen) == 3 * size


def test_the_page_needs_nothing_from_elsewhere():
    tags = read(page([check(Injected(), contract="lora_merge", dtypes=["float64"])]))
    assert not any({"src", "href"} & attributes.keys() for _, attributes in tags.seen)
    assert not any(tag in ("script", "link", "img") for tag, _ in tags.seen)


def test_names_and_messages_are_text():
    html = page([Report("<script>alert(1)</script>.py", problem="a < b & c")])
    assert "<script>" not in html
    assert "a &lt; b &amp; c" in html


@pytest.mark.parametrize("shape", [(), (3,), (200, 3), (5, 6, 7), (1000, 1000)])
def test_a_picture_of_any_shape_stays_small_and_shows_the_worst(shape):
    values = np.zeros(shape)
    values.flat[-1] = 2.0
    tags = read(_picture("y", values, 2.0, values))
    rectangles = [attributes["fill"] for tag, attributes in tags.seen if tag == "rect"]
    assert len(rectangles) <= _LARGEST**2
    assert rectangles[-1] == "rgb(255,0,0)"
    assert set(rectangles[:-1]) <= {"rgb(255,255,255)"}


def test_what_is_not_finite_is_black():
    values = np.array([[np.nan, 1.0], [-np.inf, -1.0]])
    fills = [a["fill"] for tag, a in read(_picture("y", values, 1.0, values)).seen if tag == "rect"]
    assert fills == ["#000", "rgb(255,0,0)", "#000", "rgb(0,0,255)"]
