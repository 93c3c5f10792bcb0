"""The distilled set: tensors, and a recipe that says exactly how they are meant.

The artifact's format, version 1: one folder at any fsspec URL with

    data.safetensors   `images` float32 (N, C, H, W), normalised; `labels` float32 (N, classes) soft or int64 (N,) hard;
                       `transform.*` what real images are normalised by; `extra.*` whatever else the method learned
    recipe.json        the record below
    README.md          a dataset card for people
    preview.png        the images as a grid, for looking only
    manifest.json      sizes and sha256 of the above, written last: an artifact exists once its manifest does

A transform's tensors of more than 1 MB (whitening) lie in `transforms/<sha256>.safetensors`, once per store and beside the runs;
the recipe names the hash, and pulled or exported sets carry the file along. Nothing in an artifact is a pickle.

What lies elsewhere than on a local disk is kept on this machine (`raydd.store.content`), so that only the manifest is read
again when the same set is loaded once more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from raydd.augment import per_image
from raydd.card import card, picture
from raydd.data.images import convert, resize
from raydd.data.transforms import Transform
from raydd.errors import DataError, IntegrityError, StoreError, UserError
from raydd.functional.memory import recall
from raydd.seeding import generator
from raydd.store import Entry, Folder, Manifest, commit, digest, from_json, load_manifest, read_content

if TYPE_CHECKING:
    from PIL import Image

FORMAT = "raydd-distilled-1"
LOSSY_FORMAT = "raydd-folder-1"
LARGE_TRANSFORM = 1_000_000
QUERY = "query."  # what the names of a query network's parameters start with among the extras
LARGEST_TRANSFORM = 2 << 30  # nothing whitens more than 64x64 pixels at once: 1.2 GB


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a distilled set came to be and how it is meant.

    Attributes:
        name: The run's name.
        method: The method's name.
        paper: Authors, title, venue and year.
        config: The resolved config, as plain data.
        classes: Names, in the order of label indices.
        label_kind: `hard` or `soft`.
        label_convention: The labels' scale and the loss that they are for.
        protocol: The evaluation protocol of the method's paper.
        augmentation: Whose and which, such as `dsa:color_crop`; None for none.
        transform: The transform's plain part; its tensors are stored beside it.
        transform_file: sha256 that names the transform's large tensors, or None.
        index_hash: What names the real data set.
        rounds: Updates done.
        versions: Of raydd, torch and Python, and the kind of processor.
        dataset: The real data set's name, such as `mnist`; None in recipes from before it was noted.
    """

    name: str
    method: str
    paper: str
    config: dict[str, Any]
    classes: tuple[str, ...]
    label_kind: str
    label_convention: str
    protocol: str
    augmentation: str | None
    transform: dict[str, Any]
    transform_file: str | None = None
    index_hash: str
    rounds: int
    versions: dict[str, str]
    dataset: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as plain data."""
        return {"format": FORMAT, **asdict(self), "classes": list(self.classes)}

    @classmethod
    def from_json(cls, raw: Any, where: str) -> Recipe:
        """Read a recipe back.

        Raises:
            DataError: When it is of another format, or a field is missing or of the wrong type.
        """
        if not isinstance(raw, dict) or raw.get("format") != FORMAT:
            got = raw.get("format") if isinstance(raw, dict) else type(raw).__name__
            raise DataError(
                f"expected a recipe of format {FORMAT} in {where}, got {got!r}; is raydd too old for this set?"
            )
        try:
            return TypeAdapter(cls).validate_python({key: value for key, value in raw.items() if key != "format"})
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            raise DataError(
                f"the recipe in {where} is not whole: {key}: {first['msg']}; distil or pull it again"
            ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class DistilledSet:
    """A small synthetic data set that trains networks nearly as well as the large real one it was distilled from.

    Attributes:
        images: float32 (N, C, H, W), normalised as the recipe says; not clamped.
        labels: float32 (N, classes) soft or int64 (N,) hard.
        recipe: How the set is meant.
        preprocessing: What makes real images comparable with `images`.
        extras: What else a method learned: step sizes `lr_inner` (passes, steps) and the fixed network `init.*` (DD); `bases`
            (K, C, h, w) and `addresses` (classes, r, K) of an addressed memory (RTP), and `query.*`, the parameters of the
            network that asks it where it is asked by images.
    """

    images: Tensor
    labels: Tensor
    recipe: Recipe
    preprocessing: Transform
    extras: dict[str, Tensor] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of label indices."""
        return self.recipe.classes

    @property
    def targets(self) -> Tensor:
        """Class indices, int64 (N,): the labels themselves, or the strongest class of soft ones."""
        return self.labels.argmax(1) if self.labels.ndim == 2 else self.labels

    @property
    def storage_bytes(self) -> int:
        """Bytes of all that was learned or chosen: images, labels and extras; of a memory what its images are made from."""
        kept = (self.images, self.labels, *self.extras.values())
        if self.is_memory:
            # The images are made from these, and the labels are their order.
            queries = [value for name, value in self.extras.items() if name.startswith(QUERY)]
            kept = (self.extras["bases"], self.extras["addresses"], *queries)
        return sum(t.numel() * t.element_size() for t in kept)

    @property
    def is_memory(self) -> bool:
        """Whether the images are recalled from bases by addresses."""
        return {"bases", "addresses"} <= self.extras.keys()

    def __len__(self) -> int:
        return len(self.images)

    def pixels(self) -> Tensor:
        """Return the images for looking at: uint8 (N, C, H, W). Lossy: learned values are clamped and rounded."""
        return self.preprocessing.pixels(self.images)

    def transform(self, images: Tensor | Image.Image | list[Image.Image]) -> Tensor:
        """Turn real images into what a network trained on this set expects.

        Args:
            images: uint8 or float in [0, 1] of shape (C, H, W) or (n, C, H, W), of this set's own C, H and W; or PIL images,
                which are cropped and resized to them, grey ones becoming RGB where the set is.

        Returns:
            float32 of the same shape as the tensor, or (n, C, H, W) for PIL images ((C, H, W) for a single one).

        Raises:
            DataError: When a tensor has another shape, type or range, or a PIL image has colours and the set has none.
        """
        if isinstance(images, Tensor):
            self._check_real(images)
            return self.preprocessing(images) if images.ndim == 4 else self.preprocessing(images[None])[0]
        if not isinstance(images, list):
            return self.transform([images])[0]
        channels, size = self.images.shape[1], self.images.shape[-1]
        arrays = [np.array(resize(convert(image, channels, "image"), size)) for image in images]
        pixels = torch.from_numpy(np.stack(arrays))
        return self.preprocessing(pixels[:, None] if channels == 1 else pixels.permute(0, 3, 1, 2))

    def _check_real(self, images: Tensor) -> None:
        shape, got = self.images.shape[1:], tuple(images.shape)
        if got[-3:] != shape or images.ndim not in (3, 4):
            # Anything else might broadcast to something that looks right.
            wanted = ", ".join(map(str, shape))
            raise DataError(
                f"expected images of shape (n, {wanted}) or ({wanted}), got {got}; resize them, or give PIL images"
            )
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise DataError(f"expected uint8 images, or floats in [0, 1], got {images.dtype}; convert them")
        # Resampled floats go a little beyond the ends; pixels up to 255, or normalised ones, go far.
        if images.is_floating_point() and images.numel() and not (images.min() >= -0.2 and images.max() <= 1.2):
            low, high = float(images.min()), float(images.max())
            raise DataError(
                f"expected float images in [0, 1], got {low:.4g} to {high:.4g}; give them as uint8 or divide by 255"
            )

    def as_dataset(self) -> Dataset[tuple[Tensor, ...]]:
        """Return a torch Dataset of (image, label)."""
        return TensorDataset(self.images, self.labels)

    def loader(self, batch_size: int, *, shuffle: bool = True, augment: bool = True, seed: int = 0) -> DataLoader[Any]:
        """Return a DataLoader of (images, labels), augmented as the recipe says unless `augment` is false.

        Args:
            batch_size: Images a batch; at most the set's size.
            shuffle: Draw a new order every epoch.
            augment: Apply the recipe's augmentation, with a parameter of its own for every image.
            seed: Names the order and the augmentations.
        """
        batches = _Augmented(self.recipe.augmentation if augment else None, seed)
        return DataLoader(
            self.as_dataset(), batch_size, shuffle=shuffle, collate_fn=batches, generator=generator(seed, "loader")
        )

    def recall(self, queries: Tensor | Sequence[str | int]) -> Tensor:
        """Return the images that an addressed memory holds: `x_i = y^T A_i B` for its r addressing matrices A_i.

        Deng & Russakovsky, "Remember the Past", NeurIPS 2022, Section 3.

        Args:
            queries: Classes by name or index, or query vectors y, float (m, d_y); d_y is the number of classes for a memory
                that is addressed by classes.

        Returns:
            float32 (m, r, C, H, W), normalised; for a class they are its images in this set.

        Raises:
            UserError: When the set is not an addressed memory.
            DataError: When it has no such class, or is addressed by vectors of another length.
        """
        if not self.is_memory:
            raise UserError(f"recall needs an addressed memory (method rtp), got a set of method {self.recipe.method}")
        bases, addresses = self.extras["bases"], self.extras["addresses"]
        if not isinstance(queries, Tensor):
            if len(addresses) != len(self.classes):
                raise DataError(
                    f"expected query vectors (m, {len(addresses)}), got classes; this memory is not addressed by them"
                )
            queries = torch.eye(len(addresses))[[self._class_index(query) for query in queries]]
        if queries.ndim != 2 or queries.shape[1] != len(addresses) or not queries.is_floating_point():
            raise DataError(
                f"expected query vectors of shape (m, {len(addresses)}), got {queries.dtype} {tuple(queries.shape)}"
            )
        return recall(bases, addresses, queries.to(bases), self.images.shape[-1] // bases.shape[-1])

    def _class_index(self, query: str | int) -> int:
        if isinstance(query, str) and query in self.classes:
            return self.classes.index(query)
        if isinstance(query, int) and 0 <= query < len(self.classes):
            return query
        raise DataError(f"expected one of the set's {len(self.classes)} classes by name or index, got {query!r}")

    def save(self, folder: Folder, *, transforms: Folder | None = None) -> None:
        """Write the artifact; it exists once its manifest does.

        Args:
            folder: Where to.
            transforms: The store's folder for large transforms; by default they lie in the artifact itself.
        """
        tensors = {"images": self.images, "labels": self.labels}
        tensors |= {f"extra.{key}": value for key, value in self.extras.items()}
        of_transform = {f"transform.{key}": value for key, value in self.preprocessing.to_tensors().items()}
        files: dict[str, bytes] = {}
        recipe = self.recipe.to_json()
        if sum(t.numel() * t.element_size() for t in of_transform.values()) > LARGE_TRANSFORM:
            data = _tensor_bytes(of_transform)
            recipe["transform_file"] = digest(data).sha256
            if transforms is None:
                files[f"transforms/{recipe['transform_file']}.safetensors"] = data
            else:
                write_transform(transforms, self.preprocessing)
        else:
            tensors |= of_transform
        files["data.safetensors"] = _tensor_bytes(tensors)
        files["recipe.json"] = (json.dumps(recipe, indent=1, sort_keys=True) + "\n").encode()
        files["README.md"] = card(self).encode()
        files["preview.png"] = picture(self.pixels()[:1000], self.recipe_columns())
        commit(folder, files, meta={"format": FORMAT})

    def recipe_columns(self) -> int:
        """Return how many images of a grid stand in a row: those of a class, or ten where there is one a class."""
        per_class = len(self) // max(1, len(self.classes))
        return per_class if 1 < per_class <= 50 else 10

    @classmethod
    def load(cls, url: str) -> DistilledSet:
        """Load a distilled set from a run, an artifact folder or a pulled set, at any fsspec URL.

        Raises:
            DataError: When there is none, or a lossy export of one, naming what was found instead.
            IntegrityError: When a file is missing, truncated or altered, naming it.
        """
        folder, manifest, recipe = described(url)
        name = "data.safetensors"
        tensors = tensors_from(read_content(folder, name, manifest.entry(folder, name)), f"{folder.url}/{name}")
        if recipe.transform_file is not None:
            transforms = transforms_folder(folder, recipe.transform_file)
            tensors |= read_transform(transforms, recipe.transform_file)
        parts: dict[str, dict[str, Tensor]] = {"transform": {}, "extra": {}}
        for key in [key for key in tensors if "." in key]:
            kind, _, name = key.partition(".")
            parts.setdefault(kind, {})[name] = tensors.pop(key)
        _check(tensors, recipe, folder.url)
        preprocessing = Transform.from_parts(parts["transform"], recipe.transform)
        if len(preprocessing.mean) != tensors["images"].shape[1]:
            raise DataError(
                f"expected a transform of {tensors['images'].shape[1]} channels in {folder.url}, got another"
            )
        return cls(
            images=tensors["images"],
            labels=tensors["labels"],
            recipe=recipe,
            preprocessing=preprocessing,
            extras=parts["extra"],
        )


@dataclass(slots=True)
class _Augmented:
    """Collates samples and augments the batch; the k-th batch of a loader has the draws keyed by (seed, k)."""

    strategy: str | None
    seed: int
    batches: int = 0

    def __call__(self, samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        images = torch.stack([image for image, _ in samples])
        labels = torch.stack([label for _, label in samples])
        if self.strategy is not None:
            images = per_image(self.strategy)(images, generator(self.seed, "loader-augment", self.batches))
        self.batches += 1
        return images, labels


def artifact_folder(url: str) -> Folder:
    """Return the folder of the artifact that a URL means: a run's `distilled`, or the folder itself.

    Raises:
        DataError: When neither holds one.
    """
    folder = Folder(url)
    for candidate in (folder.folder("distilled"), folder):
        if candidate.exists("manifest.json"):
            return candidate
    if folder.exists("index.json"):
        raise DataError(f"expected a distilled set at {folder.url}, got packed shards of real images")
    hint = (
        "its run is not finished; `raydd show` tells how far it is" if folder.exists("config.yaml") else "check the URL"
    )
    raise DataError(f"expected a distilled set at {folder.url}, got a folder without manifest.json; {hint}")


def described(url: str) -> tuple[Folder, Manifest, Recipe]:
    """Return the folder of the distilled set that a URL means, its manifest and its recipe; no tensors are read.

    Raises:
        DataError: When there is none, or a lossy export of one, naming what was found instead.
        IntegrityError: When the recipe is missing, truncated or altered.
    """
    folder = artifact_folder(url)
    manifest = load_manifest(folder)
    if manifest.meta.get("format") == LOSSY_FORMAT:
        raise DataError(
            f"expected a distilled set at {folder.url}, got a lossy export of one (--format folder); take the set itself, "
            "or an export to webdataset or hf"
        )
    name = "recipe.json"
    data = read_content(folder, name, manifest.entry(folder, name))
    return folder, manifest, Recipe.from_json(from_json(data, f"{folder.url}/{name}"), folder.url)


def tensors_from(data: bytes, where: str) -> dict[str, Tensor]:
    """Read safetensors bytes.

    Raises:
        IntegrityError: When they are not safetensors; nothing else is ever tried on them.
    """
    try:
        # In an order of their own: safetensors gives them in another one each time, and sums depend on it.
        return dict(sorted(safetensors.torch.load(data).items()))
    except SafetensorError as error:
        raise IntegrityError(f"expected safetensors in {where}, got something else: {error}") from None


def _tensor_bytes(tensors: dict[str, Tensor]) -> bytes:
    return safetensors.torch.save({key: value.detach().cpu().contiguous() for key, value in tensors.items()})


def write_transform(transforms: Folder, transform: Transform) -> str:
    """Write a transform's tensors under the name of their content, once; return their sha256."""
    data = _tensor_bytes({f"transform.{key}": value for key, value in transform.to_tensors().items()})
    sha256 = digest(data).sha256
    if not transforms.exists(f"{sha256}.safetensors"):
        transforms.write(f"{sha256}.safetensors", data)
    return sha256


def read_transform(transforms: Folder, sha256: str) -> dict[str, Tensor]:
    """Read a transform's tensors, as `transform.*`.

    Raises:
        FileNotFoundError: When there are none of this name.
        IntegrityError: When they were altered.
    """
    name, entry = transform_entry(transforms, sha256)
    return tensors_from(read_content(transforms, name, entry), f"{transforms.url}/{name}")


def transform_entry(transforms: Folder, sha256: str) -> tuple[str, Entry]:
    """Return the name of a transform's file, and what it must be.

    Raises:
        FileNotFoundError: When there is none of this name.
        IntegrityError: When the name is none of a transform, or it is larger than any could be.
    """
    name = f"{sha256}.safetensors"
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise IntegrityError(f"expected a transform named by its sha256 in {transforms.url}, got {sha256!r}")
    size = transforms.size(name)
    if size is None:
        raise FileNotFoundError(f"cannot read {transforms.url}/{name}: no such file")
    if size > LARGEST_TRANSFORM:
        raise IntegrityError(f"{transforms.url}/{name}: expected at most {LARGEST_TRANSFORM} bytes, got {size}")
    return name, Entry(size, sha256)


def transforms_folder(folder: Folder, sha256: str) -> Folder:
    """Return where the transform of an artifact lies: in the artifact, or in the store that its run is in.

    Raises:
        IntegrityError: When it is in neither.
    """
    own, name = folder.folder("transforms"), f"{sha256}.safetensors"
    if own.exists(name):
        return own
    looked = own.url
    try:
        store = folder.parent.parent.folder("transforms")
    except StoreError:
        pass  # A set at the top of a bucket lies in no run.
    else:
        if store.exists(name):
            return store
        looked += f" and {store.url}"
    raise IntegrityError(f"the transform {name} of {folder.url} is missing; looked in {looked}")


def _check(tensors: dict[str, Tensor], recipe: Recipe, where: str) -> None:
    images, labels = tensors.get("images"), tensors.get("labels")
    if (
        images is None
        or labels is None
        or images.ndim != 4
        or images.dtype != torch.float32
        or len(images) != len(labels)
    ):
        raise IntegrityError(f"expected float32 images (N, C, H, W) and N labels in {where}, got {sorted(tensors)}")
    classes = len(recipe.classes)
    soft = labels.dtype == torch.float32 and labels.shape[1:] == (classes,)
    hard = labels.dtype == torch.int64 and labels.ndim == 1
    if not {"soft": soft, "hard": hard}.get(recipe.label_kind, False):
        got = f"{labels.dtype} {tuple(labels.shape)}"
        raise IntegrityError(f"expected {recipe.label_kind} labels of {classes} classes in {where}, got {got}")
    if hard and len(labels) and not (labels.min() >= 0 and labels.max() < classes):
        got = f"{int(labels.min())} to {int(labels.max())}"
        raise IntegrityError(f"expected labels from 0 to {classes - 1} in {where}, got {got}")
