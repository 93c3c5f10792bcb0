"""What the papers report, as data, to stand beside what a run reached.

Sources: tables of the DC, DSA and DM papers and of FRePo (its Tables 1 to 3). A number is comparable only as far as
its protocol is, so every cell says which one it comes from.
"""

from __future__ import annotations

from dataclasses import dataclass

_DSA = "dsa: 1000 epochs, DSA augmentation, 20 networks on each of 5 sets"
_DC = "dc: 300 epochs (1000 on MNIST), instance norm, ConvNet"
_FREPO = "frepo: 5 networks without norm, checkpoint chosen on the test set"
_RERUN = "rerun by the authors of FRePo, with their preprocessing"
_WHOLE = "ordinary training on the whole set"


@dataclass(frozen=True, slots=True)
class Published:
    """A cell of a paper's table.

    Attributes:
        method: Name of the method, as in `method.name`; `random` and `whole` for the baselines.
        mean: Accuracy in percent.
        std: Deviation in percent, or None where the paper gives none.
        protocol: How it was scored.
    """

    method: str
    mean: float
    std: float | None
    protocol: str


Cell = tuple[float, float | None] | None

IPC = (1, 10, 50)
# Data set -> rows of (method, protocol, the cells of IPC).
TABLE: dict[str, tuple[tuple[str, str, tuple[Cell, Cell, Cell]], ...]] = {
    "mnist": (
        ("random", _DC, ((64.9, 3.5), (95.1, 0.9), (97.9, 0.2))),
        ("dm", _DSA, ((89.7, 0.6), (97.5, 0.1), (98.6, 0.1))),
        ("frepo", _FREPO, ((93.0, 0.4), (98.6, 0.1), (99.2, 0.0))),
    ),
    "fashion-mnist": (
        ("random", _DC, ((51.4, 3.8), (73.8, 0.7), (82.5, 0.7))),
        ("dm", _RERUN, ((71.5, 0.5), (83.6, 0.2), (88.2, 0.1))),
        ("frepo", _FREPO, ((75.6, 0.3), (86.2, 0.2), (89.6, 0.1))),
    ),
    "cifar10": (
        ("random", _DC, ((14.4, 2.0), (26.0, 1.2), (43.4, 1.0))),
        ("dm", _DSA, ((26.0, 0.8), (48.9, 0.6), (63.0, 0.4))),
        ("dm", _RERUN, ((31.0, None), (49.2, None), (63.7, None))),
        ("frepo", _FREPO, ((46.8, 0.7), (65.5, 0.4), (71.7, 0.2))),
    ),
    "cifar100": (
        ("dm", _DSA, ((11.4, 0.3), (29.7, 0.3), (43.6, 0.4))),
        ("frepo", _FREPO, ((28.7, 0.1), (42.5, 0.2), (44.3, 0.2))),
    ),
    "tiny-imagenet": (
        ("dm", _DSA, ((3.9, 0.2), (12.9, 0.4), None)),
        ("frepo", _FREPO, ((15.4, 0.3), (25.4, 0.2), None)),
    ),
}
WHOLE = {"mnist": 99.6, "fashion-mnist": 93.5, "cifar10": 84.8}
# (classes, channels, pixels): what a set must have to be the papers' data set, and not a part or a resized copy of it.
SHAPES = {
    "mnist": (10, 1, 28),
    "fashion-mnist": (10, 1, 28),
    "cifar10": (10, 3, 32),
    "cifar100": (100, 3, 32),
    "tiny-imagenet": (200, 3, 64),
}


def published(data: str | None, shape: tuple[int, int, int], method: str, ipc: float) -> list[Published]:
    """Return the papers' cells for a set, those of the method first; none where the papers have no such cell.

    Args:
        data: Name of the data set, or None where it is not known.
        shape: Number of classes, channels, and edge in pixels.
        method: Name of the method.
        ipc: Images a class.
    """
    if data is None or SHAPES.get(data) != shape or ipc not in IPC:
        return []
    column = IPC.index(int(ipc))
    rows = [(name, protocol, cells[column]) for name, protocol, cells in TABLE[data] if name in (method, "random")]
    found = [Published(name, cell[0], cell[1], protocol) for name, protocol, cell in rows if cell is not None]
    found.sort(key=lambda cell: cell.method != method)
    return found + ([Published("whole", WHOLE[data], None, _WHOLE)] if data in WHOLE else [])
