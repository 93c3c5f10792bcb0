"""Pages in a real browser, in light and in dark: nothing overflows, every image loads, every word can be read."""

from __future__ import annotations

import html
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageStat

from raydd.distilled import DistilledSet
from raydd.evaluate import Accuracy, Evaluation, Robustness, record
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
PROBE = """<!doctype html><meta name="color-scheme" content="light dark"><body style="margin:0">{frames}<pre></pre><script>
const frames = () => [...document.querySelectorAll("iframe")];
const dark = matchMedia("(prefers-color-scheme: dark)").matches;
const brush = document.createElement("canvas").getContext("2d", {{willReadFrequently: true}});
const known = {{}};
const rgba = colour => known[colour] ??= (() => {{
  brush.clearRect(0, 0, 1, 1);
  brush.fillStyle = colour;
  brush.fillRect(0, 0, 1, 1);
  return [...brush.getImageData(0, 0, 1, 1).data];
}})();
const light = colour => colour.slice(0, 3).map(c => c / 255)
  .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const ground = e => {{
  const colour = e && rgba(getComputedStyle(e).backgroundColor);
  return !e ? [255, 255, 255] : colour[3] === 255 ? colour : ground(e.parentElement);
}};
const contrast = e => {{
  const [low, high] = [light(rgba(getComputedStyle(e).color)), light(ground(e))].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}};
const written = e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
onload = () => document.querySelector("pre").textContent = JSON.stringify(frames().map(f => {{
  const page = f.contentDocument, root = page.documentElement;
  page.querySelectorAll("details").forEach(d => d.open = true);
  const images = [...page.images], pictures = [...page.querySelectorAll("picture")];
  return {{width: root.clientWidth, scroll: Math.max(root.scrollWidth, page.body.scrollWidth),
    broken: images.filter(i => !i.complete || !i.naturalWidth).length, images: images.length, pictures: pictures.length,
    other: pictures.map(p => [p.querySelector("img"), p.querySelector("source")])
      .filter(([i, s]) => i.src === s.srcset || i.currentSrc !== (dark ? s.srcset : i.src)).length,
    ground: ground(page.body).slice(0, 3),
    faint: [...page.body.querySelectorAll("*")].filter(e => written(e) && contrast(e) < 4.5)
      .map(e => e.tagName + "." + e.className + " " + contrast(e).toFixed(2)),
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
    more: dict[str, Any] = {"augment": "dsa:color_crop_cutout_flip"}
    kinds: dict[str, Any] = {"distilled": {"sets": 5, "repeats": 100}}
    kinds |= {of: {} for of in ("random", "random@bytes", "herding", "forgetting", "whole")}
    results = [
        accuracy(of, 40.0 + i, net=net, lr=0.01, note="a note " * 20, labels="soft", **(more | several))
        for i, net in enumerate(NETS)
        for of, several in kinds.items()
    ]
    run.write_json("evaluation.json", {"results": results})
    write_report(run, make_real(ds, list(range(11))))


def write_later(run: Folder) -> None:
    """Several sets and networks that `raydd evaluate` scored, robust scores, and papers' numbers beside them."""
    sets = (run.url, "s3://a-bucket/runs/another-run-with-a-name-that-is-rather-long")
    raw = [
        accuracy(of, 40.0 + i + 20 * k, net=net, set=name, lr=0.01, labels="hard")
        for k, name in enumerate(sets)
        for i, net in enumerate(NETS)
        for of in ("distilled", "random", "whole")
    ]
    results = [Accuracy.from_json(one) for one in raw]
    parts = {"hard_label_loss": 0.125, "gain_over_random": 0.25, "augmented_gain": 0.5, "plain_gain": -0.0625}
    robust = [Robustness(set=name, lrs=0.4321, ars=0.5678, **parts) for name in sets]
    test = "s3://a-bucket-with-a-name-that-is-rather-long/shards/mnist/test"
    record(run, {"nets": NETS}, Evaluation(test=test, results=results, robust=[]))
    record(run, {"robust": True}, Evaluation(test=test, results=results[:3], robust=robust))
    run.write_json("evaluation.json", {"results": []})
    write_report(run)


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
    handwritten: dict[str, Any] = {"classes": 10, "soft": False, "shape": (1, 28, 28)}
    of_mnist = {"data": {"train": "mnist:x"}}
    chosen = {"method": {"rounds": 100}, "evaluate": {"select": "val"}, **of_mnist}
    sets = {
        "soft": make_set(classes=12),
        "hard": make_set(**handwritten, ipc=10, rounds=60, config=chosen),
        "later": make_set(**handwritten, method="dm", config=of_mnist),
        "bare": make_set(),
        "memory": make_memory(classes=10, each=29, num_bases=16),
        "large-memory": make_memory(classes=100, each=2, num_bases=64),
    }
    made = {name: make_run(ds, name=name, bare=name in ("bare", "later")) for name, ds in sets.items()}
    write_soft(made.pop("soft"), sets["soft"])
    write_later(made.pop("later"))
    for name, run in made.items():
        write_report(run, make_real(sets[name], list(range(10))) if len(sets[name].classes) == 10 else None)
    found = [tmp_path / "runs" / name / "report.html" for name in sets]
    return [
        *found,
        write_thousand(tmp_path / "thousand.html"),
        write_comparison_of_seven(make_run),
        gallery_of(tmp_path),
    ]


@pytest.fixture
def probe(pages: list[Path], tmp_path: Path) -> Path:
    """A page that has all of them inside, each as wide as a screen, a tablet and two phones."""
    frame = '<iframe src="file://{page}" data-scrolls="{may}" style="border:0;width:{width}px;height:900px"></iframe>'
    # A table of seven runs with long names may scroll in a box of its own, others on the narrowest phones only.
    frames = [
        frame.format(page=page, width=width, may="yes" if page.name == "compare.html" else "")
        for page in pages
        for width in WIDTHS
    ]
    (tmp_path / "probe.html").write_text(PROBE.format(frames="".join(frames)))
    return tmp_path / "probe.html"


def looked_at(probe: Path, *, dark: bool) -> tuple[list[dict[str, Any]], float]:
    """Return what the probe found of its pages in one scheme, and how bright the first one is on a screen, from 0 to 255."""
    picture = probe.parent / f"dark-{dark}.png"
    scheme = f"--blink-settings=preferredColorScheme={int(not dark)}"
    options = (scheme, "--window-size=1280,900", f"--screenshot={picture}", "--dump-dom")
    dumped = re.search(r"<pre>(.*?)</pre>", browse(probe.parent, f"file://{probe}", *options), re.DOTALL)
    assert dumped is not None
    with Image.open(io.BytesIO(picture.read_bytes())) as image:
        assert image.size == (1280, 900)
        return json.loads(html.unescape(dumped[1])), ImageStat.Stat(image.convert("L")).median[0]


def test_pages_on_screens_and_phones_in_light_and_dark(pages: list[Path], probe: Path):
    for dark in (False, True):
        found, brightness = looked_at(probe, dark=dark)
        assert brightness < 40 if dark else brightness > 240
        assert [one["width"] for one in found] == [*WIDTHS] * len(pages)
        for page, one in zip([page for page in pages for _ in WIDTHS], found, strict=True):
            where = (page, one["width"], dark)
            assert page.stat().st_size < 15_000_000
            assert one["scroll"] <= one["width"], where
            assert one["wide"] == [], where
            assert one["images"] > 0
            assert one["broken"] == 0
            assert max(one["ground"]) < 40 if dark else min(one["ground"]) > 240, where
            assert one["faint"] == [], where
            assert one["other"] == 0, where
        # Charts of the runs that were recorded, and similarities of many classes.
        drawn = {page.parent.name: one["pictures"] for page, one in zip(pages, found[:: len(WIDTHS)], strict=True)}
        assert all(drawn[name] for name in ("soft", "hard", "memory", "large-memory"))
        assert drawn["large-memory"] == 1 + drawn["memory"]
