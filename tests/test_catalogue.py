from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from raydd.catalogue import kind_of, problems, show
from raydd.data.pack import pack
from raydd.errors import DataError, IntegrityError
from raydd.evaluate import Accuracy
from raydd.listing import Wanted, lines, runs
from raydd.report.findings import Findings, Grid, read_grids
from raydd.store import Folder, commit, digest
from tests.data.makers import pixels, write_folder
from tests.sets import large_zca, make_set


def make_run(run: Folder, *, store: Folder | None = None, done: bool = True) -> None:
    """A run's folder as the engine leaves it, with a whitening in the store."""
    run.write("config.yaml", b"name: a\n")
    for round in (4, 8):
        files = {"variables.safetensors": b"v" * round, "state.safetensors": b"s" * round}
        commit(run.folder("checkpoints", f"{round:08d}"), files, meta={"round": round})
    run.write("checkpoints/00000012/variables.safetensors", b"half written")
    status = {"state": "finished" if done else "running", "round": 8, "rounds": 10, "rounds_per_second": 2.0}
    run.write_json("status.json", {**status, "workers": 2, "last_checkpoint": 8, "faults": 0})
    if done:
        transforms = run.parent.folder("transforms") if store is None else store
        make_set(size=16, zca=large_zca()).save(run.folder("distilled"), transforms=transforms)
        run.write_json("evaluation.json", {"results": [score("distilled", 83.256), score("random", 55.0)]})


def score(of: str, mean: float) -> dict:
    fields = {"protocol": "dsa", "net": "convnet", "std": 1.0, "repeats": 1, "each": [mean]}
    return Accuracy(of=of, mean=mean, images=10, storage_bytes=100, **fields).to_json()


@pytest.fixture(params=["disk", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "runs") if request.param == "disk" else f"memory://{secrets.token_hex(6)}/runs")


@pytest.fixture
def shards(tmp_path: Path) -> Folder:
    write_folder(tmp_path / "images", {name: [pixels(i, 8, 8, 3) for i in range(4)] for name in ("cat", "dog")})
    pack(f"folder:{tmp_path / 'images'}", str(tmp_path / "shards"))
    return Folder(str(tmp_path / "shards"))


def test_runs_of_a_store(store: Folder) -> None:
    make_run(store.folder("b"))
    make_run(store.folder("a"), done=False)
    store.folder("c").write("config.yaml", b"")
    store.folder("other").write("notes.txt", b"")
    listed = list(runs(store.url))
    assert {run["kind"] for run in listed} == {"run"}
    assert [(run["name"], run["state"]) for run in listed] == [("a", "running"), ("b", "finished"), ("c", "starting")]
    assert listed[1]["accuracy"] == {"random": 55.0, "distilled": 83.26}
    assert list(runs(store.folder("none").url)) == []


def make_application(folder: Folder, findings: object) -> None:
    folder.write("config.yaml", b"name: x\ndata: {train: digits}\n")
    folder.write_json("app.json", {"kind": "adapt", "hash": "0"})
    if findings is not None:
        folder.write_json("results.json", {"kind": "adapt", "findings": findings})


def test_sweeps_and_applications_are_listed_and_shown(store: Folder) -> None:
    make_run(store.folder("run"))
    make_application(store.folder("going"), None)
    grid = Grid(title="Scores", columns=("on", "%"), rows=(("dm", (90.4, 0.9)), ("random", None)))
    make_application(store.folder("done"), Findings(title="t", lead="l", grids=(grid,), values={"x": 1}).to_json())
    store.folder("sweep").write("sweep.yaml", b"method: {name: dm}\n")
    store.folder("sweep").write_json("status.json", {"state": "running", "ended": 3, "trials": 10})
    store.folder("new").write("sweep.yaml", b"method: {name: dm}\n")
    listed = {facts["name"]: facts for facts in runs(store.url)}
    assert {name: (facts["kind"], facts["state"]) for name, facts in listed.items()} == {
        "done": ("application", "finished"),
        "going": ("application", "running"),
        "new": ("sweep", "starting"),
        "run": ("run", "finished"),
        "sweep": ("sweep", "running"),
    }
    assert [facts["name"] for facts in runs(store.url, Wanted(method="dm"))] == ["new", "sweep"]
    assert [" ".join(line.split()) for line in lines([listed["done"]])] == ["done finished adapt on digits"]
    assert "3/10 trials" in lines([listed["sweep"]])[0]
    assert (kind_of(store.folder("done").url), problems(store.folder("done").url)) == ("application", [])
    assert show(store.folder("going").url)["state"] == "running"
    assert show(store.folder("done").url)["findings"]["values"] == {"x": 1}


@pytest.mark.parametrize(
    "findings", [{}, [], {"grids": 3}, {"grids": [{"title": "x", "columns": ["a"], "rows": [[{}]]}]}]
)
def test_altered_findings_are_not_shown(findings: object) -> None:
    with pytest.raises(
        IntegrityError, match=r"^here: expected the tables of an application, got something else; delete"
    ):
        read_grids(findings, "here")


def test_what_a_url_holds(store: Folder, shards: Folder) -> None:
    make_run(store.folder("a"))
    assert kind_of(store.folder("a").url) == "run"
    assert kind_of(store.folder("a", "distilled").url) == "set"
    assert kind_of(shards.url) == "shards"
    with pytest.raises(DataError, match=r"expected a run, a sweep, an application, a .*, got none of them"):
        kind_of(store.url)


def test_show(store: Folder, shards: Folder) -> None:
    make_run(store.folder("a"))
    run = show(store.folder("a").url)
    assert (run["kind"], run["url"], run["round"], run["workers"]) == ("run", store.folder("a").url, 8, 2)
    artifact = show(store.folder("a", "distilled").url)
    assert (artifact["kind"], artifact["name"], artifact["method"], artifact["rounds"]) == ("set", "made", "frepo", 10)
    assert (artifact["images"], artifact["labels"]) == ([8, 3, 16, 16], "soft: as made")
    assert artifact["storage_bytes"] == 8 * 3 * 256 * 4 + 8 * 4 * 4
    packed = show(shards.url)
    assert (packed["images"], packed["classes"], packed["shape"], packed["shards"]) == (8, 2, [3, 8, 8], 1)
    assert packed["bytes"] == shards.size("shard-000000.tar")


def test_everything_that_is_whole(store: Folder, shards: Folder) -> None:
    make_run(store.folder("a"))
    make_run(store.folder("going"), done=False)
    for url in (store.folder("a").url, store.folder("a", "distilled").url, store.folder("going").url, shards.url):
        assert problems(url) == []


@pytest.mark.parametrize(
    "name",
    ["checkpoints/00000004/variables.safetensors", "checkpoints/00000008/manifest.json", "distilled/preview.png"]
    + ["distilled/data.safetensors", "distilled/manifest.json"],
)
@pytest.mark.parametrize("damage", ["altered", "truncated", "missing"])
def test_everything_that_is_not_whole_is_named(name: str, damage: str, tmp_path: Path) -> None:
    run = Folder(str(tmp_path / "runs/a"))
    make_run(run)
    file = tmp_path / "runs/a" / name
    data = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(data[:-3] if damage == "truncated" else bytes([data[0] ^ 1]) + data[1:])
    if (name, damage) == ("checkpoints/00000008/manifest.json", "missing"):
        assert problems(run.url) == [], "a checkpoint without a manifest does not exist"
        return
    (problem,) = problems(run.url)
    assert str(file) in problem
    assert "\n" not in problem


def test_a_missing_or_altered_whitening_is_a_problem_of_its_run(tmp_path: Path) -> None:
    run = Folder(str(tmp_path / "runs/a"))
    make_run(run)
    (file,) = (tmp_path / "runs/transforms").iterdir()
    file.write_bytes(b"")
    (problem,) = problems(run.url)
    assert problem == f"{file}: expected sha256 {file.stem}, got {digest(b'').sha256}: the file has been altered"
    file.unlink()
    (problem,) = problems(run.url)
    assert f"{file.name} of {run.url}/distilled is missing" in problem


def test_altered_shards_are_named_each(shards: Folder, tmp_path: Path) -> None:
    (tmp_path / "shards/shard-000000.tar").write_bytes(b"")
    (problem,) = problems(shards.url)
    assert problem.startswith(f"{shards.url}/shard-000000.tar: expected ")
