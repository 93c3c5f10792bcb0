"""One self-contained page of all runs of a store: what they learned, what it scores, how it was made."""

from __future__ import annotations

import io
import math
import shlex
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import yaml
from PIL import Image

from raydd.errors import DataError
from raydd.report.page import render
from raydd.report.pictures import data_uri
from raydd.store import Folder, load_manifest, read_verified
from raydd.text import is_number, number, size

NAME = "gallery.html"
MOST_RUNS = 1000
MOST_BYTES = 10_000_000  # of pictures on the page
MOST_RECIPES = 3_000_000
MOST_RECIPE = 4_000  # letters of one
TILES, COLUMNS = 10, 5
LARGEST_TILE = 64
# Of a preview: what is larger is a picture of nothing that raydd makes.
MOST_PREVIEW = 32 << 20
MOST_PIXELS = 60_000_000
GAP = 2  # of `raydd.card.picture`
THREADS = 16
_SECTIONS = ("seed", "data", "method", "net")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A run on the page.

    Attributes:
        name: Its name.
        link: Where its report is, or None.
        picture: Some of its images, as a data URI, or None.
        accuracy: Percent and deviation as text, or None.
        random: Percent of as many random real images, as text, or None.
        state: What it is about, unless it is finished.
        facts: A few words each: method, images per class, bytes and so on.
        recipe: Its config as YAML.
        pull: The command that fetches its set, or None where it has none.
        problem: What is wrong with it, or None.
    """

    name: str
    link: str | None
    picture: str | None
    accuracy: tuple[str, str] | None
    random: str | None
    state: str
    facts: tuple[str, ...]
    recipe: str
    pull: str | None
    problem: str | None


def write_gallery(runs: Sequence[dict[str, Any]], store: str, to: str | None = None) -> str:
    """Write the page; return its URL.

    Args:
        runs: As `raydd.listing.runs` returns them with their configs; the first thousand are shown, in their order.
        store: URL of their store.
        to: Where the page goes, at any fsspec URL; None: `gallery.html` in the store.

    Raises:
        StoreError: When it cannot be written.
    """
    folder = Folder(store)
    target, name = (folder, NAME) if to is None else _split(to)
    shown = runs[:MOST_RUNS]
    edge = _edge(len(shown))
    with ThreadPoolExecutor(1 if folder.is_local else THREADS) as pool:
        pictures = list(pool.map(lambda facts: _picture(facts, edge), shown))
    most = min(MOST_RECIPE, MOST_RECIPES // max(1, len(shown)))
    entries = [
        (str(facts.get("dataset") or "unknown data"), _entry(facts, picture, _link(facts, folder, target), most))
        for facts, picture in zip(shown, pictures, strict=True)
    ]
    by_data: dict[str, list[Entry]] = {}
    for data, entry in entries:
        by_data.setdefault(data, []).append(entry)
    values = {"store": folder.url, "sections": sorted(by_data.items()), "shown": len(shown), "all": len(runs)}
    target.write(name, render("gallery.html", values).encode())
    return f"{target.url}/{name}"


def _split(to: str) -> tuple[Folder, str]:
    above = Folder(to)
    return above.parent, above.name


def _link(facts: dict[str, Any], store: Folder, target: Folder) -> str | None:
    """Return where a run's report is, as seen from the page; None where no browser could open it."""
    if facts.get("state") != "finished":
        return None
    if target == store:
        return f"{quote(facts['name'])}/report.html"
    return (Path(facts["url"]) / "report.html").as_uri() if store.is_local and target.is_local else None


def _entry(facts: dict[str, Any], picture: str | None, link: str | None, most: int) -> Entry:
    scores = facts.get("accuracy", {})
    own, std = scores.get("distilled"), facts.get("std")
    several = is_number(std) and is_number(facts.get("repeats")) and facts["repeats"] > 1
    deviation = f" \N{PLUS-MINUS SIGN} {std:.1f}" if several else ""
    made = facts.get("bytes") is not None
    return Entry(
        name=facts["name"],
        link=link,
        picture=picture,
        accuracy=(f"{own:.1f}", deviation) if is_number(own) else None,
        random=f"{scores['random']:.1f}" if is_number(scores.get("random")) else None,
        state="" if facts.get("state") == "finished" else str(facts.get("state")),
        facts=tuple(_facts(facts)),
        recipe=_recipe(facts.get("config", {}), most),
        pull=shlex.join(["raydd", "pull", facts["url"], facts["name"]]) if made else None,
        problem=facts.get("problem"),
    )


def _facts(facts: dict[str, Any]) -> list[str]:
    told = [str(facts["method"])] if facts.get("method") else []
    if is_number(facts.get("ipc")):
        told.append(f"{facts['ipc']} per class")
    if is_number(facts.get("bytes")):
        told.append(size(int(facts["bytes"])))
    if is_number(facts.get("rounds")) and facts["rounds"]:
        told.append(f"{number(int(facts['rounds']))} rounds")
    if facts.get("protocol"):
        told.append(f"protocol {facts['protocol']}")
    return told


def _recipe(config: dict[str, Any], most: int) -> str:
    text = yaml.safe_dump({key: config[key] for key in _SECTIONS if key in config}, sort_keys=False, width=60)
    return text if len(text) <= most else f"{text[:most]}\n..."


def _edge(count: int) -> int:
    """Return the edge in pixels of an image where so many runs have ten, taking them for incompressible."""
    return max(8, min(LARGEST_TILE, math.isqrt(MOST_BYTES * 3 // 4 // (max(1, count) * TILES * 3))))


def _picture(facts: dict[str, Any], edge: int) -> str | None:
    """Return some of a run's images; None where it has none, or what is there is no picture."""
    if facts.get("bytes") is None:
        return None
    artifact = Folder(facts["url"]).folder("distilled")
    try:
        manifest = load_manifest(artifact)
        preview = manifest.files.get("preview.png")
        if preview is None or preview.size > MOST_PREVIEW:
            return None
        data = read_verified(artifact, manifest, "preview.png")
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if image.width * image.height > MOST_PIXELS:
                return None
            pixels = np.asarray(image.convert("L" if image.mode == "L" else "RGB"))
    except (DataError, FileNotFoundError, OSError, ValueError):
        # The run is told all the same; `raydd verify` says what is wrong with it.
        return None
    ipc = facts.get("ipc")
    return _sheet(_some(_tiles(pixels), ipc if isinstance(ipc, int) else 1), edge)


def _tiles(pixels: np.ndarray) -> list[list[np.ndarray]]:
    """Cut a picture of images with white gaps into rows of them; the picture itself where it has none.

    Args:
        pixels: uint8 (H, W) or (H, W, 3).
    """
    flat = pixels if pixels.ndim == 2 else pixels.min(2)
    white = (flat.min(1) == 255, flat.min(0) == 255)
    sizes = [length - GAP for length in flat.shape]
    for step in range(8 + GAP, min(sizes) + 1):
        if all(size % step == 0 for size in sizes) and all(
            line[::step].all() and line[1::step].all() for line in white
        ):
            tops, lefts = (range(GAP, size + GAP, step) for size in sizes)
            edge = step - GAP
            return [[pixels[top : top + edge, left : left + edge] for left in lefts] for top in tops]
    return [[pixels]]


def _some(rows: list[list[np.ndarray]], ipc: int) -> list[np.ndarray]:
    """Return ten images, of as many classes as there are: a row has those of a class, where a class has several."""
    flat = [row[0] for row in rows] if 1 < ipc <= 50 and len(rows) > 1 else [tile for row in rows for tile in row]
    return flat[:TILES]


def _sheet(tiles: Sequence[np.ndarray], edge: int) -> str:
    """Return images side by side as a PNG's data URI, each at most `edge` pixels wide."""
    small = [_small(tile, edge) for tile in tiles]
    height, width = small[0].shape[:2]
    columns = min(COLUMNS, len(small))
    rows = -(-len(small) // columns)
    # Grey between them, which is neither paper's colour.
    sheet = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, *small[0].shape[2:]), 127, np.uint8)
    for i, tile in enumerate(small):
        top, left = i // columns * (height + 1), i % columns * (width + 1)
        sheet[top : top + height, left : left + width] = tile
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, format="PNG", optimize=True)
    return data_uri(buffer.getvalue(), "image/png")


def _small(tile: np.ndarray, edge: int) -> np.ndarray:
    """Undo a whole enlargement, and shrink what is still too large."""
    for factor in range(min(tile.shape[:2]), 1, -1):
        if tile.shape[0] % factor == 0 and tile.shape[1] % factor == 0:
            once = tile[::factor, ::factor]
            if np.array_equal(once.repeat(factor, 0).repeat(factor, 1), tile):
                tile = once
                break
    if max(tile.shape[:2]) <= edge:
        return tile
    scale = edge / max(tile.shape[:2])
    height, width = (max(1, round(side * scale)) for side in tile.shape[:2])
    return np.asarray(Image.fromarray(tile).resize((width, height), Image.Resampling.BOX))
