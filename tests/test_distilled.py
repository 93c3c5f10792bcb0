from __future__ import annotations

import json
import pickle
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor

from raydd.distilled import DistilledSet, Recipe
from raydd.errors import DataError, IntegrityError, UserError
from raydd.store import Folder, commit, digest
from tests.data.makers import pixels
from tests.sets import large_zca, make_set, random_pixels

FILES = ("data.safetensors", "recipe.json", "README.md", "preview.png")


@pytest.fixture(params=["disk", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """A store on disk, and one in memory."""
    return Folder(str(tmp_path) if request.param == "disk" else f"memory://{secrets.token_hex(6)}/store")


def same(one: DistilledSet, other: DistilledSet) -> bool:
    tensors = [(one.images, other.images), (one.labels, other.labels)]
    tensors += [(one.extras[key], other.extras[key]) for key in one.extras]
    return one.extras.keys() == other.extras.keys() and all(
        a.dtype == b.dtype and torch.equal(a, b) for a, b in tensors
    )


@pytest.mark.parametrize("soft", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_round_trip(soft: bool, channels: int, store: Folder) -> None:
    ds = make_set(soft=soft, channels=channels, extras={"steps": torch.arange(3.0), "init.conv.weight": torch.ones(2)})
    ds.save(store.folder("set"))
    for url in (store.folder("set").url, store.folder("set").url + "/"):
        again = DistilledSet.load(url)
        assert same(again, ds)
        assert again.recipe == ds.recipe
        assert torch.equal(again.preprocessing.mean, ds.preprocessing.mean)
    assert sorted(store.folder("set").list()) == sorted([*FILES, "manifest.json"])


def test_a_run_means_its_distilled_set(store: Folder) -> None:
    ds = make_set()
    ds.save(store.folder("a", "distilled"))
    assert same(DistilledSet.load(store.folder("a").url), ds)


def test_the_same_set_gives_the_same_bytes(store: Folder) -> None:
    for name in ("one", "two"):
        make_set().save(store.folder(name))
    one, two = store.folder("one"), store.folder("two")
    assert [one.read(name) for name in one.list()] == [two.read(name) for name in two.list()]


def test_tensors_are_what_other_tools_read(tmp_path: Path) -> None:
    ds = make_set(extras={"steps": torch.tensor([0.5])})
    ds.save(Folder(str(tmp_path)))
    tensors = safetensors.torch.load_file(tmp_path / "data.safetensors")
    assert tensors.keys() == {"images", "labels", "extra.steps"}
    assert torch.equal(tensors["images"], ds.images)
    recipe = json.loads((tmp_path / "recipe.json").read_text())
    assert (recipe["format"], recipe["classes"], recipe["label_kind"]) == (
        "raydd-distilled-1",
        ["cat", "dog", "emu", "fox"],
        "soft",
    )
    assert recipe["transform"] == {"mean": [0.5] * 3, "std": [0.25] * 3, "zca": None}
    card = (tmp_path / "README.md").read_text()
    assert "8 distilled images" in card
    assert "labels: soft; as made" in card
    with Image.open(tmp_path / "preview.png") as preview:
        assert (preview.size, preview.mode) == ((2 * (48 + 2) + 2, 4 * (48 + 2) + 2), "RGB")


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
@pytest.mark.parametrize("damage", ["truncated", "altered", "missing", "empty", "longer"])
def test_every_file_is_refused_by_name_when_it_is_damaged(name: str, damage: str, tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "set"))
    make_set().save(folder)
    file = tmp_path / "set" / name
    data = file.read_bytes()
    middle = len(data) // 2
    changed = {
        "truncated": data[:-2],
        "altered": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "empty": b"",
        "longer": data + b"\n",
    }
    file.unlink() if damage == "missing" else file.write_bytes(changed[damage])
    if name in ("README.md", "preview.png"):
        # Nobody loads these; `verify` tells.
        from raydd.catalogue import problems

        (problem,) = problems(folder.url)
        assert problem.startswith(f"{file}: ")
        return
    if (name, damage) == ("manifest.json", "longer"):
        assert same(DistilledSet.load(folder.url), make_set()), "white space after JSON says nothing"
        return
    told = "got a folder without manifest.json" if (name, damage) == ("manifest.json", "missing") else str(file)
    with pytest.raises(DataError if damage == "missing" else IntegrityError, match=told):
        DistilledSet.load(folder.url)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("none", r"expected a distilled set at .*/none, got a folder without manifest\.json; check the URL"),
        ("run", r"got a folder without manifest\.json; its run is not finished; `raydd show` tells how far it is"),
        ("shards", "got packed shards of real images"),
    ],
)
def test_what_is_no_distilled_set(url: str, told: str, tmp_path: Path) -> None:
    Folder(str(tmp_path / "run")).write("config.yaml", b"")
    Folder(str(tmp_path / "shards")).write("index.json", b"")
    with pytest.raises(DataError, match=told):
        DistilledSet.load(str(tmp_path / url))


def forged(folder: Folder, change: Callable[[dict[str, bytes]], None]) -> str:
    """Write a set that somebody has changed, with a manifest that fits it."""
    made = folder.folder("made")
    make_set(soft=False).save(made)
    files = {name: made.read(name) for name in FILES}
    change(files)
    commit(folder.folder("forged"), files, meta={})
    return folder.folder("forged").url


def recipe_with(**fields: object) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        files["recipe.json"] = json.dumps({**json.loads(files["recipe.json"]), **fields}).encode()

    return change


def tensors_with(**tensors: Tensor | None) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        changed = {**safetensors.torch.load(files["data.safetensors"]), **tensors}
        kept = {key: value for key, value in changed.items() if value is not None}
        files["data.safetensors"] = safetensors.torch.save(kept)

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            recipe_with(format="raydd-distilled-2"),
            "expected a recipe of format raydd-distilled-1 in .*, got 'raydd-dist",
        ),
        (recipe_with(format=None), "expected a recipe of format raydd-distilled-1 in .*, got None"),
        (recipe_with(classes="four"), "the recipe in .* is not whole: classes: "),
        (recipe_with(classes=[1, 2]), r"the recipe in .* is not whole: classes\.0: "),
        (recipe_with(rounds="many"), "the recipe in .* is not whole: rounds: "),
        (recipe_with(config=[]), "the recipe in .* is not whole: config: "),
        (recipe_with(transform={}), "expected a transform's mean, std and zca"),
        (recipe_with(transform={"mean": [0.5], "std": [0.0], "zca": None}), "positive deviations"),
        (recipe_with(transform={"mean": [0.5], "std": [1.0], "zca": None}), "expected a transform of 3 channels"),
        (recipe_with(label_kind="soft"), r"expected soft labels of 4 classes in .*, got torch.int64 \(8,\)"),
        (recipe_with(label_kind="any"), "expected any labels of 4 classes"),
        (recipe_with(classes=["a", "b", "c"]), "expected labels from 0 to 2 in .*, got 0 to 3"),
        (tensors_with(labels=torch.full((8,), -1)), "expected labels from 0 to 3 in .*, got -1 to -1"),
        (
            tensors_with(labels=torch.zeros(8, 4)),
            r"expected hard labels of 4 classes in .*, got torch.float32 \(8, 4\)",
        ),
        (tensors_with(labels=torch.zeros(8)), "expected hard labels of 4 classes"),
        (
            tensors_with(labels=torch.zeros(7, dtype=torch.int64)),
            r"expected float32 images \(N, C, H, W\) and N labels",
        ),
        (tensors_with(labels=None), r"and N labels in .*, got \['images'\]"),
        (tensors_with(images=torch.zeros(8, 3, 8, 8, dtype=torch.float64)), "expected float32 images"),
        (tensors_with(images=torch.zeros(8, 192)), "expected float32 images"),
        (lambda files: files.update({"data.safetensors": pickle.dumps([1])}), r"expected safetensors in .*data\.safe"),
        (
            lambda files: files.update({"data.safetensors": b"\xff" * 64}),
            r"expected safetensors in .*data\.safetensors",
        ),
        (lambda files: files.update({"recipe.json": b"[]"}), "expected a recipe of format raydd-distilled-1 .* 'list'"),
        (lambda files: files.update({"recipe.json": b"{"}), r"recipe\.json"),
        (lambda files: files.pop("recipe.json"), r"recipe\.json"),
    ],
)
def test_hostile_sets_with_a_right_manifest(
    change: Callable[[dict[str, bytes]], None], told: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=told) as caught:
        DistilledSet.load(forged(Folder(str(tmp_path)), change))
    assert "\n" not in str(caught.value)


def test_what_a_later_raydd_adds_to_a_recipe_is_passed_over(tmp_path: Path) -> None:
    url = forged(Folder(str(tmp_path)), recipe_with(mood="good"))
    assert same(DistilledSet.load(url), make_set(soft=False))


def test_a_recipe_lacks_a_field() -> None:
    raw = make_set().recipe.to_json()
    del raw["index_hash"]
    with pytest.raises(DataError, match=r"^the recipe in here is not whole: index_hash: Field required"):
        Recipe.from_json(raw, "here")


# Images and labels in use


def test_transform_of_tensors() -> None:
    ds, real = make_set(), random_pixels(8, 3, 8)
    expected = (real.double() / 255 - 0.5) / 0.25
    assert torch.allclose(ds.transform(real).double(), expected, atol=1e-6)
    assert torch.equal(ds.transform(real), ds.images)
    assert torch.equal(ds.transform(real[0]), ds.images[0])
    assert torch.equal(ds.transform(real.float() / 255), ds.images)
    assert torch.equal(ds.transform((real.float() / 255)[3]), ds.images[3])
    assert ds.transform(real.double() / 255).dtype == torch.float32
    assert ds.transform(real[:0]).shape == (0, 3, 8, 8)


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (torch.zeros(2, 1, 8, 8), r"expected images of shape \(n, 3, 8, 8\) or \(3, 8, 8\), got \(2, 1, 8, 8\)"),
        (torch.zeros(2, 8, 8, 3), r"got \(2, 8, 8, 3\); resize them, or give PIL images"),
        (torch.zeros(2, 3, 9, 9), r"got \(2, 3, 9, 9\)"),
        (torch.zeros(8, 8), r"got \(8, 8\)"),
        (torch.zeros(1, 1, 3, 8, 8), r"got \(1, 1, 3, 8, 8\)"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), r"expected uint8 images, or floats in \[0, 1\], got torch.int64"),
        (torch.full((3, 8, 8), 255.0), r"expected float images in \[0, 1\], got 255 to 255; give them as uint8"),
        (torch.full((3, 8, 8), -2.0), r"expected float images in \[0, 1\], got -2 to -2"),
        (torch.full((3, 8, 8), torch.nan), r"expected float images in \[0, 1\], got nan to nan"),
    ],
)
def test_what_could_be_misread_is_refused(images: Tensor, told: str) -> None:
    with pytest.raises(DataError, match=told):
        make_set().transform(images)


def test_transform_of_pil_images() -> None:
    ds, grey = make_set(), make_set(channels=1)
    picture = Image.fromarray(pixels(0, 8, 8, 3))
    expected = ds.transform(torch.from_numpy(pixels(0, 8, 8, 3)).permute(2, 0, 1))
    assert torch.equal(ds.transform(picture), expected)
    assert torch.equal(ds.transform([picture, picture]), torch.stack([expected, expected]))
    one = Image.fromarray(pixels(1, 8, 8, 1))
    assert torch.equal(grey.transform(one), grey.transform(torch.from_numpy(pixels(1, 8, 8, 1))[None]))
    assert torch.equal(ds.transform(one), ds.transform(torch.from_numpy(pixels(1, 8, 8, 1)).expand(3, 8, 8)))
    with pytest.raises(DataError, match="expected a grey image"):
        grey.transform(picture)


def test_pil_images_of_any_size_are_brought_to_the_sets() -> None:
    ds = make_set()
    tall = Image.fromarray(pixels(0, 40, 16, 3))
    # The mean over each pixel's area, of the central square.
    mean = pixels(0, 40, 16, 3)[12:28].reshape(8, 2, 8, 2, 3).mean(axis=(1, 3))
    real = ds.transform(torch.from_numpy(mean / 255).permute(2, 0, 1))
    assert (ds.transform(tall) - real).abs().max() < 1.01 / 255 / 0.25, "a level of rounding"
    assert ds.transform([tall, Image.fromarray(pixels(1, 5, 3, 1)).convert("P")]).shape == (2, 3, 8, 8)


def test_pixels_invert_the_transform() -> None:
    for ds in (make_set(), make_set(channels=1), make_set(size=16, zca=large_zca())):
        real = random_pixels(8, *ds.images.shape[1:3])
        assert ds.pixels().dtype == torch.uint8
        assert torch.equal(ds.pixels(), real)
    beyond = make_set()
    beyond.images[:2] = torch.tensor([-9.0, 9.0])[:, None, None, None]
    assert beyond.pixels()[:2].flatten(1).unique(dim=1).tolist() == [[0], [255]]


def test_targets_and_size() -> None:
    assert make_set(soft=True).targets.tolist() == make_set(soft=False).targets.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len(make_set()) == 8
    # Floats of images and soft labels, or 8 bytes a hard label; extras count.
    assert make_set(soft=True).storage_bytes == 8 * 3 * 8 * 8 * 4 + 8 * 4 * 4
    assert make_set(soft=False).storage_bytes == 8 * 3 * 8 * 8 * 4 + 8 * 8
    assert make_set(extras={"steps": torch.ones(5)}).storage_bytes == make_set().storage_bytes + 20


def test_only_a_memory_can_recall() -> None:
    with pytest.raises(
        UserError, match=r"^recall needs an addressed memory \(method rtp\), got a set of method frepo$"
    ):
        make_set().recall(torch.eye(4))


# The loader


def epoch(loader: torch.utils.data.DataLoader) -> tuple[Tensor, Tensor]:
    batches = list(loader)
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def test_the_dataset_is_the_set() -> None:
    ds = make_set()
    dataset = ds.as_dataset()
    image, label = dataset[5]
    assert torch.equal(image, ds.images[5])
    assert torch.equal(label, ds.labels[5])
    x, y = epoch(ds.loader(3, shuffle=False, augment=False))
    assert torch.equal(x, ds.images)
    assert torch.equal(y, ds.labels)
    assert [len(x) for x, _ in ds.loader(3)] == [3, 3, 2]
    assert [len(x) for x, _ in ds.loader(100)] == [8]


def test_the_loader_is_a_function_of_its_seed() -> None:
    ds = make_set()
    state = torch.random.get_rng_state()
    first, again, other = ds.loader(3), ds.loader(3), ds.loader(3, seed=1)
    one = epoch(first)
    torch.manual_seed(99)
    two = epoch(again)
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    assert not torch.equal(one[0], epoch(other)[0])
    later = epoch(first)
    assert not torch.equal(later[1], one[1]), "another order in the next epoch"
    torch.random.set_rng_state(state)
    epoch(ds.loader(3))
    assert torch.equal(torch.random.get_rng_state(), state), "nobody else's draws are touched"


def test_the_loader_shuffles_and_augments_as_the_recipe_says() -> None:
    ds = make_set(augmentation="dsa:flip")
    x, y = epoch(ds.loader(8, shuffle=False))
    assert torch.equal(y, ds.labels)
    either = [torch.equal(a, b) or torch.equal(a, b.flip(-1)) for a, b in zip(x, ds.images, strict=True)]
    assert all(either)
    assert not torch.equal(x, ds.images)
    shuffled, labels = epoch(ds.loader(3, augment=False))
    found = [next(i for i, image in enumerate(ds.images) if torch.equal(image, x)) for x in shuffled]
    assert sorted(found) == list(range(8))
    assert found != list(range(8))
    assert torch.equal(labels, ds.labels[found])
    plain = make_set(augmentation=None)
    assert torch.equal(epoch(plain.loader(8, shuffle=False))[0], plain.images)


# Large transforms


def test_a_small_whitening_lies_in_the_set(tmp_path: Path) -> None:
    ds = make_set(size=8, zca=large_zca(size=8))
    ds.save(Folder(str(tmp_path / "runs/a/distilled")), transforms=Folder(str(tmp_path / "runs/transforms")))
    assert not (tmp_path / "runs/transforms").exists()
    assert torch.equal(DistilledSet.load(str(tmp_path / "runs/a")).pixels(), ds.pixels())


def test_a_large_whitening_lies_once_in_the_store(store: Folder) -> None:
    ds = make_set(size=16, zca=large_zca())
    for run in ("a", "b"):
        ds.save(store.folder(run, "distilled"), transforms=store.folder("transforms"))
    (name,) = store.folder("transforms").list()
    data = store.folder("transforms").read(name)
    assert name == f"{digest(data).sha256}.safetensors"
    assert store.folder("a", "distilled").size("data.safetensors") < 100_000
    for url in (store.folder("a").url, store.folder("b", "distilled").url):
        again = DistilledSet.load(url)
        assert again.recipe.transform_file == name.removesuffix(".safetensors")
        assert torch.equal(again.pixels(), random_pixels(8, 3, 16))
        assert torch.equal(again.transform(random_pixels(8, 3, 16)), ds.images)


def test_a_large_whitening_is_refused_by_name(tmp_path: Path) -> None:
    store = Folder(str(tmp_path))
    make_set(size=16, zca=large_zca()).save(store.folder("a", "distilled"), transforms=store.folder("transforms"))
    (name,) = store.folder("transforms").list()
    file = tmp_path / "transforms" / name
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(IntegrityError, match=f"{file}: expected sha256 {file.stem}, got .*: the file has been altered"):
        DistilledSet.load(str(tmp_path / "a"))
    file.unlink()
    with pytest.raises(IntegrityError, match=f"the transform {name} of {tmp_path}/a/distilled is missing; looked in "):
        DistilledSet.load(str(tmp_path / "a"))


def test_without_a_store_it_lies_in_the_set_wherever_that_is() -> None:
    ds = make_set(size=16, zca=large_zca())
    top = Folder(f"memory://{secrets.token_hex(6)}")
    ds.save(top)
    assert torch.equal(DistilledSet.load(top.url).images, ds.images)
    (name,) = top.list("transforms/")
    top.delete(name)
    with pytest.raises(IntegrityError, match=f"is missing; looked in {top.url}/transforms$"):
        DistilledSet.load(top.url)
