from __future__ import annotations

import pytest

from raydd.data.pack import pack
from raydd.engine.coordinator import Coordinator
from tests.engine.toys import METHODS, distil, toy


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Packed digits."""
    dest = str(tmp_path_factory.mktemp("digits"))
    pack("digits", dest)
    return dest


@pytest.fixture(scope="session")
def digits_test(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The packed test split of digits."""
    dest = str(tmp_path_factory.mktemp("digits-test"))
    pack("digits", dest, split="test")
    return dest


@pytest.fixture(scope="session")
def undisturbed(digits: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """For each method the learned tensors of a run in one process that nothing happened to."""
    store = str(tmp_path_factory.mktemp("undisturbed"))
    return {method: distil(toy(method, digits, store)) for method in [*METHODS, "rtp"]}


@pytest.fixture(params=list(METHODS))
def method(request: pytest.FixtureRequest) -> str:
    """Each method in turn."""
    return request.param


@pytest.fixture
def punctual(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every checkpoint stands before the next round: on a slow disk the next one would come late, or not at all."""
    save = Coordinator._save

    def saved(self: Coordinator) -> None:
        save(self)
        self.checkpoints.wait(60)

    monkeypatch.setattr(Coordinator, "_save", saved)
