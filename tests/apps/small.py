"""What tests of applications share: few digits, executors that stop in the middle, pages in a browser."""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

import raydd.apps.run
from raydd.apps import run_application
from raydd.config import APPS, AppConfig, model_from
from raydd.data.pack import pack
from raydd.data.views import View
from raydd.engine.executor import LocalExecutor
from raydd.errors import RunError
from raydd.watchers import Silent
from tests.report.test_browser import PROBE, WIDTHS, browse


def halves(place: Path) -> tuple[str, str]:
    """Return the URLs of two sets of 17 or 18 digits a class."""
    whole = str(place / "digits")
    pack("digits", whole, split="test")
    found = []
    for i in range(2):
        pack(View(of=whole, part=(i, 2)).source, str(place / str(i)))
        found.append(str(place / str(i)))
    return found[0], found[1]


def config_of(kind: str, raw: dict[str, Any], **changes: Any) -> AppConfig:
    """Return a config with some of its sections changed."""
    merged = {**raw, **{k: {**raw.get(k, {}), **v} if isinstance(v, dict) else v for k, v in changes.items()}}
    return model_from(APPS[kind], merged, where="test")


def findings(kind: str, config: AppConfig) -> dict[str, Any]:
    """Run an application and return what it found, as JSON has it."""
    return json.loads(json.dumps(run_application(kind, config, "auto", Silent()).findings))


class Counting(LocalExecutor):
    """Counts the items of each function that is mapped; stops with an error after so many of all."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__(torch.device("cpu"))
        self.counts: Counter[str] = Counter()
        self.left = stop_after

    def map(self, function: Any, items: Any, shared: Any, on_result: Any = None) -> list[Any]:
        done = []
        for item in items:
            if self.left == 0:
                raise RunError("stopped in the middle")
            done.append(function(shared, item))
            self.counts[shared[0].__name__ if isinstance(shared, tuple) else function.__name__] += 1
            self.left = None if self.left is None else self.left - 1
        return done


def counted(monkeypatch: pytest.MonkeyPatch, kind: str, config: AppConfig, stop_after: int | None = None) -> Any:
    """Run an application by a counting executor; return what it found, None where it was stopped, and the counts."""
    executor = Counting(stop_after)
    with monkeypatch.context() as patch:
        patch.setattr(raydd.apps.run, "open_executor", lambda engine: executor)
        if stop_after is None:
            return findings(kind, config), executor.counts
        with pytest.raises(RunError, match="stopped in the middle"):
            findings(kind, config)
        return None, executor.counts


def check_page(page: Path, tmp_path: Path) -> None:
    """Check in a browser that nothing overflows and every image loads, from desktop to phone."""
    frames = "".join(
        f'<iframe src="file://{page}" data-scrolls="yes" style="border:0;width:{width}px;height:900px"></iframe>'
        for width in WIDTHS
    )
    probe = tmp_path / "probe.html"
    probe.write_text(PROBE.format(frames=frames))
    dumped = re.search(r"<pre>(.*?)</pre>", browse(tmp_path, f"file://{probe}", "--dump-dom"), re.DOTALL)
    assert dumped is not None
    found = json.loads(html.unescape(dumped[1]))
    assert [one["width"] for one in found] == [*WIDTHS]
    for one in found:
        assert one["scroll"] <= one["width"]
        assert one["wide"] == []
        assert one["images"] > 0
        assert one["broken"] == 0
