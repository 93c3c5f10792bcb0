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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from raydd.apps.bench import Bench
from raydd.apps.continual.arms import BASELINES, line, titles
from raydd.apps.continual.classes import cut, image_shape
from raydd.apps.memory import bytes_of, check_within, real_set, remembered
from raydd.config import MethodConfig
from raydd.config.apps import StreamSection
from raydd.data.index import load_index
from raydd.data.reader import RealData
from raydd.data.views import View
from raydd.distilled import DistilledSet
from raydd.errors import ConfigError
from raydd.evaluate.request import real_bytes
from raydd.report.findings import Figure, Findings, Grid, Line, Sheet, pair
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
class Streamed:
    """A task that has come to its end.

    Attributes:
        real: Its images.
        states: The ids in the buffer after each mini-batch.
        buffer: Shards of what was in the buffer at the end.
    """

    real: RealData
    states: list[list[int]]
    buffer: str


def run(bench: Bench, app: StreamSection) -> Findings:
    """Return what is retained of a stream by each memory."""
    if app.stream == "classes" and app.tasks > len(bench.classes):
        raise ConfigError(f"app.tasks must be <= the number of classes ({len(bench.classes)}), got {app.tasks}")
    largest = -(-len(bench.classes) // app.tasks) if app.stream == "classes" else len(bench.classes)
    check_shares(bench.config.methods, app, image_shape(bench.train), largest)
    tasks = _tasks(bench, app)
    streamed = [_stream(bench, app, task, t) for t, task in enumerate(tasks)]
    memories = {
        name: [_compressed(bench, app, i, t, each.buffer) for t, each in enumerate(streamed)]
        for i, name in enumerate(titles(bench.config.methods))
    }
    likes = next(iter(memories.values()))
    memories[RESERVOIR] = [_drawn(app, like, each) for like, each in zip(likes, streamed, strict=True)]
    held = {name: _held(sets, streamed) for name, sets in memories.items()}
    marks = {name: _marks(bench, tasks, sets) for name, sets in memories.items()}
    if "whole" in bench.config.evaluate.baselines:
        everything = [real_set(like, *_all(each.real)) for like, each in zip(likes, streamed, strict=True)]
        marks[BASELINES["whole"]] = _marks(bench, tasks, everything)
    return _findings(bench, app, tasks, memories, held, marks)


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
    train = load_index(Folder(bench.train))
    sizes = {name: int(count) for name, count in zip(train.classes, train.counts, strict=True)}
    found = []
    for t in range(app.tasks):
        name, view = _view(bench, app, t)
        pieces = round(sum(sizes[str(each)] for each in view.classes or bench.classes) / app.images)
        cut_in = max(1, pieces) if app.stream == "classes" else max(app.tasks, pieces)
        part = (0 if app.stream == "classes" else t, cut_in)
        shown = view.model_copy(update={"part": part, "seed": bench.config.seed})
        tested = view.model_copy(update={"of": bench.test})
        urls = (
            bench.pack(shown.source, f"task{t + 1}-train"),
            bench.pack(tested.source, f"task{t + 1}-test", split="test"),
        )
        found.append(Task(name=name, train=urls[0], test=urls[1]))
    return found


def _view(bench: Bench, app: StreamSection, t: int) -> tuple[str, View]:
    """Return a task's name, and what it makes of all training images."""
    if app.stream == "classes":
        names = list(cut(bench.classes, app.tasks, 1)[0][t])
        return ", ".join(names), View(of=bench.train, classes=names)
    chosen = None if bench.config.data.classes == "all" else list(bench.classes)
    if app.stream == "permutations":
        return f"order {t}", View(of=bench.train, classes=chosen, permute=t)
    angle = 180 * t / app.tasks
    return f"{angle:g} degrees", View(of=bench.train, classes=chosen, rotate=angle)


def _stream(bench: Bench, app: StreamSection, task: Task, t: int) -> Streamed:
    """Let a task's images come once, and pack what the buffer holds in the end: all that a set is distilled from."""
    real, seed = RealData(task.train), bench.config.seed
    quota = buffer_bytes(app.budget, app.tasks, t) // real_bytes(real.shape) // real.num_classes
    order = torch.randperm(len(real), generator=generator(seed, "stream", t))
    kept = reservoirs(real.labels[order], quota, app.batch, generator(seed, "reservoir", t))
    states = [[int(order[place]) for label in sorted(of) for place in of[label]] for of in kept]
    view = View(of=task.train, ids=sorted(states[-1]))
    return Streamed(real=real, states=states, buffer=bench.pack(view.source, f"task{t + 1}-buffer"))


def _compressed(bench: Bench, app: StreamSection, i: int, t: int, buffer: str) -> DistilledSet:
    method = bench.config.methods[i]
    kept = remembered(bench.distil(method, f"{i}-{method.name}-task{t + 1}", train=buffer), app.keep)
    return check_within(kept, app.budget // app.tasks, f"methods.{i} ({method.name}) of task {t + 1}")


def _drawn(app: StreamSection, like: DistilledSet, streamed: Streamed) -> DistilledSet:
    """Return the images of the buffer that a task's share holds: as many of each class, what is left to the first ones."""
    real = streamed.real
    each, rest = divmod(app.budget // app.tasks // real_bytes(real.shape), real.num_classes)
    labels = real.labels[streamed.states[-1]].tolist()
    # The images of a class stand as its reservoir has them: any of its places is as good as any other.
    places = [i for i, label in enumerate(labels) if labels[:i].count(label) < each + (label < rest)]
    ids = torch.tensor(streamed.states[-1])[places]
    return real_set(like, real.images(ids), real.labels[ids])


def _all(real: RealData) -> tuple[Tensor, Tensor]:
    return real.images(torch.arange(len(real))), real.labels


def _held(sets: list[DistilledSet], streamed: list[Streamed]) -> list[Moment]:
    """Return what was held after each mini-batch, and after each task's compression."""
    found, finished = [], 0
    for ds, each in zip(sets, streamed, strict=True):
        size = real_bytes(each.real.shape)
        found += [Moment(buffer=len(ids) * size, finished=finished) for ids in each.states]
        finished += ds.storage_bytes
        found.append(Moment(buffer=0, finished=finished))
    return found


def check_shares(methods: list[MethodConfig], app: StreamSection, shape: tuple[int, ...], classes: int) -> None:
    """Check that a task's share of the budget holds a real image of each class, and every method's sets.

    Args:
        methods: The fillers.
        app: What says the budget.
        shape: (C, H, W) of an image.
        classes: Of the largest task.

    Raises:
        ConfigError: When not.
    """
    share, least = app.budget // app.tasks, classes * real_bytes(shape)
    if share < least:
        raise ConfigError(
            f"app.budget must give each of {app.tasks} tasks room for a real image of each of {classes} classes, "
            f"{app.tasks * least} bytes in all, got {app.budget}"
        )
    for i, method in enumerate(methods):
        taken = bytes_of(method, shape, classes, app.keep)
        if taken > share:
            raise ConfigError(
                f"methods.{i}.ipc must make sets of at most {share} bytes, the share of each of {app.tasks} tasks in app.budget, "
                f"got {method.ipc}, which takes up to {taken}; lower it, or raise app.budget to {taken * app.tasks}"
            )


def _marks(bench: Bench, tasks: list[Task], memories: Sequence[DistilledSet]) -> list[list[float]]:
    """Return the percents of all networks on each task, trained from scratch on what is kept of it."""
    return [
        bench.evaluate([bench.request(ds)], test=task.test)[0].each for task, ds in zip(tasks, memories, strict=True)
    ]


def _findings(
    bench: Bench,
    app: StreamSection,
    tasks: list[Task],
    memories: dict[str, list[DistilledSet]],
    held: dict[str, list[Moment]],
    marks: dict[str, list[list[float]]],
) -> Findings:
    retained = {name: pair([fmean(each) for each in zip(*of, strict=True)]) for name, of in marks.items()}
    each = {name: [pair(percents) for percents in of] for name, of in marks.items()}
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
            Figure(title="Bytes held", lines=_bytes(app, held), xlabel="mini-batch", ylabel="bytes"),
        ),
        sheets=(_sheet(tasks, memories),),
        notes=NOTES,
        values={
            "retained": {name: list(cell) for name, cell in retained.items()},
            "tasks": {name: [list(cell) for cell in cells] for name, cells in each.items()},
            "bytes": {name: {"end": last[name], "most": most[name], "budget": app.budget} for name in memories},
        },
    )


def _bytes(app: StreamSection, held: dict[str, list[Moment]]) -> tuple[Line, ...]:
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


def _sheet(tasks: list[Task], memories: dict[str, list[DistilledSet]]) -> Sheet:
    rows = [
        (f"{name}: {task.name}", ds.pixels().numpy())
        for name, sets in memories.items()
        for task, ds in list(zip(tasks, sets, strict=True))[:3]
    ]
    return Sheet(title="What is kept of the first tasks", rows=tuple(rows))
