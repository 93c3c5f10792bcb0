"""The pages of membership inference and of recall in a real browser, with long names, many rows and many draws."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raydd.apps import privacy, recall
from raydd.apps.attackers import ATTACKERS
from raydd.config import APPS, AppConfig, validate
from raydd.report import write_application
from raydd.report.findings import Findings
from raydd.store import Folder
from tests.report.test_browser import CHROMIUM, PROBE, WIDTHS, browse
from tests.sets import make_set

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")

NAMES = (
    "frepo, ipc 50",
    "random, as many images, beside frepo, ipc 50, convnet:width=128,depth=3",
    "whole chunk, protocol frepo",
)


def config(kind: str) -> AppConfig:
    raw = {"name": f"{kind}-with-a-name-that-is-long", "data": {"train": "digits"}, "methods": [{"name": "dm"}]}
    return validate(APPS[kind], raw, where="test")


def of_privacy(said: AppConfig) -> Findings:
    def look(place: int) -> dict[str, Any]:
        return {
            **dict.fromkeys(ATTACKERS, 0.5 + 0.1 * place),
            "own": None if place else 1.0,
            "accuracy": 90.0 + place,
        }

    arms = [privacy.Arm(name, 10_000, ([look(0), look(1), look(2)],) * 3) for name in NAMES]
    bench: Any = SimpleNamespace(config=said)
    return privacy._findings(bench, said.app, arms, {0: make_set()}, "5 chunks of 10,000 images")  # type: ignore[arg-type]


def of_recall(said: AppConfig) -> Findings:
    app: Any = said.app
    composed = {name: {"2-way": [72.5, 80.0], "5-way": [46.5, 50.0]} for name in NAMES}
    shown = {f"nearest shot by features, {name}": {"1 shot": [48.6, 50.0], "5 shots": [61.7]} for name in NAMES}
    sheets = [(name, make_set(classes=4, ipc=30).pixels().numpy()) for name in NAMES]
    bench: Any = SimpleNamespace(config=said)
    tasks = recall.cut(100, app.tasks)
    return recall._findings(bench, app, tasks, composed, dict.fromkeys([*composed, *shown], 123_456_789), shown, sheets)


def test_nothing_overflows_and_every_image_loads(tmp_path: Path) -> None:
    pages = []
    for kind, found in (("privacy", of_privacy), ("recall", of_recall)):
        said = config(kind)
        pages.append(write_application(Folder(tmp_path / kind), kind, said, found(said)))
    # A table of eight columns and long names may scroll in a box of its own.
    frame = '<iframe src="file://{page}" data-scrolls="yes" style="border:0;width:{width}px;height:900px"></iframe>'
    probe = tmp_path / "probe.html"
    frames = [frame.format(page=page, width=width) for page in pages for width in WIDTHS]
    probe.write_text(PROBE.format(frames="".join(frames)))
    dumped = re.search(r"<pre>(.*?)</pre>", browse(tmp_path, f"file://{probe}", "--dump-dom"), re.DOTALL)
    assert dumped is not None
    found = json.loads(html.unescape(dumped[1]))
    assert [one["width"] for one in found] == [*WIDTHS] * 2
    for page, one in zip([page for page in pages for _ in WIDTHS], found, strict=True):
        assert one["scroll"] <= one["width"], page
        assert one["wide"] == [], (page, one["width"])
        assert one["images"] > 0
        assert one["broken"] == 0
