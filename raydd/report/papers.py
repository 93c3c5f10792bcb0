"""What the papers report, as data, to stand beside what a run reached.

Sources: the tables of DC (its Table 1, coresets included), DSA, DM (with its supplement), FRePo (Tables 1 to 3), RTP
(Table 1) and DD. A number is comparable only as far as its protocol is, so every cell says which one it comes from.
Numbers that are known from elsewhere than a paper are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_DC = "dc: 300 epochs (1000 on MNIST), ConvNet with instance norm, 20 networks on each of 5 sets"
_DC_ALEX = "dc: 300 epochs, AlexCifarNet"
_DSA = "dsa: 1000 epochs, DSA augmentation, 20 networks on each of 5 sets"
_MTT = "mtt: 1000 epochs, DSA augmentation, 5 networks, learned learning rate, round chosen on the test set"
_KIP = "kip: network of finite width with other preprocessing, trained on the set"
_FREPO = "frepo: 5 networks without norm, soft labels, round chosen on the test set"
_KRR = "frepo, kernel ridge regression on the set in place of a trained network; round chosen on the test set"
_RTP = "rtp: 300 epochs, 20 networks, round chosen on the test set; images per class counted by storage"
_DD = "dd: the learned steps on 200 networks with random weights, {net}"
_DD_FIXED = "dd: the learned steps on the one network that they were learned for, {net}"
_DD_TRAINED = "dd: {net} trained on them, ten images a class"
_DD_ONE = "dd: {net} trained on them, one image a class"
_KNN = "dd: k nearest neighbours of the images, no network"
_RERUN = "rerun by the authors of FRePo, with their preprocessing"
_SUBSET = "frepo: random real images"
_WHOLE = "ordinary training on the whole set"


@dataclass(frozen=True, slots=True)
class Published:
    """A cell of a paper's table.

    Attributes:
        method: Name of the method, as in `method.name` where raydd has it; `random` and `whole` for the baselines.
        mean: Accuracy in percent.
        std: Deviation in percent, or None where the paper gives none.
        protocol: How it was scored.
    """

    method: str
    mean: float
    std: float | None
    protocol: str


Cell = tuple[float, float | None]
Row = tuple[str, str, Mapping[int, Cell]]


def _row(method: str, protocol: str, *cells: str, ipc: Sequence[int] = (1, 10, 50)) -> Row:
    """Return a row from its cells as the papers print them, such as `89.7+-.6`, `90.1`, or `-` for none."""
    found = {}
    for column, text in zip(ipc, cells, strict=True):
        mean, _, std = text.partition("+-")
        if mean != "-":
            found[column] = (float(mean), float(std) if std else None)
    return method, protocol, found


_TEN = (1, 10)
TABLE: dict[str, tuple[Row, ...]] = {
    "mnist": (
        _row("random", _DC, "64.9+-3.5", "95.1+-.9", "97.9+-.2"),
        _row("herding", _DC, "89.2", "93.7", "94.9"),
        _row("kcenter", _DC, "89.3", "84.4", "97.4"),
        _row("forgetting", _DC, "35.5", "68.1", "88.2"),
        _row("dd", _DD.format(net="LeNet"), "-", "79.5+-8.1", "-"),
        _row("dd", _DD_FIXED.format(net="LeNet"), "94", "96.6", "-"),
        _row("random", _DD_TRAINED.format(net="LeNet"), "-", "68.6+-9.8", "-"),
        _row("optimised", _DD_TRAINED.format(net="LeNet"), "-", "73.0+-7.6", "-"),
        _row("kmeans", _DD_TRAINED.format(net="LeNet"), "-", "76.4+-9.5", "-"),
        _row("average", _DD_ONE.format(net="LeNet"), "77.1+-2.7", "-", "-"),
        _row("random", _KNN, "-", "71.5+-2.1", "-"),
        _row("kmeans", _KNN, "-", "92.2+-.1", "-"),
        _row("dc", _DC, "91.7+-.5", "97.4+-.2", "98.8+-.2"),
        _row("dsa", _DSA, "88.7+-.6", "97.8+-.1", "99.2+-.1"),
        _row("dm", _DSA, "89.7+-.6", "97.5+-.1", "98.6+-.1"),
        _row("kip", _KIP, "90.1", "97.5", "98.3"),
        _row("mtt", _RERUN, "91.4+-.9", "97.3+-.1", "98.5+-.1"),
        _row("frepo", _FREPO, "93.0+-.4", "98.6+-.1", "99.2+-.0"),
        _row("frepo", _KRR, "92.6", "98.6", "99.2"),
        _row("rtp", _RTP, "98.7+-.7", "99.3+-.5", "99.4+-.4"),
    ),
    "fashion-mnist": (
        _row("random", _DC, "51.4+-3.8", "73.8+-.7", "82.5+-.7"),
        _row("herding", _DC, "67.0", "71.1", "71.9"),
        _row("kcenter", _DC, "66.9", "54.7", "68.3"),
        _row("forgetting", _DC, "42.0", "53.9", "55.0"),
        _row("dc", _DC, "70.5+-.6", "82.3+-.4", "83.6+-.4"),
        _row("dsa", _DSA, "70.6+-.6", "84.6+-.3", "88.7+-.2"),
        _row("dm", _RERUN, "71.5+-.5", "83.6+-.2", "88.2+-.1"),
        _row("kip", _KIP, "73.5+-.5", "86.8+-.1", "88.0+-.1"),
        _row("mtt", _RERUN, "75.1+-.9", "87.2+-.3", "88.3+-.1"),
        _row("frepo", _FREPO, "75.6+-.3", "86.2+-.2", "89.6+-.1"),
        _row("frepo", _KRR, "77.1", "86.8", "89.9"),
        _row("rtp", _RTP, "88.5+-.1", "90.0+-.7", "91.2+-.3"),
    ),
    "svhn": (
        _row("random", _DC, "14.6+-1.6", "35.1+-4.1", "70.9+-.9"),
        _row("herding", _DC, "20.9", "50.5", "72.6"),
        _row("kcenter", _DC, "21.0", "14.0", "20.1"),
        _row("forgetting", _DC, "12.1", "16.8", "27.2"),
        _row("dc", _DC, "31.2+-1.4", "76.1+-.6", "82.3+-.3"),
        _row("dsa", _DSA, "27.5+-1.4", "79.2+-.5", "84.4+-.4"),
        _row("kip", _KIP, "57.3+-.1", "75.0+-.1", "80.5+-.1"),
        _row("rtp", _RTP, "87.3+-.1", "89.1+-.2", "89.5+-.2"),
    ),
    "cifar10": (
        _row("random", _DC, "14.4+-2.0", "26.0+-1.2", "43.4+-1.0"),
        _row("herding", _DC, "21.5", "31.6", "40.4"),
        _row("kcenter", _DC, "21.5", "14.7", "27.0"),
        _row("forgetting", _DC, "13.5", "23.3", "23.3"),
        _row("gmmn", _DSA, "16.1", "32.2", "45.3"),
        _row("vae", _DSA, "15.7", "29.8", "44.0"),
        _row("biggan", _DSA, "15.8", "31.0", "46.2"),
        _row("mmd", _DSA, "22.7", "34.9", "50.9"),
        _row("dd", _DD.format(net="AlexCifarNet"), "-", "36.8+-1.2", "-"),
        _row("dd", _DD_FIXED.format(net="AlexCifarNet"), "-", "54.0", "-"),
        _row("random", _DD_TRAINED.format(net="AlexCifarNet"), "-", "21.3+-1.5", "-"),
        _row("optimised", _DD_TRAINED.format(net="AlexCifarNet"), "-", "23.4+-1.3", "-"),
        _row("kmeans", _DD_TRAINED.format(net="AlexCifarNet"), "-", "22.5+-3.1", "-"),
        _row("average", _DD_ONE.format(net="AlexCifarNet"), "22.3+-.7", "-", "-"),
        _row("random", _KNN, "-", "18.8+-1.3", "-"),
        _row("kmeans", _KNN, "-", "29.4+-.3", "-"),
        _row("dc", _DC, "28.3+-.5", "44.9+-.5", "53.9+-.5"),
        _row("dc", _DC_ALEX, "24.2", "39.1", "-"),
        _row("dsa", _DSA, "28.8+-.7", "52.1+-.5", "60.6+-.5"),
        _row("dsa", _RERUN, "36.7", "53.2", "66.8"),
        _row("dm", _DSA, "26.0+-.8", "48.9+-.6", "63.0+-.4"),
        _row("dm", _RERUN, "31.0", "49.2", "63.7"),
        _row("dm", _DSA, "67.0", "71.2", "76.1", "79.8", "80.8", ipc=(100, 200, 500, 1000, 1250)),
        _row("kip", _KIP, "49.9+-.2", "62.7+-.3", "68.6+-.2"),
        _row("mtt", _MTT, "46.3+-.8", "65.3+-.7", "71.6+-.2"),
        _row("frepo", _FREPO, "46.8+-.7", "65.5+-.4", "71.7+-.2"),
        _row("frepo", _KRR, "47.9", "68.0", "74.4"),
        _row("rtp", _RTP, "66.4+-.4", "71.2+-.4", "73.6+-.5"),
    ),
    "cifar100": (
        _row("dc", _DC, "12.8+-.3", "25.2+-.3", "-"),
        _row("dsa", _DSA, "13.9+-.3", "32.3+-.3", "42.8+-.4"),
        _row("dm", _DSA, "11.4+-.3", "29.7+-.3", "43.6+-.4"),
        _row("kip", _KIP, "15.7+-.2", "28.3+-.1", "-"),
        _row("mtt", _MTT, "24.3+-.3", "40.1+-.4", "47.7+-.2"),
        _row("frepo", _FREPO, "28.7+-.1", "42.5+-.2", "44.3+-.2"),
        _row("frepo", _KRR, "32.3", "44.9", "43.0"),
        _row("rtp", _RTP, "34.0+-.4", "42.9+-.7", "-"),
    ),
    "tiny-imagenet": (
        _row("dsa", _RERUN, "6.6+-.2", "-", "-"),
        _row("dm", _DSA, "3.9+-.2", "12.9+-.4", "-"),
        _row("mtt", _MTT, "8.8+-.3", "23.2+-.2", "28.0"),
        _row("frepo", _FREPO, "15.4+-.3", "25.4+-.2", "-"),
        _row("frepo", _KRR, "19.1", "26.5", "-"),
        _row("rtp", _RTP, "16.0+-.7", "-", "-"),
    ),
    "imagenette": (
        _row("random", _SUBSET, "23.5+-4.8", "47.7+-2.4", ipc=_TEN),
        _row("mtt", _MTT, "47.7+-.9", "63.0+-1.3", ipc=_TEN),
        _row("frepo", _FREPO, "48.1+-.7", "66.5+-.8", ipc=_TEN),
    ),
    "imagewoof": (
        _row("random", _SUBSET, "14.2+-.9", "27.0+-1.9", ipc=_TEN),
        _row("mtt", _MTT, "28.6+-.8", "35.8+-1.8", ipc=_TEN),
        _row("frepo", _FREPO, "29.7+-.6", "42.2+-.9", ipc=_TEN),
    ),
    "imagenet": (
        _row("random", _SUBSET, "1.1+-.1", "1.4+-.1", ipc=(1, 2)),
        _row("frepo", _FREPO, "7.5+-.3", "9.7+-.2", ipc=(1, 2)),
    ),
    "cub-200": (
        _row("mtt", _RERUN, "2.2", "-", ipc=_TEN),
        _row("frepo", _FREPO, "12.4+-.2", "16.8+-.1", ipc=_TEN),
    ),
}
WHOLE = {"mnist": 99.6, "fashion-mnist": 93.5, "svhn": 95.4, "cifar10": 84.8}
# (classes, channels, pixels): what a set must have to be the papers' data set, and not a part or a resized copy of it.
SHAPES = {
    "mnist": (10, 1, 28),
    "fashion-mnist": (10, 1, 28),
    "svhn": (10, 3, 32),
    "cifar10": (10, 3, 32),
    "cifar100": (100, 3, 32),
    "tiny-imagenet": (200, 3, 64),
    "imagenette": (10, 3, 128),
    "imagewoof": (10, 3, 128),
    "imagenet": (1000, 3, 64),
    "cub-200": (200, 3, 32),
}


@dataclass(frozen=True, slots=True)
class Cross:
    """A published cross-architecture table.

    Attributes:
        title: What its rows are, and where it stands.
        targets: Networks that were trained.
        rows: What they were trained on, and the accuracy of each target in percent.
    """

    title: str
    targets: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float, ...]], ...]


_CLASSIC = ("MLP", "ConvNet", "LeNet", "AlexNet", "VGG", "ResNet")
# (data set, images a class) -> tables.
CROSS: dict[tuple[str, int], tuple[Cross, ...]] = {
    ("mnist", 1): (
        Cross(
            "DC, images learned with",
            _CLASSIC,
            (
                ("MLP", (70.5, 63.9, 77.3, 70.9, 53.2, 80.9)),
                ("ConvNet", (69.6, 91.6, 85.3, 85.1, 83.4, 90.0)),
                ("LeNet", (71.0, 90.3, 85.0, 84.7, 80.3, 89.0)),
                ("AlexNet", (72.1, 87.5, 84.0, 82.7, 81.2, 88.9)),
                ("VGG", (70.3, 90.1, 83.9, 83.4, 81.7, 89.1)),
                ("ResNet", (73.6, 91.6, 86.4, 85.4, 83.4, 89.4)),
            ),
        ),
    ),
    ("mnist", 10): (
        Cross(
            "DC paper, images learned with LeNet by",
            _CLASSIC,
            (("DD", (72.7, 77.6, 79.5, 51.3, 11.4, 63.6)), ("DC", (83.0, 92.9, 93.9, 90.6, 92.9, 94.5))),
        ),
    ),
    ("cifar10", 10): (
        Cross(
            "FRePo paper, images learned by",
            ("Conv", "Conv-NN", "ResNet-DN", "ResNet-BN", "VGG-BN", "AlexNet"),
            (
                ("DSA", (53.2, 36.4, 42.1, 34.1, 46.3, 34.0)),
                ("DM", (49.2, 35.2, 36.8, 35.5, 41.2, 34.9)),
                ("MTT", (64.4, 41.6, 49.2, 42.9, 46.6, 34.2)),
                ("FRePo", (65.5, 65.5, 58.1, 57.7, 59.4, 61.9)),
            ),
        ),
    ),
}


def published(data: str | None, shape: tuple[int, int, int], method: str, ipc: float) -> list[Published]:
    """Return all of the papers' cells for a set; none where the papers have no such cell.

    The method's own come first, then the random images', then all others, best first, and the whole set's last.

    Args:
        data: Name of the data set, or None where it is not known.
        shape: Number of classes, channels, and edge in pixels.
        method: Name of the method.
        ipc: Images a class.
    """
    if data is None or SHAPES.get(data) != shape:
        return []
    found = [Published(name, *cells[int(ipc)], protocol) for name, protocol, cells in TABLE[data] if ipc in cells]
    found.sort(key=lambda cell: (_rank(cell, method), -cell.mean if _rank(cell, method) == 2 else 0))
    return found + ([Published("whole", WHOLE[data], None, _WHOLE)] if found and data in WHOLE else [])


def _rank(cell: Published, method: str) -> int:
    return 0 if cell.method == method else 1 if cell.method == "random" else 2


def published_cross(data: str | None, shape: tuple[int, int, int], ipc: float) -> tuple[Cross, ...]:
    """Return the papers' cross-architecture tables for sets of this data set and size; see `published`."""
    if data is None or SHAPES.get(data) != shape or ipc != int(ipc):
        return ()
    return CROSS.get((data, int(ipc)), ())
