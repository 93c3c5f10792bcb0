"""The page of a sweep."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from raydd.errors import DataError
from raydd.report import write_sweep
from raydd.store import Folder
from raydd.sweep.records import Trial
from tests.report.conftest import HOSTILE, accuracy, make_set
from tests.report.test_browser import CHROMIUM, PROBE, WIDTHS, browse
from tests.sweep.conftest import trial

KEY = "method.a_key_with_a_name_that_is_rather_long"


def write(folder: Path, trials: list[Trial], *, evaluated: bool = True) -> Folder:
    """A sweep with records, sets and an evaluation."""
    sweep = Folder(str(folder))
    space = {"method.ipc": {"choice": [1, 2, 5]}, KEY: {"loguniform": [0.1, 10.0]}}
    said = {"name": folder.name, "sweep": {"space": space, "search": "random", "scheduler": "asha"}}
    sweep.write("sweep.yaml", yaml.safe_dump(said).encode())
    for one in trials:
        sweep.folder("records").write_json(f"{one.name}.json", one.to_json())
        place = (
            "distilled" if one.state == "finished" else f"validation/{one.scores[-1].round:08d}" if one.scores else ""
        )
        if place:
            make_set(classes=12, ipc=one.ipc).save(sweep.folder("trials", one.name, place))
    if evaluated:
        sweep.write_json("evaluation.json", {"results": [accuracy("distilled", 91.5), accuracy("random", 55.5)]})
    sweep.write_json("status.json", {"state": "finished", "seconds": 3725.0})
    return sweep


def many() -> list[Trial]:
    def at(index: int, *accuracies: float, **more: Any) -> Trial:
        ipc = (1, 2, 5)[index % 3]
        return trial(index, *accuracies, ipc=ipc, point={"method.ipc": ipc, KEY: 0.1 + index / 3}, **more)

    finished = [at(i, 40.0 + i, 50.0 + i / 2) for i in range(20)]
    stopped = [at(i, 30.0, state="stopped", shares=(25.0,)) for i in range(20, 24)]
    failed = trial(24, state="failed", error=HOSTILE + " a long reason" * 20, point={KEY: HOSTILE})
    return [*finished, *stopped, failed, trial(25, 30.0, state="running", shares=(50.0,))]


def text_of(page: str) -> str:
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page.partition("<body>")[2])))


def test_the_page_tells_what_was_found(tmp_path: Path) -> None:
    url = write_sweep(write(tmp_path / "toy", many()))
    page = Path(url).read_text()
    text = text_of(page)
    assert "The best of 26 trials, 0019, has 2 images a class" in text
    assert "59.5 % on the validation part" in text
    assert "Finished 20 Stopped early 4 Failed 1 Not finished 1 Took 1 h 2 min" in text
    assert "Distilled set, test 91.5" in text
    assert "best/ipc5.yaml" in text
    assert "+1.00" in text, "accuracy grew with the key within every size"
    assert "stopped after 25 % of its rounds" in text
    assert "left after 50 % of its rounds" in text
    # A picture of every trial that has a set, and all plots twice.
    assert page.count('class="sheet"') == 25
    assert page.count('<figure class="early">') == 6
    assert "<script" not in page
    assert 'failed: <script>alert("x")</script>' in text


def test_a_sweep_of_which_little_is_known(tmp_path: Path) -> None:
    text = text_of(Path(write_sweep(write(tmp_path / "none", [], evaluated=False))).read_text())
    assert "No trial is finished yet." in text
    one = trial(0, state="running")
    text = text_of(Path(write_sweep(write(tmp_path / "one", [one], evaluated=False))).read_text())
    assert "Without a score 0000" in text
    with pytest.raises(DataError, match=r"expected a sweep at .*/nothing, got no sweep.yaml there; check the URL"):
        write_sweep(Folder(str(tmp_path / "nothing")))


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")
def test_nothing_overflows_in_a_browser(tmp_path: Path) -> None:
    pages = [
        write_sweep(write(tmp_path / "a-sweep-with-a-name-that-is-rather-long", many())),
        write_sweep(write(tmp_path / "one", [trial(0, 50.0)], evaluated=False)),
    ]
    frame = '<iframe src="file://{page}" style="border:0;width:{width}px;height:900px"></iframe>'
    probe = tmp_path / "probe.html"
    frames = "".join(frame.format(page=page, width=width) for page in pages for width in WIDTHS)
    probe.write_text(PROBE.format(frames=frames))
    dumped = re.search(r"<pre>(.*?)</pre>", browse(tmp_path, f"file://{probe}", "--dump-dom"), re.DOTALL)
    assert dumped is not None
    found = json.loads(html.unescape(dumped[1]))
    assert [one["width"] for one in found] == [*WIDTHS] * len(pages)
    for one in found:
        assert one["scroll"] <= one["width"]
        assert one["wide"] == []
        assert one["images"] > 1
        assert one["broken"] == 0
