"""Continual learning: what is kept when, arithmetic by hand, and applications on digits from end to end."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from raydd.apps import run_application
from raydd.apps.continual import pupil
from raydd.apps.continual.arms import titles
from raydd.apps.continual.classes import cut
from raydd.apps.continual.pupil import distilling
from raydd.apps.continual.stream import buffer_bytes, reservoirs
from raydd.apps.memory import bytes_of, check_within, remembered, rounded, together, widened
from raydd.config import APPS, methods, validate
from raydd.data.index import load_index
from raydd.errors import ConfigError
from raydd.evaluate import PROTOCOLS
from raydd.functional.losses import scaled_labels
from raydd.store import Folder
from raydd.watchers import Silent
from tests.sets import make_set

DIGIT = 8 * 8 + 8  # bytes of a real digit with its label


def config(store: Path, app: dict[str, Any], **changes: Any) -> Any:
    raw = {
        "name": "app",
        "data": {"train": "digits"},
        "net": {"width": 4, "depth": 1},
        "methods": [{"name": "dm", "ipc": 1, "rounds": 2, "real_batch": 8}],
        "engine": {"workers": 0},
        "store": str(store / "runs"),
        "evaluate": {"protocol": "rtp", "repeats": 2, "baselines": []},
        "app": app,
    }
    return validate(APPS["continual"], raw | changes, where="test")


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings of two epochs."""
    from dataclasses import replace

    rtp = PROTOCOLS["rtp"]
    monkeypatch.setitem(PROTOCOLS, "rtp", replace(rtp, training=replace(rtp.training, epochs=2)))


def test_the_published_orders_of_classes() -> None:
    classes = tuple("abcdefghij")
    first, second = cut(classes, 3, 2)
    # numpy.random.seed(0); numpy.random.permutation(10) is 2 8 4 9 1 6 7 3 0 5.
    assert first == [("c", "i", "e"), ("j", "b", "g"), ("h", "d", "a", "f")]
    assert sorted(name for step in second for name in step) == sorted(classes)
    assert second != first
    with pytest.raises(ConfigError, match=r"^app\.steps must be <= the number of classes \(10\), got 11$"):
        cut(classes, 11, 1)


def test_labels_of_a_step_become_those_of_all_classes() -> None:
    own = torch.tensor([1, 0])
    assert torch.allclose(widened(scaled_labels(own, 2), 1, 4), scaled_labels(own + 1, 4))
    # By hand: over 2 classes (0.5, -0.5) / sqrt(0.2); over 5 (0.8, -0.2, ...) / sqrt(0.5).
    row = widened(torch.tensor([[0.5, -0.5]]) / math.sqrt(0.2), 0, 5)
    assert torch.allclose(row, torch.tensor([[0.8, -0.2, -0.2, -0.2, -0.2]]) / math.sqrt(0.5))
    assert widened(torch.tensor([[0.25, 0.75]]), 2, 4).tolist() == [[0.0, 0.0, 0.25, 0.75]]


def test_a_memory_takes_what_its_parts_take() -> None:
    parts = [make_set(soft=False), make_set(soft=False)]
    memory = together(parts)
    assert memory.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7]
    assert memory.storage_bytes == 2 * 8 * (3 * 64 * 4 + 8)
    extras = {"bases": torch.zeros(2, 3, 4, 4), "addresses": torch.zeros(4, 2, 2)}
    addressed = together([make_set(soft=False, method="rtp", extras=extras)] * 3)
    assert addressed.is_memory
    assert addressed.storage_bytes == 3 * 4 * (2 * 48 + 16)


def test_images_of_a_byte_a_pixel() -> None:
    image = torch.tensor([[[[0.0, 255.0], [100.4, 100.6]]], [[[3.0, 3.0], [3.0, 3.0]]]])
    assert rounded(image).tolist() == [[[[0.0, 255.0], [100.0, 101.0]]], [[[3.0, 3.0], [3.0, 3.0]]]]
    ds = make_set(soft=False)
    kept = remembered(ds, "uint8")
    assert kept.storage_bytes == 8 * (3 * 64 + 8 + 8)
    steps = remembered(make_set(soft=False, method="dd", extras={"lr_inner": torch.ones(3, 2)}), "uint8")
    assert steps.storage_bytes == 8 * (3 * 64 + 8 + 8) + 3 * 2 * 4
    with pytest.raises(
        ConfigError, match=r"^methods\.0 may take 100 bytes, got \d+; lower its ipc, or raise app.budget"
    ):
        check_within(kept, 100, "methods.0")
    assert check_within(kept, kept.storage_bytes, "methods.0") is kept
    assert float((kept.images - ds.images).abs().max()) <= 4.0 / 255 / 2 + 1e-6
    assert remembered(ds, "float32") is ds
    # Real images are exact at a byte a pixel, whatever is said.
    real = remembered(make_set(soft=False, method="random"), "float32")
    assert real.storage_bytes == 8 * (3 * 64 + 8)
    assert torch.equal(real.images, ds.images)


@pytest.mark.parametrize(
    ("method", "keep", "expected"),
    [
        ({"name": "dm", "ipc": 2}, "float32", 20 * (256 + 8)),
        ({"name": "dm", "ipc": 2}, "uint8", 20 * (64 + 8 + 8)),
        ({"name": "random", "ipc": 2}, "float32", 20 * DIGIT),
        ({"name": "rtp", "ipc": 2}, "uint8", 20 * (256 + 8)),
        ({"name": "frepo", "ipc": 2}, "float32", 20 * (256 + 40)),
        ({"name": "frepo", "ipc": 2, "learn_labels": False}, "float32", 20 * (256 + 40)),
        ({"name": "dd", "ipc": 4, "inner_steps": 4}, "float32", 40 * (256 + 40) + 3 * 4 * 4),
    ],
)
def test_what_sets_take_at_most_is_known_beforehand(method: dict[str, Any], keep: str, expected: int) -> None:
    made = methods()[method["name"]].config.model_validate(method)
    assert bytes_of(made, (1, 8, 8), 10, keep) == expected


def test_a_reservoir_holds_its_room_and_every_image_alike() -> None:
    labels = torch.tensor([0, 1] * 20)
    counts = torch.zeros(40)
    for seed in range(300):
        states = list(reservoirs(labels, 5, 10, torch.Generator().manual_seed(seed)))
        assert [sum(map(len, state.values())) for state in states] == [10, 10, 10, 10]
        for done, state in enumerate(states, 1):
            places = [place for of in state.values() for place in of]
            assert max(places) < 10 * done
            assert len(set(places)) == len(places)
        assert all(int(labels[place]) == label for label, of in states[-1].items() for place in of)
        counts[[place for of in states[-1].values() for place in of]] += 1
    # Each of 20 images of a class is among its 5 with probability 1/4; five deviations are 0.125.
    assert float((counts / 300 - 0.25).abs().max()) < 0.125


def test_the_buffer_shrinks_by_its_share() -> None:
    assert [buffer_bytes(1000, 4, done) for done in range(4)] == [1000, 750, 500, 250]
    assert [buffer_bytes(10, 3, done) + done * 3 for done in range(3)] == [10, 10, 10]


def test_the_loss_of_distillation_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(9.0)]])
    target = torch.tensor([[0.0, 1.0, 0.5, 0.5]])
    # Softened by 2 the logits are those of (1/4, 3/4).
    hard, soft = -math.log(0.9), -0.5 * (math.log(0.25) + math.log(0.75))
    assert float(distilling(2, 1.0, 2.0)(logits, target)) == pytest.approx(hard + soft)
    assert float(distilling(2, 0.0, 2.0)(logits, target)) == pytest.approx(hard)


def test_names_tell_methods_apart() -> None:
    made = [
        methods()[name].config.model_validate({"name": name, "ipc": ipc}) for name, ipc in (("dm", 1), ("random", 2))
    ]
    assert titles(made) == ["dm", "random"]
    assert titles([made[0], made[0].model_copy(update={"ipc": 3}), made[0]]) == [
        "dm, ipc 1 (1)",
        "dm, ipc 3",
        "dm, ipc 1 (2)",
    ]


@pytest.mark.usefixtures("short")
def test_classes_end_to_end(tmp_path: Path) -> None:
    said = {"kind": "classes", "steps": 2, "orders": 2, "budget": 300}
    evaluate = {"protocol": "rtp", "repeats": 1, "baselines": ["random", "random@bytes"]}
    two = [{"name": "dm", "ipc": 1, "rounds": 2, "real_batch": 8}, {"name": "random", "ipc": 1}]
    found = run_application(
        "continual", config(tmp_path, said, evaluate=evaluate, methods=two), "auto", Silent()
    ).findings
    names = [
        "dm",
        "random, as many (as dm)",
        "random, as many bytes (as dm)",
        "random",
        "random, as many bytes (as random)",
    ]
    assert list(found["values"]["accuracy"]) == names, "random, as many, is the same beside both"
    taken = found["values"]["bytes"]
    assert taken["dm"] == [5 * 264, 10 * 264]
    assert taken["random"] == [5 * DIGIT, 10 * DIGIT]
    for name in names:
        assert all(size <= 300 * seen for size, seen in zip(taken[name], (5, 10), strict=True))
    assert [len(cells) for cells in found["values"]["orders"].values()] == [2] * 5
    # The mean over both orders is that of the networks of each.
    after, by_order = found["values"]["accuracy"]["dm"][-1][0], found["values"]["orders"]["dm"]
    assert after == pytest.approx((by_order[0][0] + by_order[1][0]) / 2)


STREAM = {"kind": "stream", "stream": "rotations", "tasks": 3, "images": 140, "budget": 3 * 10 * 4 * DIGIT}


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("kind", ["rotations", "classes"])
def test_a_stream_never_holds_more_than_its_budget(tmp_path: Path, kind: str) -> None:
    app = {**STREAM, "stream": kind}
    done = run_application("continual", config(tmp_path, app), "auto", Silent())
    values, figures = done.findings["values"], done.findings["figures"]
    held = {line["name"]: line["y"] for line in figures[1]["lines"]}
    assert all(size <= STREAM["budget"] for size in held["dm"] + held["random, same budget"])
    assert max(held["dm"]) == values["bytes"]["dm"]["most"]
    folder = Folder(done.url)
    buffers = [load_index(folder.folder("data", f"task{t}-buffer")) for t in (1, 2, 3)]
    streamed = [load_index(folder.folder("data", f"task{t}-train")) for t in (1, 2, 3)]
    assert all(index.counts.min() > 0 for index in buffers)
    if kind == "rotations":
        # Shares of four real digits a class; a set of one float image a class takes a little less.
        assert [index.counts.tolist() for index in buffers] == [[c] * 10 for c in (12, 8, 4)]
        assert values["bytes"] == {
            "dm": {"end": 3 * 10 * 264, "most": 120 * DIGIT, "budget": 8640},
            "random, same budget": {"end": 8640, "most": 8640, "budget": 8640},
        }
        batches = [math.ceil(len(index.label) / 10) for index in streamed]
        assert len(held["dm"]) == sum(batches) + 3


def test_a_stream_tells_what_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^app\.budget must give each of 3 tasks room for .* 2160 bytes in all, got 2000$"
    ):
        run_application("continual", config(tmp_path / "a", {**STREAM, "budget": 2000}), "auto", Silent())
    with pytest.raises(
        ConfigError, match=r"^methods\.0\.ipc must make sets of at most 1000 bytes.* raise app\.budget to 7920$"
    ):
        run_application("continual", config(tmp_path / "b", {**STREAM, "budget": 3000}), "auto", Silent())


TASKS = {"kind": "tasks", "tasks": ["digits", "digits"], "updates": 4, "finetune": 2, "batch": 16}


@pytest.fixture
def learned(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The repeats that were learned."""
    seen: list[int] = []
    real = pupil._learn_task

    def counting(*args: Any, task: int, **more: Any) -> Any:
        if task == 0:
            seen.append(len(seen))
        if len(seen) == 4:
            raise KeyboardInterrupt
        return real(*args, task=task, **more)

    monkeypatch.setattr(pupil, "_learn_task", counting)
    return seen


def test_tasks_go_on_where_they_stopped(tmp_path: Path, learned: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    # Its depth is filled by the data.
    evaluate = {"repeats": 2, "baselines": ["random@bytes"], "nets": [{"name": "convnet", "width": 4}]}
    first = config(tmp_path / "a", TASKS, evaluate=evaluate, data={})
    with pytest.raises(KeyboardInterrupt):
        run_application("continual", first, "auto", Silent())
    learned[:] = range(10)
    gone_on = run_application("continual", first, "must", Silent())
    assert len(learned) - 10 == 3, "three of six were done before"
    whole = run_application("continual", config(tmp_path / "b", TASKS, evaluate=evaluate, data={}), "never", Silent())
    assert whole.findings == gone_on.findings
    values = whole.findings["values"]
    assert values["bytes"] == {"dm": 2 * 2640, "random, as many bytes": 2 * 36 * DIGIT, "no memory": 0}
    assert list(values["accuracy"]) == ["dm", "random, as many bytes", "no memory"]


def test_tasks_that_do_not_fit_each_other(tmp_path: Path) -> None:
    from raydd.data.pack import pack

    for split in ("train", "test"):
        pack("digits", str(tmp_path / split), split=split, size=12)
    app = {**TASKS, "tasks": ["digits", str(tmp_path / "train")]}
    with pytest.raises(ConfigError, match=r"^app\.tasks\.1 needs a test split, got none; name it in app\.tests$"):
        run_application("continual", config(tmp_path, app, data={}), "auto", Silent())
    app = {**app, "tests": ["digits", str(tmp_path / "test")], "updates": 5}
    with pytest.raises(ConfigError, match=r"^app\.tasks\.1 must have images of 8 pixels, .* got 12; set data\.size$"):
        run_application("continual", config(tmp_path, app, data={}), "auto", Silent())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"app": {"kind": "best"}}, "app.kind must be one of classes, tasks, stream, got 'best'"),
        ({"app": {"steps": 0}}, "app.steps must be >= 1, got 0"),
        ({"app": {"kind": "stream"}}, "app.budget is required but missing"),
        ({"app": {"kind": "stream", "budget": 9, "steps": 2}}, "app.steps is not a known key"),
        ({"app": TASKS, "data": {"train": "other"}}, "data.train must be left out, since app.tasks names the data"),
        ({"app": {**TASKS, "tests": ["digits"]}}, "app.tests must name a test split for each of 2 tasks, got 1"),
        (
            {"app": {}, "evaluate": {"baselines": ["herding"]}},
            "evaluate.baselines must be out of random, random@bytes, whole for app.kind classes, got 'herding'",
        ),
        ({"app": {}, "methods": [{"name": "dd"}], "evaluate": {}}, "methods.0.name: steps learned for one part"),
        (
            {"app": STREAM, "methods": [{"name": "rtp", "address": "image"}]},
            "methods.0 (rtp) must be a set for any network and nothing else, got one that keeps a network with it; say address",
        ),
        (
            {"app": STREAM, "methods": [{"name": "dm"}, {"name": "dd", "net_init": "fixed"}]},
            "methods.1 (dd) must be a set for any network and nothing else, got one that keeps a network with it; say net_init",
        ),
        ({"app": {}, "evaluate": {"repeats": 0}}, "evaluate.repeats must be >= 1, got 0"),
        (
            {"app": {}, "evaluate": {"nets": ["convnet", "lenet"]}},
            "evaluate.nets must be auto or one network here, got 2",
        ),
        ({"app": STREAM, "evaluate": {"protocol": "fair"}}, "evaluate.protocol must choose nothing on training images"),
    ],
)
def test_mistakes_name_the_key(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(tmp_path, **changes)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
