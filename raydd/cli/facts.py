"""The verbs that tell what there is."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

import typer

from raydd.cli.printing import print_facts, print_grid, print_json, print_line, print_list
from raydd.cli.words import AnyUrl, Json, app


@app.command()
def ls(
    store: Annotated[str, typer.Argument(metavar="STORE", help="a folder of runs")] = "runs",
    method: Annotated[str | None, typer.Option(help="only runs of this method")] = None,
    ipc: Annotated[int | None, typer.Option(help="only runs with so many images per class")] = None,
    dataset: Annotated[str | None, typer.Option(help="only runs on this data set, such as cifar10")] = None,
    sort: Annotated[
        Literal["name", "accuracy", "bytes", "ipc", "method", "dataset", "seconds"],
        typer.Option(help="accuracy: the best first"),
    ] = "name",
    html: Annotated[
        bool, typer.Option("--html", help="write a page of them, with pictures and recipes, and print where")
    ] = False,
    to: Annotated[
        str | None, typer.Option(metavar="FILE", help="with --html: the page; by default gallery.html in the store")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the runs, sweeps and applications of a store; reads manifests, recipes and records only."""
    from raydd.errors import UserError
    from raydd.listing import Wanted, lines, runs

    if to is not None and not html:
        raise UserError("--to says where a page goes, got no --html; give both, or leave --to out")
    found = runs(store, Wanted(method=method, ipc=ipc, dataset=dataset), sort, recipes=html)
    if not found:
        none = f"no {'' if (method, ipc, dataset) == (None,) * 3 else 'such '}runs in {store}"
        if html:
            raise UserError(f"expected runs for a page, got {none}; check the store")
        sys.stderr.write(f"{none}\n")
    if html:
        from raydd.report.gallery import write_gallery

        print_facts({"gallery": write_gallery(found, store, to), "runs": len(found)}, as_json)
        return
    if as_json:
        print_json({"runs": found})
        return
    for line in lines(found):
        print_line(line)


@app.command()
def show(url: AnyUrl, as_json: Json = False) -> None:
    """Show the facts of a run, a sweep or an application (also while it goes on), a distilled set, or packed shards."""
    from raydd.catalogue import show as run
    from raydd.live import run_lines

    facts = run(url)
    if as_json:
        print_json(facts)
        return
    findings = facts.pop("findings", None)
    print_facts({"url": facts["url"], **dict(run_lines(facts))} if facts["kind"] == "run" else facts, as_json=False)
    if findings is not None:
        from raydd.report.findings import read_grids

        for grid in read_grids(findings, f"{facts['url']}/results.json"):
            print_line("")
            print_grid(grid)


@app.command()
def verify(url: AnyUrl, as_json: Json = False) -> None:
    """Read everything again and compare it with manifests and index."""
    from raydd.catalogue import problems
    from raydd.errors import IntegrityError

    found = problems(url)
    if as_json:
        print_json({"url": url, "problems": found})
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
        print_json({"methods": lines})
        return
    for name, line in lines.items():
        print_line(f"{name:10} learns {line['learns']}; slot: {line['slots']}; {line['paper']}")


@app.command()
def nets(as_json: Json = False) -> None:
    """List the networks."""
    from raydd.nets import available

    print_list("nets", available(), as_json)


@app.command()
def datasets(as_json: Json = False) -> None:
    """List the kinds of SOURCE that can be packed."""
    from raydd.data.download import DOWNLOADS
    from raydd.data.sources import SOURCES

    fetched = {name: "; `raydd pack --download` fetches it" if name in DOWNLOADS else "" for name in SOURCES}
    print_list("datasets", {name: kind.help + fetched[name] for name, kind in SOURCES.items()}, as_json)


@app.command()
def protocols(as_json: Json = False) -> None:
    """List the evaluation protocols."""
    from raydd.evaluate import PROTOCOLS

    print_list("protocols", {name: protocol.summary for name, protocol in PROTOCOLS.items()}, as_json)


@app.command("config")
def config_command(method: Annotated[str, typer.Argument(metavar="METHOD", help="see `raydd methods`")]) -> None:
    """Print a complete, commented config to start from; it runs as it stands, on scikit-learn's digits."""
    from raydd.config.template import template

    sys.stdout.write(template(method))


@app.command()
def doctor(
    store: Annotated[str | None, typer.Option(help="a store that is to be written to and read from")] = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="a cluster: its dashboard's URL, or host:port of its head; by default RAY_ADDRESS, else this machine alone",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Tell whether this machine, or every node of a cluster, and a store, are fit.

    Exits with 1 where something is found that would stop a job, or lets anybody stop one (BAD); with 0 otherwise, also where
    something costs speed or safety (WARN).
    """
    from raydd.doctor import examine

    findings = examine(store, address)
    if as_json:
        print_json({"findings": [finding.to_json() for finding in findings]})
    else:
        for finding in findings:
            print_line(finding.line())
    if any(finding.level == "stop" for finding in findings):
        raise typer.Exit(1)
