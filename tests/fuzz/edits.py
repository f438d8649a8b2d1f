"""Bytes for a target: drawn at random, or a right input with a few edits."""

from fuzz.targets import WORDS
from hypothesis import strategies as st


@st.composite
def hostile(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """One input. Hypothesis draws, so that what fails is shrunk."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, len(data)))
        end = min(len(data), begin + draw(st.sampled_from((0, 1, 1, 2, 5, 20, 1000))))
        data[begin:end] = draw(st.sampled_from(WORDS) | st.binary(max_size=3) | st.just(bytes(data[begin:end]) * 2))
    return bytes(data)
