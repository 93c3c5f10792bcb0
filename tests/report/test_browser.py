"""The page in a real browser: nothing overflows, every image loads, light and dark differ."""

from __future__ import annotations

import html
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image, ImageStat

from raydd.report import write_report
from raydd.store import Folder
from tests.report.conftest import make_set

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WIDTHS = (1280, 768, 390, 320)
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--allow-file-access-from-files",
    "--virtual-time-budget=4000",
)
# The page itself runs no script; this one stands in a page around it.
PROBE = """<!doctype html><body>{frames}<pre></pre><script>
const frames = () => [...document.querySelectorAll("iframe")];
onload = () => document.querySelector("pre").textContent = JSON.stringify(frames().map(f => {{
  const page = f.contentDocument, root = page.documentElement;
  page.querySelectorAll("details").forEach(d => d.open = true);
  const images = [...page.images];
  return {{width: root.clientWidth, scroll: Math.max(root.scrollWidth, page.body.scrollWidth),
    broken: images.filter(i => !i.complete || !i.naturalWidth).length, images: images.length,
    wide: [...page.body.querySelectorAll("*")].filter(e => e.getBoundingClientRect().right > root.clientWidth + 1)
      .map(e => e.tagName + "." + e.className)}};
}}));
</script>"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")


def browse(tmp_path: Path, url: str, *options: str) -> str:
    assert CHROMIUM is not None
    command = [CHROMIUM, *OPTIONS, f"--user-data-dir={tmp_path / 'profile'}", *options, url]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.fixture(params=["soft", "hard", "bare"])
def page(request: pytest.FixtureRequest, make_run) -> Path:
    sets = {"soft": make_set(classes=12), "hard": make_set(classes=10, ipc=10, soft=False), "bare": make_set()}
    run: Folder = make_run(sets[request.param], bare=request.param == "bare")
    write_report(run)
    return Path(run.url) / "report.html"


def test_nothing_overflows_and_every_image_loads(page: Path, tmp_path: Path):
    frames = "".join(f'<iframe src="file://{page}" style="border:0;width:{w}px;height:900px"></iframe>' for w in WIDTHS)
    probe = tmp_path / "probe.html"
    probe.write_text(PROBE.format(frames=frames))
    dumped = re.search(r"<pre>(.*?)</pre>", browse(tmp_path, f"file://{probe}", "--dump-dom"), re.DOTALL)
    assert dumped is not None
    found = json.loads(html.unescape(dumped[1]))
    assert [frame["width"] for frame in found] == list(WIDTHS)
    for frame in found:
        assert frame["scroll"] <= frame["width"]
        assert frame["wide"] == []
        assert frame["images"] > 0
        assert frame["broken"] == 0


def test_light_and_dark(make_run, tmp_path: Path):
    run = make_run()
    write_report(run)
    brightness = []
    for scheme in (1, 0):
        picture = tmp_path / f"{scheme}.png"
        options = (
            f"--blink-settings=preferredColorScheme={scheme}",
            "--window-size=1280,1000",
            f"--screenshot={picture}",
        )
        browse(tmp_path, f"file://{run.url}/report.html", *options)
        image = Image.open(io.BytesIO(picture.read_bytes())).convert("L")
        assert image.size == (1280, 1000)
        brightness.append(ImageStat.Stat(image).median[0])
    assert brightness[0] > 240
    assert brightness[1] < 40
