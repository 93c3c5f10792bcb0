"""A folder holds one thing, and whoever comes with another is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydd.errors import RunError
from raydd.store import Folder, check_kind, kind_of
from raydd.store.kinds import Kind

MARKS: dict[str, tuple[Kind, str]] = {
    "app.json": ("application", "an application"),
    "sweep.yaml": ("sweep", "a sweep"),
    "config.yaml": ("run", "a run"),
    "index.json": ("shards", "packed shards"),
    "manifest.json": ("set", "a distilled set"),
    "config.json": ("training", "a training"),
}


@pytest.mark.parametrize("mark", MARKS)
def test_each_kind_has_a_mark(mark: str, tmp_path: Path) -> None:
    folder, (kind, called) = Folder(tmp_path / "x"), MARKS[mark]
    assert kind_of(folder) is None
    check_kind(folder, kind)
    folder.write(mark, b"")
    assert kind_of(folder) == kind
    check_kind(folder, kind)
    for other, name in MARKS.values():
        if other != kind:
            with pytest.raises(
                RunError, match=f"^expected {name} or nothing at .*/x, got {called}; choose another name$"
            ):
                check_kind(folder, other)


def test_an_application_has_a_config_as_a_run_has(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    for name in ("config.yaml", "app.json"):
        folder.write(name, b"")
    assert kind_of(folder) == "application"
