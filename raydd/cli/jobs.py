"""The verbs for work on a cluster that goes on without this machine: Ray jobs."""

from __future__ import annotations

import sys
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from raydd.cli.apps import read_app
from raydd.cli.printing import print_json, print_line
from raydd.cli.words import Json, app
from raydd.errors import UserError

VERBS = ("distill", "sweep", "app", "pack", "evaluate", "train", "report", "export")
Address = Annotated[
    str | None,
    typer.Option(
        help="URL of the cluster's dashboard; by default RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265",
        metavar="URL",
    ),
]
Id = Annotated[str, typer.Argument(metavar="ID", help="as `raydd submit` printed it")]
# No verb has these, so that they may stand after it as well.
ANYWHERE = ("address", "wait", "retries", "python")


class _Submit(TyperCommand):
    """What stands after the verb is the verb's, but for the options that no verb has."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        super().parse_args(ctx, args)
        late = TyperCommand(
            None, params=[param for param in self.params if param.name in ANYWHERE], add_help_option=False
        )
        kept = {"allow_extra_args": True, "ignore_unknown_options": True}
        found = late.make_context(ctx.info_name, list(ctx.args), parent=ctx.parent, default_map=ctx.params, **kept)
        ctx.params |= found.params
        ctx.args = found.args
        return ctx.args


@app.command(cls=_Submit, context_settings={"allow_extra_args": True, "allow_interspersed_args": False})
def submit(
    context: typer.Context,
    verb: Annotated[str, typer.Argument(metavar="VERB", help=", ".join(VERBS))],
    address: Address = None,
    wait: Annotated[bool, typer.Option("--wait", help="show what it prints and exit as it does")] = False,
    retries: Annotated[
        int | None,
        typer.Option(min=0, help="with --wait: submit it again so often where the cluster fails it; by default 3"),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="before VERB: names the job, NAME-a0; by default the run's name, or the verb")
    ] = None,
    python: Annotated[
        str | None,
        typer.Option(
            help="the interpreter there; by default this one if it is there too, else the first on Ray's path"
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="before VERB: print one JSON object, alone, on stdout; the log goes to stderr"),
    ] = False,
) -> None:
    """Run a verb as a Ray job: `raydd submit distill CONFIG --address URL`.

    What stands after VERB is the verb's, --name and --json too, but --address, --wait, --retries and --python may stand anywhere.
    YAML files of this machine are taken along; data and stores must be where the cluster can reach them. The cluster's image
    has raydd, of this version. Submitted again, a run goes on from its last checkpoint.
    """
    if verb not in VERBS:
        raise UserError(f"VERB must be one of {', '.join(VERBS)}, got {verb!r}")
    if retries is not None and not wait:
        raise UserError(
            "--retries tells how often --wait submits again, got no --wait; give both, or leave --retries out"
        )
    words = [verb, *context.args]
    # Found where --name is given as well, as it tells mistakes.
    run_name = _run_name(verb, context)
    called = name or run_name
    from raydd.engine.jobs import Jobs, run_job

    jobs = Jobs(address)
    if wait:
        say = _say_aside if as_json else _say
        done = run_job(jobs, called, words, retries=3 if retries is None else retries, python=python, say=say)
        if as_json:
            print_json({"address": jobs.address, **asdict(done)})
        if done.exit_code:
            raise typer.Exit(done.exit_code)
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


def _run_name(verb: str, context: typer.Context) -> str:
    """Return the name of the run that the words describe; a mistake in them or in the config is told here, not on the cluster."""
    from raydd.config import load_config, read_config, sweep_base

    command = typer.main.get_group(app).commands[verb]
    said: dict[str, Any] = command.make_context(verb, list(context.args), parent=context.parent).params
    config: Any = said.get("config")
    overrides = said.get("overrides") or ()
    if verb == "distill":
        return load_config(config, overrides).name
    if verb == "sweep":
        return sweep_base(read_config(config), overrides, where=config).config.name
    if verb == "app":
        return read_app(said["kind"], config, overrides).name
    return said.get("name") or verb


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _say_aside(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
