"""The verbs of `raydd`. Each reads its words, calls one function of the library, and prints what came of it.

Exit codes: 0 done; 2 the user's mistake, told in one line; 1 anything else; 130 Ctrl-C; 143 SIGTERM.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from raydd.errors import RaydError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raydd.evaluate import Accuracy

app = typer.Typer(
    help="Distil a large labelled image set into a small synthetic one that trains networks nearly as well.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigFile = Annotated[str, typer.Argument(metavar="CONFIG", help="a YAML file, at a path or any fsspec URL")]
SetUrl = Annotated[str, typer.Argument(metavar="SET", help="a run or a distilled set, at any fsspec URL")]
AnyUrl = Annotated[str, typer.Argument(metavar="RUN|SET|SHARDS", help="at any fsspec URL")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="change a key, as in method.ipc=10")
]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object, alone, on stdout")]


@app.command()
def pack(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="such as digits or mnist:ROOT; see `raydd datasets`")],
    dest: Annotated[str, typer.Argument(metavar="DEST", help="folder for shards and index, at any fsspec URL")],
    size: Annotated[
        int | None, typer.Option(help="resize to this many pixels; must be given for images of mixed sizes")
    ] = None,
    shard_mb: Annotated[int, typer.Option(help="nominal size of a shard")] = 64,
    split: Annotated[str, typer.Option(help="train, test, or the data set's own name for a split")] = "train",
    workers: Annotated[int | None, typer.Option(help="processes; by default one a core")] = None,
    as_json: Json = False,
) -> None:
    """Pack a data set into WebDataset shards and an index; goes on where it was interrupted."""
    import os

    from raydd.catalogue import show as facts_of
    from raydd.data.pack import pack as run
    from raydd.terminal import Terminal

    terminal = Terminal()
    try:
        workers = workers if workers is not None else os.cpu_count() or 1
        run(source, dest, split=split, size=size, shard_mb=shard_mb, workers=workers, progress=terminal.packing)
    finally:
        terminal.close()
    _facts(facts_of(dest), as_json)


@app.command()
def distill(
    config: ConfigFile,
    overrides: Overrides = None,
    resume: Annotated[
        Literal["auto", "never", "must"],
        typer.Option(help="auto: go on with a run that exists; never: refuse it; must: refuse a new one"),
    ] = "auto",
    as_json: Json = False,
) -> None:
    """Distil a data set, evaluate the result, and write a report; the same command goes on where it was stopped."""
    from raydd.config import load_config

    # A mistake in the config is told before torch is loaded.
    said = load_config(config, overrides or ())
    from raydd import api
    from raydd.terminal import Terminal

    terminal = Terminal()
    try:
        run = api.distill(said, resume=resume, watcher=terminal)
    finally:
        terminal.close()
    status = run.status()
    if as_json:
        accuracy = {a.of: _accuracy(a) for a in reversed(run.accuracies)}
        facts = {"run": run.url, "artifact": run.artifact, "report": run.report, "picture": run.picture}
        _print_json({**facts, "rounds": status["round"], "seconds": status["seconds"], "accuracy": accuracy})
        return
    _table(run.accuracies)
    print_line(f"artifact  {run.artifact}")
    print_line(f"picture   {run.picture}")
    print_line(f"report    {run.report}")


@app.command()
def evaluate(
    urls: Annotated[list[str], typer.Argument(metavar="SET...", help="runs or distilled sets, at any fsspec URLs")],
    test: Annotated[str, typer.Option(help="packed test shards, or a SOURCE whose test split is packed first")],
    train: Annotated[
        str | None, typer.Option(help="packed training shards or a SOURCE, for baselines and choices")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="see `raydd protocols`; by default the one of the set's method")
    ] = None,
    nets: Annotated[
        str | None, typer.Option(help="such as convnet,frepo_convnet; options as convnet:width=64:norm=batch")
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(metavar="OPTION=V,V", help="vary the networks, as in --grid width=32,64 --grid norm=none,batch"),
    ] = None,
    predictors: Annotated[str, typer.Option(help="out of train,krr,knn: networks, regression on features, pixels")] = (
        "train"
    ),
    repeats: Annotated[int, typer.Option(help="networks trained")] = 5,
    baselines: Annotated[
        str, typer.Option(help="out of random,random@bytes,whole and the coresets, such as herding,kmeans")
    ] = "",
    robust: Annotated[
        bool, typer.Option("--robust", help="the label-robust and the augmentation-robust score")
    ] = False,
    seed: Annotated[int, typer.Option(help="names initialisations, orders and augmentations")] = 0,
    workers: Annotated[int, typer.Option(help="processes on Ray; 0: this process")] = 0,
    threads: Annotated[int, typer.Option(help="torch threads of each; part of the numerics")] = 1,
    gpus: Annotated[
        float | None, typer.Option(help="GPUs of each; by default one if this process works and sees one, else none")
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="keeps finished networks until all are; default: evaluations; '': none"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train networks from scratch on distilled sets and score them on a test split."""
    from raydd import api
    from raydd.evaluate import parse_grid, robustness
    from raydd.terminal import Terminal

    # Commas part networks, so a network's own options are parted by colons here.
    named = [net.replace(":", ",").replace(",", ":", 1) for net in nets.split(",")] if nets else None
    terminal = Terminal()
    try:
        results = api.evaluate(
            urls,
            test=test,
            train=train,
            protocol=protocol,
            nets=named,
            grid=parse_grid(grid or ()),
            repeats=repeats,
            baselines=[name for name in baselines.split(",") if name],
            predictors=[name for name in predictors.split(",") if name],
            robust=robust,
            seed=seed,
            workers=workers,
            threads=threads,
            gpus=gpus,
            keep=_keep(keep, workers),
            record=True,
            watcher=terminal,
        )
    finally:
        terminal.close()
    scores = robustness(results) if robust else []
    if as_json:
        more = {"robust": [score.to_json() for score in scores]} if robust else {}
        _print_json({"results": [_result(a) for a in results], **more})
        return
    _table(results)
    for score in scores:
        print_line(f"{score.set}: label-robust score {score.lrs:.3f}, augmentation-robust score {score.ars:.3f}")


@app.command()
def train(
    data: Annotated[
        str, typer.Argument(metavar="SET|SHARDS", help="a run, a distilled set or packed shards; or a SOURCE to pack")
    ],
    net: Annotated[
        str, typer.Option(help="such as resnet18, convnet:width=64,norm=batch, torchvision:resnet18, timm:NAME")
    ],
    test: Annotated[str | None, typer.Option(help="packed test shards, or a SOURCE, to score it on at the end")] = None,
    workers: Annotated[int, typer.Option(help="processes of Ray Train; 0: this process")] = 0,
    epochs: Annotated[
        int | None, typer.Option(help="by default 20 for shards, and for a set as many as make 1000 updates")
    ] = None,
    batch: Annotated[int | None, typer.Option(help="images an update, of all workers together; by default 256")] = None,
    lr: Annotated[float | None, typer.Option(help="learning rate; by default 0.01, or 0.001 for Adam")] = None,
    seed: Annotated[int, typer.Option(help="names initial weights, orders and augmentations")] = 0,
    name: Annotated[str | None, typer.Option(help="the run's folder; by default by data and network")] = None,
    store: Annotated[str, typer.Option(help="folder of runs, at any fsspec URL")] = "runs",
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="more, as in optimiser=adam or engine.gpus_per_worker=1"),
    ] = None,
    resume: Annotated[
        Literal["auto", "never", "must"],
        typer.Option(help="auto: go on with a run that exists; never: refuse it; must: refuse a new one"),
    ] = "auto",
    as_json: Json = False,
) -> None:
    """Train one network on a distilled set or on packed shards; the same command goes on where it was stopped."""
    from raydd import api
    from raydd.terminal import Terminal

    given = {"epochs": epochs, "batch": batch, "lr": lr, "name": name}
    terminal = Terminal()
    try:
        result = api.train(
            data,
            net,
            test=test,
            workers=workers,
            overrides=overrides or (),
            resume=resume,
            watcher=terminal,
            seed=seed,
            store=store,
            **{key: value for key, value in given.items() if value is not None},
        )
    finally:
        terminal.close()
    shown = ("run", "final", "accuracy", "loss", "updates", "images", "workers", "seconds")
    _facts({key: result[key] for key in shown if as_json or result[key] is not None}, as_json)


@app.command()
def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="runs, at any fsspec URLs")],
    compare: Annotated[
        bool, typer.Option("--compare", help="lay them side by side on one page, in the first one's folder")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write report.html of runs anew, or one page that compares them."""
    from raydd import api

    if compare:
        _facts({"report": api.compare(runs)}, as_json)
        return
    reports = [api.report(run) for run in runs]
    _facts({"report": reports[0]} if len(reports) == 1 else {"reports": reports}, as_json)


@app.command()
def pull(
    url: SetUrl, dest: Annotated[str, typer.Argument(metavar="DEST", help="a folder")], as_json: Json = False
) -> None:
    """Copy a distilled set, with all that it needs, to another folder; every byte is checked."""
    from raydd.catalogue import pull as run

    _facts({"set": run(url, dest)}, as_json)


@app.command()
def export(
    url: SetUrl,
    dest: Annotated[str, typer.Argument(metavar="DEST", help="a new or empty folder, at any fsspec URL")],
    format: Annotated[
        Literal["webdataset", "folder", "hf"],
        typer.Option(help="webdataset: tars; folder: PNG files, lossy; hf: for Hugging Face datasets"),
    ],
    as_json: Json = False,
) -> None:
    """Write a distilled set in the format of another tool."""
    from raydd import api
    from raydd.terminal import Terminal

    terminal = Terminal()
    try:
        done = api.export(url, dest, format, watcher=terminal)
    finally:
        terminal.close()
    facts = {"export": done.url, "format": done.format, "images": done.images, "files": done.files, "bytes": done.bytes}
    _facts({**facts, "lossy": done.lossy or ("" if as_json else "no")}, as_json)


@app.command()
def ls(
    store: Annotated[str, typer.Argument(metavar="STORE", help="a folder of runs")] = "runs", as_json: Json = False
) -> None:
    """List the runs of a store."""
    from raydd.catalogue import runs

    found = list(runs(store))
    if as_json:
        _print_json({"runs": found})
        return
    if not found:
        sys.stderr.write(f"no runs in {store}\n")
    for run in found:
        accuracy = ", ".join(f"{of} {mean}" for of, mean in run.get("accuracy", {}).items())
        print_line(
            f"{run['name']:30} {run['state']:10} {run.get('round', 0):>7}/{run.get('rounds', '?'):<7} {accuracy}".rstrip()
        )


@app.command()
def show(url: AnyUrl, as_json: Json = False) -> None:
    """Show the facts of a run (also while it goes on), a distilled set, or packed shards."""
    from raydd.catalogue import show as run
    from raydd.live import run_lines

    facts = run(url)
    if facts["kind"] == "run" and not as_json:
        facts = {"url": facts["url"], **dict(run_lines(facts))}
    _facts(facts, as_json)


@app.command()
def verify(url: AnyUrl, as_json: Json = False) -> None:
    """Read everything again and compare it with manifests and index."""
    from raydd.catalogue import problems
    from raydd.errors import IntegrityError

    found = problems(url)
    if as_json:
        _print_json({"url": url, "problems": found})
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise IntegrityError(f"{found[0]}{more}")
    if not as_json:
        print_line(f"{url} is whole")


@app.command()
def methods(as_json: Json = False) -> None:
    """List the methods."""
    from raydd.config import methods as known

    lines = {name: {"paper": m.paper, "learns": m.learns, "slots": m.slots} for name, m in known().items()}
    if as_json:
        _print_json({"methods": lines})
        return
    for name, line in lines.items():
        print_line(f"{name:10} learns {line['learns']}; slot: {line['slots']}; {line['paper']}")


@app.command()
def nets(as_json: Json = False) -> None:
    """List the networks."""
    from raydd.nets import available

    _list("nets", available(), as_json)


@app.command()
def datasets(as_json: Json = False) -> None:
    """List the kinds of SOURCE that can be packed."""
    from raydd.data.sources import SOURCES

    _list("datasets", {name: kind.help for name, kind in SOURCES.items()}, as_json)


@app.command()
def protocols(as_json: Json = False) -> None:
    """List the evaluation protocols."""
    from raydd.evaluate import PROTOCOLS

    _list("protocols", {name: protocol.summary for name, protocol in PROTOCOLS.items()}, as_json)


@app.command("config")
def config_command(method: Annotated[str, typer.Argument(metavar="METHOD", help="see `raydd methods`")]) -> None:
    """Print a complete, commented config to start from; it runs as it stands, on scikit-learn's digits."""
    from raydd.config.template import template

    sys.stdout.write(template(method))


@app.command()
def doctor(
    store: Annotated[str | None, typer.Option(help="a store that is to be written to and read from")] = None,
    as_json: Json = False,
) -> None:
    """Tell whether this machine, and a store, are fit."""
    from raydd.doctor import examine

    findings = examine(store)
    if as_json:
        _print_json({"findings": [{"what": what, "good": good, "detail": detail} for what, good, detail in findings]})
    else:
        for what, good, detail in findings:
            print_line(f"{'ok  ' if good else 'BAD '} {what:16} {detail}")
    if not all(good for _, good, _ in findings):
        raise typer.Exit(1)


def print_line(text: str) -> None:
    """Write a line to stdout."""
    sys.stdout.write(text + "\n")


def _print_json(value: dict[str, Any]) -> None:
    print_line(json.dumps(value))


def _facts(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        _print_json(facts)
        return
    for key, value in facts.items():
        if isinstance(value, list) and len(value) > 12:
            value = f"{', '.join(map(str, value[:10]))}, ... ({len(value)})"
        print_line(f"{key:18} {value}")


def _list(name: str, lines: dict[str, str], as_json: bool) -> None:
    if as_json:
        _print_json({name: lines})
        return
    for key, line in lines.items():
        print_line(f"{key:16} {line}")


def _accuracy(accuracy: Accuracy) -> dict[str, Any]:
    raw = accuracy.to_json()
    return {key: raw[key] for key in ("mean", "std", "repeats", "protocol", "net")}


def _keep(said: str | None, workers: int) -> str | None:
    """Return where finished networks are kept: in the working directory, unless it is not ours or not the workers'."""
    import os

    if said is not None:
        return said or None
    elsewhere = bool(workers and os.environ.get("RAY_ADDRESS"))
    return "evaluations" if os.access(".", os.W_OK) and not elsewhere else None


def _result(accuracy: Accuracy) -> dict[str, Any]:
    """Return all of an accuracy but the single repeats."""
    return {key: value for key, value in accuracy.to_json().items() if key != "each"}


def _table(accuracies: tuple[Accuracy, ...] | list[Accuracy]) -> None:
    from raydd.evaluate import arrange

    several = len({a.set for a in accuracies}) > 1
    for a in accuracies:
        particulars = [*_particulars(a), *([str(a.set)] if several else [])]
        print_line(f"{a.of:12} {a.mean:6.2f} +- {a.std:4.2f} %  {', '.join(particulars)}")
    table = arrange(accuracies)
    if len(table.columns) > 1 and len({a.set for a in accuracies} | {a.net for a in accuracies}) > 2:
        print_line("")
        for line in table.lines():
            print_line(line)
    for note in dict.fromkeys(a.note for a in accuracies if a.note):
        print_line(f"note: {note}")


def _particulars(a: Accuracy) -> Iterator[str]:
    """Yield whatever else a reader of an accuracy must know, in few words."""
    yield f"{a.images} images, {a.storage_bytes} bytes"
    if a.images_per_class is not None and a.stored_images_per_class is not None:
        yield f"{a.images_per_class:g} a class ({a.stored_images_per_class:.3g} by storage)"
    yield f"{a.repeats} x {a.net}" if a.net else f"{a.repeats} x"
    yield f"protocol {a.protocol}"
    if a.predictor != "train":
        yield a.predictor
    if a.lr is not None:
        yield f"rate {a.lr:g}"
        yield "augmented" if a.augment else "not augmented"
    if a.labels == "soft":
        yield "soft labels"


_received: list[int] = []


def _on_signal(number: int, _: object) -> None:
    # Ray lets no other exception than this out of a wait.
    _received.append(number)
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line and exit."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("raydd").setLevel(logging.INFO)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _on_signal)
    try:
        app()
    except RaydError as error:
        sys.stderr.write(f"raydd: {error}\n")
        sys.exit(error.exit_code)
    except (SystemExit, KeyboardInterrupt):
        if not _received:
            raise
        sys.stderr.write("raydd: interrupted; the same command goes on from the last checkpoint\n")
        sys.exit(128 + _received[0])
