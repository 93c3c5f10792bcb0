"""Compress, then recall: tasks are streamed once, and what is kept of all of them never exceeds a budget of bytes.

Deng & Russakovsky, "Remember the Past: Distilling Datasets into Addressable Memories for Neural Networks", NeurIPS 2022, on the
streams of continual meta-learning (rotated and permuted MNIST, many permutations, incremental classes). The paper gives the
scheme in a few sentences; where it leaves something open this is raydd's design:

- The stream. Each of T tasks has about `images` training images, which come once, in a keyed order, in mini-batches of `batch`.
  Rotations: task t of 0 to T-1 is turned by 180 t / T degrees. Permutations: by a keyed order of the pixels each, the first one
  unchanged. Both cut the training images into disjoint parts. Classes: the classes in the order of
  `numpy.random.RandomState(0)`, as many a task as can be.
- What is kept. A budget of B bytes, of which every finished task owns B / T. During task t the t finished ones have their shares,
  and the rest, (T - t) B / T, is the buffer of the task at hand: it shrinks by 1/T a finished task. The images of a mini-batch
  go into it one by one by reservoir sampling, class by class with equal room, as pixels of a byte with a label of eight; then
  the mini-batch is gone. At the end of a task the buffer is compressed: a set is distilled from the images in it, and from
  no others, in at most B / T bytes; then the buffer is gone. Not counted are the mini-batch at hand and what works on the
  compression: networks, gradients, and the set in the making.
- The random memory has the same buffer, of which it keeps as many images, the same number of each class, as B / T bytes hold.
- Recall. Tasks are known at test time. For each task networks are trained from scratch on what is kept of it, by the protocol,
  and scored on the task's test split. Retained accuracy is the mean over tasks, at the end of the stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from raydd.apps.bench import Bench
from raydd.apps.continual.arms import BASELINES, line, pair, titles
from raydd.apps.continual.classes import cut
from raydd.apps.memory import real_set
from raydd.config.apps import StreamSection
from raydd.data.index import load_index
from raydd.data.reader import RealData
from raydd.data.views import View
from raydd.distilled import DistilledSet
from raydd.errors import ConfigError
from raydd.evaluate.request import real_bytes
from raydd.report.findings import Figure, Findings, Grid, Line, Sheet
from raydd.seeding import generator
from raydd.store import Folder

RESERVOIR = "random, same budget"
MOST_COLUMNS = 10
NOTES = (
    "The buffer of the task at hand counts against the budget. It holds real images at a byte a pixel, and the finished tasks' "
    "memories are counted as they are stored: float32 images or bases and addresses, with their labels.",
    "The paper counts its buffer in images, says little about it, and reports several runs; here bytes are counted.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task of the stream, packed.

    Attributes:
        name: What tells it apart.
        train: URL of the images that are streamed.
        test: URL of its test split.
    """

    name: str
    train: str
    test: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Bytes that are kept after a mini-batch, or after a task was compressed: of the buffer, and of finished tasks."""

    buffer: int
    finished: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What is left of a task, and what was held on the way.

    Attributes:
        ds: The memory.
        moments: After each of its mini-batches, and after its compression.
    """

    ds: DistilledSet
    moments: tuple[Moment, ...]


def run(bench: Bench, app: StreamSection) -> Findings:
    """Return what is retained of a stream by each memory."""
    tasks = _tasks(bench, app)
    names = titles(bench.config.methods)
    memories: dict[str, list[Kept]] = {name: [] for name in [*names, RESERVOIR]}
    for t, task in enumerate(tasks):
        real = RealData(task.train)
        room = buffer_bytes(app.budget, app.tasks, t)
        states = list(_buffers(bench, app, real, t, room))
        buffered = _packed_buffer(bench, app, task, t, states[-1])
        for i, name in enumerate(names):
            ds = bench.distil(
                bench.config.methods[i], f"{i}-{bench.config.methods[i].name}-task{t + 1}", train=buffered
            )
            _check_share(app, i, ds)
            memories[name].append(_kept(ds, states, real, memories[name]))
        like = memories[names[0]][-1].ds
        drawn = _share_of(app, real, states[-1])
        ids = torch.tensor(sorted(drawn))
        memories[RESERVOIR].append(
            _kept(real_set(like, real.images(ids), real.labels[ids]), states, real, memories[RESERVOIR])
        )
    marks = {name: _marks(bench, tasks, [kept.ds for kept in parts]) for name, parts in memories.items()}
    if "whole" in bench.config.evaluate.baselines:
        likes = [kept.ds for kept in memories[names[0]]]
        whole = [_everything(like, task) for like, task in zip(likes, tasks, strict=True)]
        marks[BASELINES["whole"]] = _marks(bench, tasks, whole)
    return _findings(bench, app, tasks, memories, marks)


def buffer_bytes(budget: int, tasks: int, finished: int) -> int:
    """Return the bytes that are free for the task at hand when some tasks have taken their share of the budget."""
    return budget - finished * (budget // tasks)


def reservoirs(labels: Tensor, quota: int, batch: int, gen: torch.Generator) -> Iterator[dict[int, list[int]]]:
    """Stream images once and yield what is kept after each mini-batch: by class, the places of at most `quota` images.

    Within a class this is Vitter's algorithm R: after n images of it each was kept with probability `quota / n`.

    Args:
        labels: int64 (n,), in the order of the stream.
        quota: Room for each class.
        batch: Images of a mini-batch.
        gen: The draws.
    """
    kept: dict[int, list[int]] = {}
    seen: dict[int, int] = {}
    for rows in torch.arange(len(labels)).split(batch):
        for row, label in zip(rows.tolist(), labels[rows].tolist(), strict=True):
            seen[label] = seen.get(label, 0) + 1
            of_class = kept.setdefault(label, [])
            if len(of_class) < quota:
                of_class.append(row)
            elif (place := int(torch.randint(seen[label], (), generator=gen))) < quota:
                of_class[place] = row
        yield {label: list(of_class) for label, of_class in kept.items()}


def _tasks(bench: Bench, app: StreamSection) -> list[Task]:
    """Pack the tasks' images."""
    train, test = load_index(Folder(bench.train)), load_index(Folder(bench.test))
    if app.stream == "classes":
        parts = cut(bench.classes, app.tasks, 1)[0]
        views = [(", ".join(part), {"classes": list(part)}) for part in parts]
        counts = [sum(int(train.counts[train.classes.index(name)]) for name in part) for part in parts]
        pieces = [max(1, round(count / app.images)) for count in counts]
        places = [(0, n) for n in pieces]
    else:
        changes = [_change(app, t) for t in range(app.tasks)]
        classes = {} if bench.config.data.classes == "all" else {"classes": list(bench.classes)}
        views = [(name, {**classes, **change}) for name, change in changes]
        count = sum(int(train.counts[train.classes.index(name)]) for name in bench.classes)
        n = max(app.tasks, round(count / app.images))
        places = [(t, n) for t in range(app.tasks)]
    del test
    found = []
    for t, ((name, view), part) in enumerate(zip(views, places, strict=True)):
        shown = View(of=bench.train, part=part if part[1] > 1 else None, seed=bench.config.seed, **view)
        tested = View(of=bench.test, **view)
        found.append(
            Task(
                name=name,
                train=bench.pack(shown.source, f"task{t + 1}-train"),
                test=bench.pack(tested.source, f"task{t + 1}-test", split="test"),
            )
        )
    return found


def _change(app: StreamSection, t: int) -> tuple[str, dict[str, float]]:
    if app.stream == "permutations":
        return f"order {t}", {"permute": t}
    angle = 180 * t / app.tasks
    return f"{angle:g} degrees", {"rotate": angle}


def _buffers(bench: Bench, app: StreamSection, real: RealData, t: int, room: int) -> Iterator[list[int]]:
    """Yield the ids in the buffer after each mini-batch of a task."""
    each, classes = real_bytes(real.shape), real.num_classes
    quota = room // each // classes
    if app.budget // app.tasks // each < classes:
        raise ConfigError(
            f"app.budget must give each of {app.tasks} tasks room for a real image of each of its {classes} classes, "
            f"{app.tasks * classes * each} bytes, got {app.budget}"
        )
    order = torch.randperm(len(real), generator=generator(bench.config.seed, "stream", t))
    for kept in reservoirs(real.labels[order], quota, app.batch, generator(bench.config.seed, "reservoir", t)):
        yield [int(order[place]) for label in sorted(kept) for place in kept[label]]


def _packed_buffer(bench: Bench, app: StreamSection, task: Task, t: int, ids: list[int]) -> str:
    """Return the shards of the images in the buffer, which is all that a set is distilled from."""
    return bench.pack(View(of=task.train, ids=sorted(ids)).source, f"task{t + 1}-buffer")


def _check_share(app: StreamSection, i: int, ds: DistilledSet) -> None:
    share = app.budget // app.tasks
    if ds.storage_bytes > share:
        raise ConfigError(
            f"methods.{i}.ipc must make sets of at most {share} bytes, the share of each of {app.tasks} tasks in app.budget, got "
            f"{ds.storage_bytes}; lower it or raise app.budget to {ds.storage_bytes * app.tasks}"
        )


def _kept(ds: DistilledSet, states: list[list[int]], real: RealData, before: list[Kept]) -> Kept:
    """Return a memory with what was held after each mini-batch, and after the compression."""
    finished, each = sum(kept.ds.storage_bytes for kept in before), real_bytes(real.shape)
    held = [Moment(buffer=len(ids) * each, finished=finished) for ids in states]
    return Kept(ds=ds, moments=(*held, Moment(buffer=0, finished=finished + ds.storage_bytes)))


def _share_of(app: StreamSection, real: RealData, ids: list[int]) -> list[int]:
    """Return the ids of the buffer that a task's share holds, as many of each class."""
    quota = app.budget // app.tasks // real_bytes(real.shape) // real.num_classes
    # A class's images stand in the order of its reservoir, which is that of the shuffled stream.
    by_class: dict[int, list[int]] = {}
    for i in ids:
        by_class.setdefault(int(real.labels[i]), []).append(i)
    return [i for of_class in by_class.values() for i in of_class[:quota]]


def _everything(like: DistilledSet, task: Task) -> DistilledSet:
    real = RealData(task.train, classes=list(like.classes))
    return real_set(like, real.images(torch.arange(len(real))), real.labels)


def _marks(bench: Bench, tasks: list[Task], memories: list[DistilledSet]) -> list[list[float]]:
    """Return the percents of all networks on each task, trained from scratch on what is kept of it."""
    return [
        bench.evaluate([bench.request(ds)], test=task.test)[0].each for task, ds in zip(tasks, memories, strict=True)
    ]


def _findings(
    bench: Bench,
    app: StreamSection,
    tasks: list[Task],
    memories: dict[str, list[Kept]],
    marks: dict[str, list[list[float]]],
) -> Findings:
    retained = {name: pair([fmean(each) for each in zip(*of, strict=True)]) for name, of in marks.items()}
    each = {name: [pair(percents) for percents in of] for name, of in marks.items()}
    held = {name: [m for kept in parts for m in kept.moments] for name, parts in memories.items()}
    most = {name: max(m.buffer + m.finished for m in moments) for name, moments in held.items()}
    last = {name: moments[-1].finished for name, moments in held.items()}
    shown = [task.name for task in tasks] if len(tasks) <= MOST_COLUMNS else []
    rows = tuple(
        (name, last.get(name), most.get(name), retained[name], *(each[name] if shown else [])) for name in marks
    )
    grid = Grid(
        title="Retained accuracy",
        columns=("Memory", "bytes at the end", "bytes at most", "all tasks", *shown),
        rows=rows,
        note=f"Percent, mean and deviation over networks. The budget is {app.budget:,} bytes.",
    )
    curves = tuple(line(name, cells) for name, cells in each.items())
    return Findings(
        title=f"{bench.config.name}: compress, then recall",
        lead=f"{app.tasks} tasks ({app.stream}), streamed once in mini-batches of {app.batch}, in {app.budget:,} bytes.",
        grids=(grid,),
        figures=(
            Figure(title="Accuracy by task", lines=curves, xlabel="task", ylabel="accuracy, %"),
            Figure(title="Bytes held", lines=_held(app, held), xlabel="mini-batch", ylabel="bytes"),
        ),
        sheets=(_sheet(tasks, memories),),
        notes=NOTES,
        values={
            "retained": {name: list(cell) for name, cell in retained.items()},
            "tasks": {name: [list(cell) for cell in cells] for name, cells in each.items()},
            "bytes": {name: {"end": last[name], "most": most[name], "budget": app.budget} for name in memories},
        },
    )


def _held(app: StreamSection, held: dict[str, list[Moment]]) -> tuple[Line, ...]:
    lines = [
        Line(
            name=name,
            x=tuple(float(i) for i in range(len(moments))),
            y=tuple(float(m.buffer + m.finished) for m in moments),
        )
        for name, moments in held.items()
    ]
    ends = (0.0, max(line.x[-1] for line in lines))
    return (*lines, Line(name="budget", x=ends, y=(float(app.budget),) * 2))


def _sheet(tasks: list[Task], memories: dict[str, list[Kept]]) -> Sheet:
    rows = [
        (f"{name}: {task.name}", kept.ds.pixels().numpy())
        for name, parts in memories.items()
        for task, kept in list(zip(tasks, parts, strict=True))[:3]
    ]
    return Sheet(title="What is kept of the first tasks", rows=tuple(rows))
