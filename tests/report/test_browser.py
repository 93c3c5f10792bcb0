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

from raydd.distilled import DistilledSet
from raydd.listing import runs
from raydd.report import write_comparison, write_report
from raydd.report.gallery import write_gallery
from raydd.report.gather import RunRecord
from raydd.report.page import context, render
from raydd.report.pictures import shown_classes
from raydd.store import Folder
from tests.report.conftest import MakeRun, accuracy, make_memory, make_real, make_set
from tests.runs import make_runs

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
    wide: [...page.body.querySelectorAll("*")].filter(e => e.getBoundingClientRect().right > root.clientWidth + 1 &&
      !(e.parentElement.closest(".scroll") && (f.dataset.scrolls || root.clientWidth < 390)))
      .map(e => e.tagName + "." + e.className)}};
}}));
</script>"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")


def browse(tmp_path: Path, url: str, *options: str) -> str:
    assert CHROMIUM is not None
    command = [CHROMIUM, *OPTIONS, f"--user-data-dir={tmp_path / 'profile'}", *options, url]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


NETS = ("mlp", "lenet", "alexnet", "vgg11:norm=batch", "vgg11:norm=instance", "resnet18", "frepo_convnet:width=128")


def write_soft(run: Folder, ds: DistilledSet) -> None:
    """Soft labels, long names, a real image of most classes, many networks."""
    results = [
        accuracy(
            of, 40.0 + i, net=net, lr=0.01, note="a note " * 20, labels="soft", augment="dsa:color_crop_cutout_flip"
        )
        for i, net in enumerate(NETS)
        for of in ("distilled", "random", "random@bytes", "herding", "forgetting", "whole")
    ]
    run.write_json("evaluation.json", {"results": results})
    write_report(run, make_real(ds, list(range(11))))


def write_comparison_of_seven(make_run: MakeRun) -> Path:
    names = [f"a-run-with-a-name-that-is-rather-long-{i}" for i in range(7)]
    sets = [make_set(classes=12, config={"name": name, "seed": i}) for i, name in enumerate(names)]
    pairs = enumerate(zip(names, sets, strict=True))
    made = [make_run(ds, name=name, bare=bool(i % 3)) for i, (name, ds) in pairs]
    write_report(made[0], make_real(sets[0], list(range(12))))
    return Path(write_comparison(made))


def write_thousand(path: Path) -> Path:
    """Write the page of a run of 1,000 classes."""
    ds = make_set(classes=1000, shape=(3, 16, 16), soft=False)
    real = make_real(ds, shown_classes(1000, (3, 16, 16)))
    history = [(r, ds.images[:100]) for r in range(8)]
    nothing = {"loss": [], "scores": [], "status": {}, "results": [], "evaluation_seconds": None}
    missing = dict.fromkeys(("loss", "status", "evaluation"), "Nothing was recorded.")
    record = RunRecord(url="somewhere", ds=ds, history=history, real=real, missing=missing, **nothing)
    path.write_text(render("page.html", context(record)))
    return path


def gallery_of(folder: Path) -> Path:
    """Write the gallery of a store: finished runs, one that has begun, and one with a name that nothing breaks."""
    store = folder / "store"
    make_runs(store, 7)
    for name in ("begun", "a_run_whose_name_has_no_end_" * 3):
        (store / name).mkdir()
        (store / name / "config.yaml").write_text("data: {train: 'mnist:x'}\nmethod: {name: dm, ipc: 1}\n")
    return Path(write_gallery(runs(str(store), recipes=True), str(store)))


@pytest.fixture
def pages(make_run: MakeRun, tmp_path: Path) -> list[Path]:
    """Pages of all kinds."""
    sets = {
        "soft": make_set(classes=12),
        "hard": make_set(classes=10, ipc=10, soft=False, shape=(1, 28, 28), config={"data": {"train": "mnist:x"}}),
        "bare": make_set(),
        "memory": make_memory(classes=10, each=29, num_bases=16),
        "large-memory": make_memory(classes=100, each=2, num_bases=64),
    }
    made = {name: make_run(ds, name=name, bare=name == "bare") for name, ds in sets.items()}
    write_soft(made.pop("soft"), sets["soft"])
    for name, run in made.items():
        write_report(run, make_real(sets[name], list(range(10))) if len(sets[name].classes) == 10 else None)
    found = [tmp_path / "runs" / name / "report.html" for name in sets]
    return [
        *found,
        write_thousand(tmp_path / "thousand.html"),
        write_comparison_of_seven(make_run),
        gallery_of(tmp_path),
    ]


def test_nothing_overflows_and_every_image_loads(pages: list[Path], tmp_path: Path):
    frame = '<iframe src="file://{page}" data-scrolls="{may}" style="border:0;width:{width}px;height:900px"></iframe>'
    # A table of seven runs with long names may scroll in a box of its own, others on the narrowest phones only.
    frames = [
        frame.format(page=page, width=width, may="yes" if page.name == "compare.html" else "")
        for page in pages
        for width in WIDTHS
    ]
    probe = tmp_path / "probe.html"
    probe.write_text(PROBE.format(frames="".join(frames)))
    dumped = re.search(r"<pre>(.*?)</pre>", browse(tmp_path, f"file://{probe}", "--dump-dom"), re.DOTALL)
    assert dumped is not None
    found = json.loads(html.unescape(dumped[1]))
    assert [one["width"] for one in found] == [*WIDTHS] * len(pages)
    for page, one in zip([page for page in pages for _ in WIDTHS], found, strict=True):
        assert page.stat().st_size < 15_000_000
        assert one["scroll"] <= one["width"], page
        assert one["wide"] == [], (page, one["width"])
        assert one["images"] > 0
        assert one["broken"] == 0


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
