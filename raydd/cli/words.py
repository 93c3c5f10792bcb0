"""The program, and the words that several of its verbs take."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"raydd {version('raydd')}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="show which it is")
    ] = False,
) -> None:
    """Distil a large labelled image set into a small synthetic one that trains networks nearly as well."""


ConfigFile = Annotated[str, typer.Argument(metavar="CONFIG", help="a YAML file, at a path or any fsspec URL")]
SetUrl = Annotated[str, typer.Argument(metavar="SET", help="a run or a distilled set, at any fsspec URL")]
AnyUrl = Annotated[str, typer.Argument(metavar="RUN|SET|SHARDS", help="at any fsspec URL")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="change a key, as in method.ipc=10")
]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object, alone, on stdout")]
Resume = Annotated[
    Literal["auto", "never", "must"],
    typer.Option("--resume", help="auto: go on with what exists; never: refuse it; must: refuse to begin anew"),
]
