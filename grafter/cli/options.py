"""What most commands take, and the config that it comes to."""

from dataclasses import replace
from typing import Annotated

import typer

from grafter.components import Config, load
from grafter.config.problems import ConfigError

_WORKERS = "service.workers"

ConfigOption = Annotated[
    list[str] | None,
    typer.Option("--config", "-c", metavar="FILE", help="A config file; may be given again, later ones win."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set one key, as in service.telemetry.logs.level=debug."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON, for programs.")]


def read_config(paths: list[str] | None, sets: list[str] | None, workers: int | None = None) -> Config:
    """The config that the options name; warnings go to stderr. With problems: one line each, and exit 1."""
    try:
        config = load(paths or (), [*(sets or ()), *([] if workers is None else [f"{_WORKERS}={workers}"])])
    except ConfigError as error:
        for problem in error.problems:
            if workers is not None and problem.path == _WORKERS:
                problem = replace(problem, file="--workers")
            typer.echo(str(problem), err=True)
        raise typer.Exit(1) from None
    for warning in config.warnings:
        typer.echo(f"warning: {warning}", err=True)
    return config
