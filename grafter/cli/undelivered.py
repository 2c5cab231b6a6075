"""The commands of what exporters have not delivered: dead letters, refused for good, and backlogs, which still wait.

What is gone for good after a command is only dropped by its ids, or with ``--yes``.
"""

import asyncio
import os
import sys
from typing import Annotated, NoReturn

import typer

from grafter.cli.options import ConfigOption, JsonOption, SetOption, read_config

dead = typer.Typer(
    name="dead", help="What backends refused for good: list it, show it, send it again, drop it.", no_args_is_help=True
)
LettersArgument = Annotated[
    list[str] | None, typer.Argument(metavar="ID…", help="Ids of letters, or of traces; see `grafter dead list`.")
]
ExporterOption = Annotated[str, typer.Option("--exporter", metavar="NAME", help="Those that this exporter sent.")]
ReasonOption = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Those with this in their reason.")]


def _dead(
    what: str,
    request: dict[str, object],
    config: list[str] | None,
    set_: list[str] | None,
    *,
    as_json: bool,
    groups: bool = False,
) -> NoReturn:
    settings = read_config(config, set_)
    # Exporters over gRPC; see `run`.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from grafter.commands.dead import dead as command

    work = command(what, request, settings, as_json=as_json, groups=groups, out=sys.stdout, err=sys.stderr)
    raise typer.Exit(asyncio.run(work))


@dead.command("list")
def dead_list(
    exporter: ExporterOption = "",
    reason: ReasonOption = "",
    limit: Annotated[int, typer.Option(min=0, help="How many at most, the newest first; 0: all.")] = 50,
    groups: Annotated[
        bool, typer.Option("--groups", help="A line an exporter and reason, in place of one each.")
    ] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Say what lies in the dead-letter box: one line a letter, and what the box has in all."""
    request: dict[str, object] = {"exporter": exporter, "reason": reason, "limit": limit}
    _dead("list", request, config, set_, as_json=json_, groups=groups)


@dead.command("show")
def dead_show(
    letter: Annotated[str, typer.Argument(metavar="ID", help="Id of a letter, or of a trace.")],
    config: ConfigOption = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Show what is in a letter, as a tree; with --json as OTLP JSON."""
    _dead("show", {"ids": [letter]}, config, set_, as_json=json_)


@dead.command("retry")
def dead_retry(
    letters: LettersArgument = None,
    all_: Annotated[bool, typer.Option("--all", help="All that there are now.")] = False,
    exporter: ExporterOption = "",
    reason: ReasonOption = "",
    config: ConfigOption = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Send letters again, each by its exporter; what the backend takes leaves the box."""
    if not (letters or all_ or exporter or reason):
        typer.echo("which letters? give their ids, --exporter, --reason or --all", err=True)
        raise typer.Exit(2)
    request: dict[str, object] = {"ids": letters or [], "exporter": exporter, "reason": reason}
    _dead("retry", request, config, set_, as_json=json_)


@dead.command("drop")
def dead_drop(
    letters: LettersArgument = None,
    all_: Annotated[bool, typer.Option("--all", help="All that there are now; needs --yes.")] = False,
    exporter: ExporterOption = "",
    reason: ReasonOption = "",
    yes: Annotated[bool, typer.Option("--yes", help="They are gone for good: do it without their ids.")] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Forget letters for good; they are counted as dropped."""
    if not (letters or ((all_ or exporter or reason) and yes)):
        typer.echo("which letters? give their ids, or --exporter, --reason or --all together with --yes", err=True)
        raise typer.Exit(2)
    request: dict[str, object] = {"ids": letters or [], "exporter": exporter, "reason": reason}
    _dead("drop", request, config, set_, as_json=json_)


backlog = typer.Typer(
    name="backlog", help="What other exporters have and one has not: say it, or give it up.", no_args_is_help=True
)


def _backlog(
    what: str, request: dict[str, object], config: list[str] | None, set_: list[str] | None, *, as_json: bool
) -> NoReturn:
    settings = read_config(config, set_)
    from grafter.commands.backlog import backlog as command

    work = command(what, request, settings, as_json=as_json, out=sys.stdout, err=sys.stderr)
    raise typer.Exit(asyncio.run(work))


@backlog.command("list")
def backlog_list(config: ConfigOption = None, set_: SetOption = None, json_: JsonOption = False) -> None:
    """Say what waits for one exporter alone, also for those that are no longer configured."""
    _backlog("list", {}, config, set_, as_json=json_)


@backlog.command("drop")
def backlog_drop(
    exporter: Annotated[str, typer.Argument(metavar="NAME", help="The exporter, as `grafter backlog list` has it.")],
    yes: Annotated[bool, typer.Option("--yes", help="It is gone for good: do it.")] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Give up what waits for one exporter alone; it is counted as dropped."""
    if not yes:
        typer.echo(f"what waits for {exporter} is gone for good then: say so with --yes", err=True)
        raise typer.Exit(2)
    _backlog("drop", {"exporter": exporter}, config, set_, as_json=json_)
