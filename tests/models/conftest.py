import sys

import pytest


@pytest.fixture(autouse=True)
def without_torchao(monkeypatch):
    """PEFT adapts nothing where an older torchao is installed, which torchtune needs: None says that there is none."""
    monkeypatch.setitem(sys.modules, "torchao", None)
