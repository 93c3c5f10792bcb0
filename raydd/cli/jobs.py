"""The verbs for work on a cluster that goes on without this machine: Ray jobs."""

from __future__ import annotations

import sys
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import pairwise
from typing import Annotated

import typer

from raydd.cli.printing import print_json, print_line
from raydd.cli.words import Json, app

VERBS = ("distill", "sweep", "pack", "evaluate", "train", "report", "export")
Address = Annotated[
    str | None,
    typer.Option(
        help="URL of the cluster's dashboard; by default RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265",
        metavar="URL",
    ),
]
Id = Annotated[str, typer.Argument(metavar="ID", help="as `raydd submit` printed it")]


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def submit(
    context: typer.Context,
    verb: Annotated[str, typer.Argument(metavar="VERB", help=", ".join(VERBS))],
    address: Address = None,
    wait: Annotated[bool, typer.Option("--wait", help="show what it prints and exit as it does")] = False,
    retries: Annotated[
        int, typer.Option(min=0, help="with --wait: submit it again so often where the cluster fails it")
    ] = 3,
    name: Annotated[
        str | None, typer.Option(help="names the job, NAME-a0; by default the run's name, or the verb")
    ] = None,
    python: Annotated[
        str | None,
        typer.Option(
            help="the interpreter there; by default this one if it is there too, else the first on Ray's path"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a verb as a Ray job: `raydd submit distill CONFIG --address URL`; whatever else is given goes to the verb.

    YAML files of this machine are taken along; data and stores must be where the cluster can reach them. The cluster's image
    has raydd, of this version. Submitted again, a run goes on from its last checkpoint.
    """
    from raydd.errors import UserError

    if verb not in VERBS:
        raise UserError(f"VERB must be one of {', '.join(VERBS)}, got {verb!r}")
    words = [verb, *context.args]
    called = name or _run_name(verb, context.args)
    from raydd.engine.jobs import Jobs, run_job

    jobs = Jobs(address)
    if wait:
        code = run_job(jobs, called, words, retries=retries, python=python, say=_say)
        if code:
            raise typer.Exit(code)
        return
    id = jobs.submit(called, words, python)
    if as_json:
        print_json({"id": id, "address": jobs.address})
        return
    print_line(id)
    sys.stderr.write(f"raydd logs -f {id} shows what it prints, raydd cancel {id} stops it\n")


@app.command(name="jobs")
def list_jobs(address: Address = None, as_json: Json = False) -> None:
    """List a cluster's jobs, the newest first."""
    from raydd.engine.jobs import Jobs

    found = Jobs(address).list()
    if as_json:
        print_json({"jobs": [asdict(job) for job in found]})
        return
    for job in found:
        began = datetime.fromtimestamp(job.started, UTC).isoformat(" ", "minutes")[:16] if job.started else "-"
        print_line(f"{job.id:32} {job.status:10} {began:17} {job.message}".rstrip())


@app.command()
def logs(
    id: Id,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="until the job has ended")] = False,
    address: Address = None,
) -> None:
    """Show what a job printed."""
    from raydd.engine.jobs import Jobs

    jobs = Jobs(address)
    if follow:
        jobs.follow(id, _say)
    else:
        _say(jobs.logs(id))


@app.command()
def cancel(id: Id, address: Address = None) -> None:
    """Stop a job; its run keeps its last checkpoint, and the same submission goes on from there."""
    from raydd.engine.jobs import Jobs

    stopped = Jobs(address).cancel(id)
    print_line(f"{id} {'is being stopped' if stopped else 'had ended already'}")


def _run_name(verb: str, words: list[str]) -> str:
    """Return the name of the run that a config describes; a mistake in the config is told here and not on the cluster."""
    if verb not in ("distill", "sweep"):
        return verb
    from raydd.config import load_config

    path = next((word for word in words if not word.startswith("-")), None)
    if path is None:
        return verb
    changes = [value for key, value in pairwise(words) if key == "--set"]
    return load_config(path, changes).name


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
