"""The verbs that do something."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from raydd.cli.printing import brief, print_facts, print_json, print_line, print_table, without_repeats
from raydd.cli.words import ConfigFile, Json, Overrides, Resume, SetUrl, app
from raydd.errors import UserError


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
    download: Annotated[
        bool, typer.Option("--download", help="fetch the files into ROOT first; `raydd datasets` says of which kinds")
    ] = False,
    as_json: Json = False,
) -> None:
    """Pack a data set into WebDataset shards and an index; goes on where it was interrupted."""
    import os

    from raydd.catalogue import show as facts_of
    from raydd.data.pack import pack as run
    from raydd.terminal import Terminal

    if download:
        from raydd.data.download import download as fetch

        fetch(source, split)
    terminal = Terminal()
    try:
        workers = workers if workers is not None else os.cpu_count() or 1
        run(source, dest, split=split, size=size, shard_mb=shard_mb, workers=workers, progress=terminal.packing)
    finally:
        terminal.close()
    print_facts(facts_of(dest), as_json)


@app.command()
def distill(
    config: ConfigFile,
    overrides: Overrides = None,
    resume: Resume = "auto",
    estimate: Annotated[
        bool, typer.Option("--estimate", help="tell hours, memory and storage; start nothing and write nothing")
    ] = False,
    price: Annotated[
        float | None, typer.Option(min=0, help="with --estimate: dollars an hour and worker; tells the cost")
    ] = None,
    as_json: Json = False,
) -> None:
    """Distil a data set, evaluate the result, and write a report; the same command goes on where it was stopped."""
    from raydd.config import load_config

    if price is not None and not estimate:
        raise UserError("--price tells what an estimate costs, got no --estimate; give both, or leave --price out")
    # A mistake in the config is told before torch is loaded.
    said = load_config(config, overrides or ())
    if estimate:
        from raydd.estimate import estimate as foretell

        found = foretell(said, price)
        print_facts(found.to_json() if as_json else found.lines(), as_json)
        return
    from raydd import api
    from raydd.terminal import Terminal

    terminal = Terminal()
    try:
        run = api.distill(said, resume=resume, watcher=terminal)
    finally:
        terminal.close()
    status = run.status()
    if as_json:
        accuracy = {a.of: brief(a) for a in reversed(run.accuracies)}
        facts = {"run": run.url, "artifact": run.artifact, "report": run.report, "picture": run.picture}
        results = [without_repeats(a) for a in run.accuracies]
        done = {"rounds": status["round"], "seconds": status["seconds"]}
        print_json({**facts, **done, "accuracy": accuracy, "results": results})
        return
    print_table(run.accuracies)
    print_line(f"artifact  {run.artifact}")
    print_line(f"picture   {run.picture}")
    print_line(f"report    {run.report}")


@app.command()
def evaluate(
    urls: Annotated[list[str], typer.Argument(metavar="SET...", help="runs or distilled sets, at any fsspec URLs")],
    test: Annotated[str, typer.Option(help="packed test shards, or a SOURCE whose test split is packed first")],
    train: Annotated[
        str | None,
        typer.Option(
            help="packed training shards or a SOURCE, for baselines and choices; default: what the sets were distilled from"
        ),
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="see `raydd protocols`; by default the one of the set's method")
    ] = None,
    nets: Annotated[
        str | None, typer.Option(help="such as convnet,frepo_convnet; options as convnet:width=64,norm=batch")
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(metavar="OPTION=V,V", help="vary the networks, as in --grid width=32,64 --grid norm=none,batch"),
    ] = None,
    predictors: Annotated[str, typer.Option(help="out of train,krr,knn: networks, regression on features, pixels")] = (
        "train"
    ),
    repeats: Annotated[int, typer.Option(min=1, help="networks trained")] = 5,
    baselines: Annotated[
        str | None,
        typer.Option(
            help="out of random,random@bytes,whole and the coresets, such as herding,kmeans; default: the first two where "
            "there are training images; '': none"
        ),
    ] = None,
    whole_epochs: Annotated[int, typer.Option(min=1, help="epochs of the training on the whole set")] = 20,
    robust: Annotated[
        bool, typer.Option("--robust", help="the label-robust and the augmentation-robust score")
    ] = False,
    seed: Annotated[int, typer.Option(help="names initialisations, orders and augmentations")] = 0,
    workers: Annotated[int, typer.Option(help="processes on Ray; 0: this process")] = 0,
    threads: Annotated[int, typer.Option(help="torch threads of each; part of the numerics")] = 1,
    gpus: Annotated[
        float | None, typer.Option(help="GPUs of each; by default one if this process works and sees one, else none")
    ] = None,
    precision: Annotated[Literal["fp32", "tf32", "bf16"], typer.Option(help="as engine.precision")] = "fp32",
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="keeps finished networks until all are; default: evaluations, on a cluster none; '': none",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train networks from scratch on distilled sets and score them on a test split."""
    from raydd import api
    from raydd.evaluate import parse_grid, parse_nets, robustness
    from raydd.terminal import Terminal

    terminal = Terminal()
    try:
        results = api.evaluate(
            urls,
            test=test,
            train=train,
            protocol=protocol,
            nets=parse_nets(nets) if nets else None,
            grid=parse_grid(grid or ()),
            repeats=repeats,
            baselines=None if baselines is None else [name for name in baselines.split(",") if name],
            predictors=[name for name in predictors.split(",") if name],
            robust=robust,
            whole_epochs=whole_epochs,
            seed=seed,
            workers=workers,
            threads=threads,
            gpus=gpus,
            precision=precision,
            keep=_keep(keep, workers),
            record=True,
            watcher=terminal,
        )
    finally:
        terminal.close()
    scores = robustness(results) if robust else []
    if as_json:
        more = {"robust": [score.to_json() for score in scores]} if robust else {}
        print_json({"results": [without_repeats(a) for a in results], **more})
        return
    print_table(results)
    for score in scores:
        stds = ["" if std is None else f" +- {std:.3f}" for std in (score.lrs_std, score.ars_std)]
        print_line(
            f"{score.set}: label-robust score {score.lrs:.3f}{stds[0]}, augmentation-robust score {score.ars:.3f}{stds[1]}"
        )


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
    resume: Resume = "auto",
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
    print_facts({key: result[key] for key in shown if as_json or result[key] is not None}, as_json)


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
        print_facts({"report": api.compare(runs)}, as_json)
        return
    reports = [api.report(run) for run in runs]
    print_facts({"report": reports[0]} if len(reports) == 1 else {"reports": reports}, as_json)


@app.command()
def pull(
    url: SetUrl, dest: Annotated[str, typer.Argument(metavar="DEST", help="a folder")], as_json: Json = False
) -> None:
    """Copy a distilled set, with all that it needs, to another folder; every byte is checked, and goes on if interrupted."""
    from raydd.pulling import pull as run
    from raydd.terminal import Terminal

    terminal = Terminal()
    try:
        pulled = run(url, dest, terminal.pulling)
    finally:
        terminal.close()
    print_facts({"set": pulled}, as_json)


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
    print_facts({**facts, "lossy": done.lossy or ("" if as_json else "no")}, as_json)


def _keep(said: str | None, workers: int) -> str | None:
    """Return where finished networks are kept: in the working directory, unless it is not ours or not the workers'."""
    import logging
    import os

    if said is not None:
        return said or None
    if workers and os.environ.get("RAY_ADDRESS"):
        logging.getLogger("raydd").warning(
            "finished networks are not kept, since workers do not reach this folder; with --keep URL, such as "
            "s3://bucket/evaluations, an interrupted evaluation goes on"
        )
        return None
    return "evaluations" if os.access(".", os.W_OK) else None
