"""Lines about accuracies, in this process."""

from __future__ import annotations

import pytest

from raydd.cli.printing import print_table
from raydd.evaluate import Accuracy


def line_of(capsys: pytest.CaptureFixture[str], sets: int, repeats: int) -> str:
    given = {"protocol": "dsa", "net": "convnet:width=8", "mean": 81.25, "std": 1.5, "each": [81.25] * repeats}
    print_table([Accuracy(of="distilled", images=10, storage_bytes=2640, sets=sets, repeats=repeats, **given)])
    return capsys.readouterr().out


def test_networks_of_one_set_and_of_several(capsys: pytest.CaptureFixture[str]) -> None:
    start = "distilled     81.25 +- 1.50 %  10 images, 2640 bytes, "
    assert line_of(capsys, 1, 20) == f"{start}20 x convnet:width=8, protocol dsa\n"
    assert line_of(capsys, 5, 100) == f"{start}5 x 20 x convnet:width=8, 20 on each of 5 sets, protocol dsa\n"
