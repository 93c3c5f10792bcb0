"""Distilled sets in the formats of other tools.

    webdataset   `train-000000.tar` ...: for each image `<key>.npy` float32 (C, H, W), `<key>.cls` the class's number,
                 `<key>.json` its name, and for soft labels `<key>.label.npy` float32 (classes,)
    hf           `data/train-00000-of-00001.parquet`: `pixel_values` float32 (C, H, W), `label`, `soft_label` for soft
                 labels, and `image`, a PNG to look at; README.md is a dataset card for Hugging Face's hub
    folder       `<class>/<key>.png` for torchvision's ImageFolder; lossy, and says so in README.md

The first two are artifacts as well (see `raydd.distilled`): `recipe.json` and `data.safetensors` lie beside, so that
`raydd.load` reads them back to the last bit. Of a folder only `recipe.json` is there.

An export is made whole in a temporary folder, then put in its place: by one rename where that is on a local disk, else
file by file with the manifest last.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import secrets
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import yaml
from PIL import Image
from torch import Tensor

from raydd.card import card
from raydd.distilled import LOSSY_FORMAT, DistilledSet
from raydd.errors import ConfigError, DataError, StoreError
from raydd.store import Folder, commit, digest, load_manifest

Format = Literal["webdataset", "folder", "hf"]
Progress = Callable[[int, int], None]

FORMATS: tuple[str, ...] = get_args(Format)
SHARD_BYTES = 64 << 20
UPLOADS = 8
_PARQUET = "data/train-00000-of-00001.parquet"
_RESERVED = ("README.md", "recipe.json", "manifest.json")
# What a class may be called as a folder: nothing hidden, nothing with a slash or a control character.
_PLAIN = re.compile(r"[^\x00-\x1f\x7f/\\.~][^\x00-\x1f\x7f/\\]{0,99}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """An export that was written.

    Attributes:
        url: Its folder.
        format: One of `FORMATS`.
        images: Number of images.
        files: Number of files, the manifest apart.
        bytes: Their size.
        lossy: What was lost, in words; empty where nothing was.
    """

    url: str
    format: str
    images: int
    files: int
    bytes: int
    lossy: str


def export(
    ds: DistilledSet,
    dest: str,
    format: Format | str,
    *,
    progress: Progress | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Exported:
    """Write a distilled set in the format of another tool.

    Args:
        ds: The set.
        dest: A new or empty folder, at any fsspec URL.
        format: `webdataset`, `folder` or `hf`; see the module.
        progress: Told (images written, images).
        shard_bytes: Nominal size of a tar.

    Raises:
        ConfigError: When there is no such format.
        DataError: When something lies at `dest` already, or the set has no images.
        StoreError: When `dest` cannot be written.
    """
    if format not in FORMATS:
        raise ConfigError(f"expected a format out of {', '.join(FORMATS)}, got {format!r}")
    if not len(ds):
        raise DataError(f"expected a distilled set with images, got {ds.recipe.name} without any; distil it again")
    target, tell = Folder(dest), progress or _silent
    _check_free(target)
    with _staging(target) as stage:
        if format == "folder":
            _write_folder(ds, stage, tell)
        elif format == "hf":
            _write_hf(ds, stage, tell)
        else:
            _write_webdataset(ds, stage, tell, shard_bytes)
        files = load_manifest(stage).files
        _publish(stage, target)
    size = sum(entry.size for entry in files.values())
    lossy = loss(ds) if format == "folder" else ""
    return Exported(url=target.url, format=format, images=len(ds), files=len(files), bytes=size, lossy=lossy)


def loss(ds: DistilledSet) -> str:
    """Return what an export as images loses, in words."""
    lost = ["learned pixels are clamped and rounded to 8 bits"]
    if ds.labels.ndim == 2:
        lost.append("soft labels become their strongest class")
    if ds.preprocessing.zca is not None:
        lost.append("whitening is undone, as images are shown")
    if ds.extras:
        lost.append(f"what else was learned is left out ({', '.join(sorted(ds.extras)[:4])})")
    return "; ".join(lost)


def _silent(done: int, total: int) -> None:
    pass


def _check_free(target: Folder) -> None:
    if target.is_local:
        path = target.local_path
        taken = path.exists() and not (path.is_dir() and not any(path.iterdir()))
    else:
        taken = bool(target.list())
    if taken:
        raise DataError(f"expected a new or empty folder at {target.url}, got files; choose another or delete it")


@contextlib.contextmanager
def _staging(target: Folder) -> Iterator[Folder]:
    """Give a local folder to make the export in; whatever is left of it goes."""
    if target.is_local:
        place = target.local_path.parent / f".{target.name}.export-{secrets.token_hex(4)}"
    else:
        place = Path(tempfile.gettempdir()) / f"raydd-export-{secrets.token_hex(8)}"
    try:
        place.mkdir(parents=True)
    except OSError as error:
        raise StoreError(f"cannot make the folder {place}: {error.strerror}; choose another destination") from error
    try:
        yield Folder(place)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _publish(stage: Folder, target: Folder) -> None:
    if target.is_local:
        try:
            os.rename(stage.local_path, target.local_path)
        except OSError as error:
            raise StoreError(
                f"cannot put the export at {target.url}: {error.strerror}; choose another folder"
            ) from error
        return
    manifest = load_manifest(stage)
    put: list[str] = []

    def upload(name: str) -> None:
        put.append(name)
        target.upload(name, stage.local_path / name)

    whole = False
    try:
        with ThreadPoolExecutor(UPLOADS) as pool:
            for _ in pool.map(upload, manifest.files):
                pass
        commit(target, {}, entries=manifest.files, meta=manifest.meta)
        whole = True
    finally:
        if not whole:
            with contextlib.suppress(StoreError):
                target.delete(*put)


def _finish(stage: Folder, files: dict[str, bytes], meta: dict[str, Any]) -> None:
    """Write the last files and the manifest of all that lies there."""
    written = [name for name in stage.list() if name not in files and name != "manifest.json"]
    commit(stage, files, entries={name: digest(stage.read(name)) for name in written}, meta=meta)


def _keys(ds: DistilledSet) -> Iterator[tuple[int, str, int, Tensor]]:
    """Yield (number, key, class, image) of every image; the keys sort as the images stand."""
    width = max(5, len(str(len(ds) - 1)))
    for i, (image, target) in enumerate(zip(ds.images, ds.targets.tolist(), strict=True)):
        yield i, f"{i:0{width}d}", target, image


def _write_webdataset(ds: DistilledSet, stage: Folder, tell: Progress, shard_bytes: int) -> None:
    ds.save(stage)
    meta, names = load_manifest(stage).meta, []
    soft = ds.labels if ds.labels.ndim == 2 else None
    buffer, tar = _new_tar()
    for i, key, label, image in _keys(ds):
        if buffer.tell() >= shard_bytes:
            names.append(_close_tar(stage, len(names), buffer, tar))
            buffer, tar = _new_tar()
        _add(tar, f"{key}.npy", _npy(image))
        _add(tar, f"{key}.cls", str(label).encode())
        _add(tar, f"{key}.json", json.dumps({"class": ds.classes[label]}).encode())
        if soft is not None:
            _add(tar, f"{key}.label.npy", _npy(soft[i]))
        tell(i + 1, len(ds))
    names.append(_close_tar(stage, len(names), buffer, tar))
    _finish(stage, {"README.md": (card(ds) + _webdataset_text(names)).encode()}, meta)


def _new_tar() -> tuple[io.BytesIO, tarfile.TarFile]:
    buffer = io.BytesIO()
    return buffer, tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT)


def _close_tar(stage: Folder, number: int, buffer: io.BytesIO, tar: tarfile.TarFile) -> str:
    tar.close()
    # The split stands in the name, because `datasets` finds a split's files by it.
    name = f"train-{number:06d}.tar"
    stage.write(name, buffer.getvalue())
    return name


def _add(tar: tarfile.TarFile, name: str, payload: bytes) -> None:
    info = tarfile.TarInfo(name)  # time and owner are 0: the same bytes whenever it is written
    info.size = len(payload)
    tar.addfile(info, io.BytesIO(payload))


def _npy(tensor: Tensor) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(tensor.numpy()), allow_pickle=False)
    return buffer.getvalue()


def _webdataset_text(names: list[str]) -> str:
    shards = names[0] if len(names) == 1 else f"train-{{000000..{len(names) - 1:06d}}}.tar"
    return (
        "\nThe same images as WebDataset shards, lossless: `npy` float32 (C, H, W), `cls`, `json`, and `label.npy` where\n"
        "labels are soft.\n\n"
        f'```python\nimport webdataset\nsamples = webdataset.WebDataset("{shards}", shardshuffle=False).decode()\n\n'
        "import datasets\n"
        'samples = datasets.load_dataset("webdataset", data_files={"train": "train-*.tar"}, split="train")\n```\n'
    )


def _write_folder(ds: DistilledSet, stage: Folder, tell: Progress) -> None:
    names, pixels = folder_names(ds.classes), ds.pixels()
    for i, key, label, _ in _keys(ds):
        stage.write(f"{names[label]}/{key}.png", _png(pixels[i]))
        tell(i + 1, len(ds))
    recipe = (json.dumps(ds.recipe.to_json(), indent=1, sort_keys=True) + "\n").encode()
    files = {"README.md": _folder_text(ds, names).encode(), "recipe.json": recipe}
    _finish(stage, files, {"format": LOSSY_FORMAT})


def folder_names(classes: tuple[str, ...]) -> list[str]:
    """Return a folder's name for every class: the class's own, or numbers for all where one cannot be a folder's name."""
    good = all(_PLAIN.fullmatch(name) and len(name.encode()) < 255 for name in classes)
    if good and len(set(classes)) == len(classes) and not set(classes) & set(_RESERVED):
        return list(classes)
    width = max(4, len(str(len(classes))))
    return [f"{i:0{width}d}" for i in range(len(classes))]


def _png(pixels: Tensor) -> bytes:
    array = pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).contiguous().numpy()
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


def _folder_text(ds: DistilledSet, names: list[str]) -> str:
    recipe, transform = ds.recipe, ds.preprocessing
    shown = [
        f"| {i} | {folder} | {json.dumps(name)} |"
        for i, (folder, name) in enumerate(zip(names, ds.classes, strict=True))
    ]
    lines = [
        f"# {recipe.name}: {len(ds)} distilled images as PNG, a lossy copy",
        "",
        f"**Lossy**: {loss(ds)}. Networks trained on these files score less than the set's own numbers say;",
        "`raydd export --format webdataset` or `hf` keeps every bit.",
        "",
        f"Made by raydd with method `{recipe.method}` ({recipe.paper}) in {recipe.rounds} rounds. `recipe.json` says all of it.",
        f"Networks are to see `(pixels / 255 - {transform.mean.tolist()}) / {transform.std.tolist()}` a channel.",
        "",
        "```python",
        'torchvision.datasets.ImageFolder("this folder")   # orders classes by the name of their folder',
        "```",
        "",
        "| label | folder | class |",
        "|---|---|---|",
        *shown,
    ]
    return "\n".join(lines) + "\n"


def _write_hf(ds: DistilledSet, stage: Folder, tell: Progress) -> None:
    import pyarrow.parquet

    ds.save(stage)
    meta = load_manifest(stage).meta
    rows, buffer = _hf_rows(ds, tell), io.BytesIO()
    pyarrow.parquet.write_table(rows, buffer, row_group_size=100)
    _finish(stage, {_PARQUET: buffer.getvalue(), "README.md": _hf_card(ds).encode()}, meta)


def _hf_rows(ds: DistilledSet, tell: Progress) -> Any:
    """Return the set as an arrow table that `datasets` knows the types of."""
    import pyarrow as pa

    soft, shape, pixels = ds.labels.ndim == 2, tuple(ds.images.shape[1:]), ds.pixels()
    pictures = []
    for i, key, _, _ in _keys(ds):
        pictures.append({"bytes": _png(pixels[i]), "path": f"{key}.png"})
        tell(i + 1, len(ds))
    columns: dict[str, Any] = {
        "image": pa.array(pictures, pa.struct({"bytes": pa.binary(), "path": pa.string()})),
        "label": pa.array(ds.targets.numpy(), pa.int64()),
        "pixel_values": _nested(ds.images),
    }
    features: dict[str, Any] = {
        "image": {"_type": "Image"},
        "label": {"names": list(ds.classes), "_type": "ClassLabel"},
        "pixel_values": {"shape": list(shape), "dtype": "float32", "_type": "Array3D"},
    }
    if soft:
        columns["soft_label"] = _nested(ds.labels)
        features["soft_label"] = {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "Sequence"}
    table = pa.table(columns)
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def _nested(values: Tensor) -> Any:
    """Return float32 (n, ...) as an arrow array of lists of lists, without a Python number for each value."""
    import pyarrow as pa

    array: Any = pa.array(values.contiguous().numpy().reshape(-1))
    for size in reversed(values.shape[1:]):
        offsets = np.arange(0, len(array) + 1, size, dtype=np.int32)
        array = pa.ListArray.from_arrays(pa.array(offsets), array)
    return array


def _hf_card(ds: DistilledSet) -> str:
    head = {
        "pretty_name": ds.recipe.name,
        "task_categories": ["image-classification"],
        "tags": ["dataset-distillation", "raydd", ds.recipe.method],
        "size_categories": [_size_category(len(ds))],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": _PARQUET}]}],
    }
    recipe = yaml.safe_dump(ds.recipe.to_json(), sort_keys=False, width=120)
    return (
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n{card(ds)}\n"
        "Train on `pixel_values` (normalised, lossless) with `soft_label` where there is one, else `label`. `image` is for\n"
        "looking only: clamped and rounded. `data.safetensors` and `recipe.json` are the same set as raydd reads it.\n\n"
        '```python\nimport datasets\nrows = datasets.load_dataset("this folder", split="train").with_format("torch")\n```\n\n'
        f"## Recipe\n\n```yaml\n{recipe}```\n"
    )


def _size_category(images: int) -> str:
    sizes = ((1000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    return next((name for most, name in sizes if images < most), "1M<n<10M")
