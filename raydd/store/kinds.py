"""What a folder holds, by the file that marks it. Nothing is read."""

from __future__ import annotations

from typing import Literal

from raydd.errors import RunError
from raydd.store.folder import Folder

Kind = Literal["application", "sweep", "run", "shards", "set", "training"]
# In this order: some have the marks of those below as well.
_MARKS: dict[str, Kind] = {
    "app.json": "application",
    "sweep.yaml": "sweep",
    "config.yaml": "run",
    "index.json": "shards",
    "manifest.json": "set",
    "config.json": "training",
}
_CALLED: dict[Kind, str] = {
    "application": "an application",
    "sweep": "a sweep",
    "run": "a run",
    "shards": "packed shards",
    "set": "a distilled set",
    "training": "a training",
}


def kind_of(folder: Folder) -> Kind | None:
    """Return what a folder holds; None where it is nothing of these."""
    return next((kind for mark, kind in _MARKS.items() if folder.exists(mark)), None)


def check_kind(folder: Folder, wanted: Kind) -> None:
    """Check that a folder holds nothing yet, or what is wanted.

    Raises:
        RunError: When something else lies there, which would be spoilt.
    """
    found = kind_of(folder)
    if found is not None and found != wanted:
        raise RunError(
            f"expected {_CALLED[wanted]} or nothing at {folder.url}, got {_CALLED[found]}; choose another name"
        )
