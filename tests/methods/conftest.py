from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import raydd.methods
from tests.methods import toy


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def third_party(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register what is in `tests.methods.third`, as entry points would."""
    monkeypatch.setattr(raydd.methods, "methods", lambda: toy.SPECS)
