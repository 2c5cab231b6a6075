"""The command line: read arguments and config, hand over, print, exit.

Exit codes: 0 done, 1 refused or failed, 2 usage. Nothing else in grafter prints or exits. What a command needs beyond
the config is imported inside it, so that ``grafter validate`` starts without gRPC.
"""

import asyncio
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from grafter import __version__
from grafter.components import Config, load
from grafter.config.problems import ConfigError
from grafter.config.show import as_json, as_schema, as_yaml, lines

app = typer.Typer(
    name="grafter",
    help="One trace for one AI phone call: joins OpenAI's traces into your OpenTelemetry trace.",
    no_args_is_help=True,
    add_completion=False,
    # A rich traceback prints local variables, and those may be keys or prompts.
    pretty_exceptions_enable=False,
)

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


def main() -> None:
    """The entry point of the command ``grafter``. Exits."""
    app(prog_name="grafter")


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


@app.callback(invoke_without_command=True)
def _top(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"grafter {__version__}")
        raise typer.Exit


@app.command()
def run(
    config: ConfigOption = None,
    set_: SetOption = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes behind the same ports; as service.workers.")
    ] = None,
) -> None:
    """Receive, join and forward until stopped."""
    settings = read_config(config, set_, workers)
    # gRPC's core writes lines of its own to stderr, in no format that a log reader expects.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # gRPC and the servers are only wanted here; a parent of workers needs no gRPC.
    if settings.service.workers > 1:
        from grafter.workers import supervisor

        raise typer.Exit(supervisor.run(settings, config or ()))
    from grafter import process, service

    process.leave(service.run(settings, config or ()))


@app.command()
def validate(config: ConfigOption = None, set_: SetOption = None) -> None:
    """Say whether the config can be used, and what would run."""
    settings = read_config(config, set_)
    typer.echo("valid")
    for line in lines(settings):
        typer.echo(line)


@app.command("print-config")
def print_config(config: ConfigOption = None, set_: SetOption = None, json_: JsonOption = False) -> None:
    """Print the effective config: every key, secrets redacted."""
    settings = read_config(config, set_)
    typer.echo(as_json(settings) if json_ else as_yaml(settings), nl=json_)


@app.command()
def schema() -> None:
    """Print the JSON Schema of a config file, for editors."""
    typer.echo(json.dumps(as_schema(Config), indent=2, ensure_ascii=False))


@app.command()
def graft(
    host: Annotated[list[Path] | None, typer.Option("--host", help="OTLP traces of the app; repeatable.")] = None,
    guest: Annotated[
        list[Path] | None, typer.Option("--guest", help="OpenAI items or posted Realtime events; repeatable.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where to write; stdout when left out.")] = None,
    tree: Annotated[bool, typer.Option("--tree", help="Draw the joined trees instead, for people.")] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Join files without a server, as the server would, and write one OTLP JSON document, or its trees."""
    if not host and not guest:
        typer.echo("nothing to graft: give --host, --guest or both", err=True)
        raise typer.Exit(2)
    policy = read_config(config, set_).graft_policy()
    from grafter.commands.graft import graft as join_files
    from grafter.telemetry import Metrics

    try:
        document = asyncio.run(join_files(host or [], guest or [], policy, Metrics(), tree=tree))
        if output is not None:
            output.write_bytes(document)
    except (OSError, ValueError) as error:
        typer.echo(f"graft: {error}", err=True)
        raise typer.Exit(1) from None
    if output is None:
        typer.echo(document.decode(), nl=False)


@app.command()
def sample(
    files: Annotated[list[Path], typer.Argument(help="OTLP traces, OpenAI items or posted Realtime events.")],
    config: ConfigOption = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Say which of the traces in files tail_sampling would keep, and by which policies."""
    settings = read_config(config, set_)
    sampling = settings.sampling_policy()
    if sampling is None:
        typer.echo("sample: the config runs no tail_sampling", err=True)
        raise typer.Exit(1)
    from grafter.commands.sample import sample as try_out
    from grafter.commands.sample import table

    try:
        report = asyncio.run(try_out(files, settings.graft_policy(), sampling))
    except (OSError, ValueError) as error:
        typer.echo(f"sample: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(json.dumps(report.as_dict(), indent=2) if json_ else table(report))


@app.command()
def send(
    files: Annotated[list[Path], typer.Argument(help="OTLP requests, OpenAI items or posted Realtime events.")],
    otlp_endpoint: Annotated[str, typer.Option(help="grafter's OTLP/HTTP door.")] = "http://localhost:4318",
    openai_endpoint: Annotated[str, typer.Option(help="grafter's OpenAI door.")] = "http://localhost:4319",
    token: Annotated[str, typer.Option(help="Bearer token of the doors.", envvar="GRAFTER_TOKEN")] = "",
    speed: Annotated[str, typer.Option(help="now, or as recorded.", metavar="now|recorded")] = "now",
    json_: JsonOption = False,
) -> None:
    """Replay files into a running grafter."""
    from grafter.commands.send import Speed
    from grafter.commands.send import send as replay

    if speed not in list(Speed):
        raise typer.BadParameter(f"expected now or recorded, found {speed}", param_hint="--speed")
    work = replay(
        files,
        otlp_endpoint=otlp_endpoint,
        openai_endpoint=openai_endpoint,
        token=token,
        speed=Speed(speed),
        as_json=json_,
        out=sys.stdout,
        err=sys.stderr,
    )
    raise typer.Exit(asyncio.run(work))


@app.command()
def pull(
    session: Annotated[str, typer.Argument(help="Id of a hosted Agents session.")],
    project: Annotated[str, typer.Option(help="One of receivers.openai.projects; the default one when left out.")] = "",
    config: ConfigOption = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Fetch the traces of a hosted session now; answers when all pages were read once."""
    settings = read_config(config, set_)
    from grafter.commands.pull import pull as fetch

    work = fetch(session, project or None, settings, as_json=json_, out=sys.stdout, err=sys.stderr)
    raise typer.Exit(asyncio.run(work))


@app.command()
def explain(
    asked: Annotated[str, typer.Argument(metavar="ID", help="Your trace id, an OpenAI trace id, or a call's id.")],
    config: ConfigOption = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Say why a trace joined, did not join, or is still held, and what to change."""
    settings = read_config(config, set_)
    from grafter.commands.explain import explain as say

    raise typer.Exit(asyncio.run(say(asked, settings, as_json=json_, out=sys.stdout, err=sys.stderr)))


@app.command()
def doctor(
    call: Annotated[str, typer.Option("--call", metavar="ID", help="Any id of a call, a trace id, or a number.")] = "",
    config: ConfigOption = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Say at which hop a call lost its context and which line mends it; without --call, what is wrong here."""
    settings = read_config(config, set_)
    from grafter.commands.doctor import doctor as examine

    raise typer.Exit(asyncio.run(examine(call.strip(), settings, as_json=json_, out=sys.stdout, err=sys.stderr)))


@app.command()
def status(config: ConfigOption = None, set_: SetOption = None, json_: JsonOption = False) -> None:
    """Say what is held and for how long, and what doors and exporters did since the start."""
    settings = read_config(config, set_)
    from grafter.commands.explain import say_status

    raise typer.Exit(asyncio.run(say_status(settings, as_json=json_, out=sys.stdout, err=sys.stderr)))


dead = typer.Typer(
    name="dead", help="What backends refused for good: list it, show it, send it again, drop it.", no_args_is_help=True
)
app.add_typer(dead)

LettersArgument = Annotated[
    list[str] | None, typer.Argument(metavar="ID…", help="Ids of letters, or of traces; see `grafter dead list`.")
]
ExporterOption = Annotated[str, typer.Option("--exporter", metavar="NAME", help="Those that this exporter sent.")]
ReasonOption = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Those with this in their reason.")]


def _dead(
    what: str,
    asked: dict[str, object],
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

    work = command(what, asked, settings, as_json=as_json, groups=groups, out=sys.stdout, err=sys.stderr)
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
    asked: dict[str, object] = {"exporter": exporter, "reason": reason, "limit": limit}
    _dead("list", asked, config, set_, as_json=json_, groups=groups)


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
    asked: dict[str, object] = {"ids": letters or [], "exporter": exporter, "reason": reason}
    _dead("retry", asked, config, set_, as_json=json_)


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
    asked: dict[str, object] = {"ids": letters or [], "exporter": exporter, "reason": reason}
    _dead("drop", asked, config, set_, as_json=json_)


backlog = typer.Typer(
    name="backlog", help="What other exporters have and one has not: say it, or give it up.", no_args_is_help=True
)
app.add_typer(backlog)


def _backlog(
    what: str, asked: dict[str, object], config: list[str] | None, set_: list[str] | None, *, as_json: bool
) -> NoReturn:
    settings = read_config(config, set_)
    from grafter.commands.backlog import backlog as command

    work = command(what, asked, settings, as_json=as_json, out=sys.stdout, err=sys.stderr)
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


@app.command()
def lookup(
    asked: Annotated[
        str, typer.Argument(metavar="NUMBER|ID", help="A phone number, any id of a call, or a trace id; - reads it.")
    ] = "",
    slow: Annotated[bool, typer.Option("--slow", help="The caller waited over 1500 ms.")] = False,
    errors: Annotated[bool, typer.Option("--errors", help="Something failed.")] = False,
    interrupted: Annotated[bool, typer.Option("--interrupted", help="The caller interrupted.")] = False,
    unjoined: Annotated[bool, typer.Option("--unjoined", help="Something of it is missing.")] = False,
    live: Annotated[bool, typer.Option("--live", help="It runs now.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=500, help="Calls at most.")] = 20,
    config: ConfigOption = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """List the calls of a number or id, newest first: when, how it ended, the longest wait and whose it was."""
    settings = read_config(config, set_)
    from grafter.commands.lookup import lookup as look

    text = sys.stdin.readline().strip() if asked == "-" else asked
    flags = {"slow": slow, "errors": errors, "interrupted": interrupted, "unjoined": unjoined, "live": live}
    question = {"text": text, "limit": limit, **flags}
    raise typer.Exit(asyncio.run(look(question, settings, as_json=json_, out=sys.stdout, err=sys.stderr)))


@app.command()
def trace(
    asked: Annotated[str, typer.Argument(metavar="ID", help="An id or key of a call, a trace id, or a number.")],
    config: ConfigOption = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Show one call: what the caller waited for in each turn, and the joined trace as a tree."""
    settings = read_config(config, set_)
    from grafter.commands.lookup import trace as show

    raise typer.Exit(asyncio.run(show(asked, settings, as_json=json_, out=sys.stdout, err=sys.stderr)))


@app.command()
def forget(
    number: Annotated[str, typer.Argument(help="A phone number; - reads it.")],
    config: ConfigOption = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Remove the calls from and to a number; prints the traces that live on at the backends."""
    settings = read_config(config, set_)
    from grafter.commands.lookup import forget as remove

    text = sys.stdin.readline().strip() if number == "-" else number
    raise typer.Exit(asyncio.run(remove(text, settings, as_json=json_, out=sys.stdout, err=sys.stderr)))


@app.command()
def reindex(config: ConfigOption = None, set_: SetOption = None, json_: JsonOption = False) -> None:
    """Write the hashes of numbers under extensions.calls.number_key, where they stand under old_number_key."""
    settings = read_config(config, set_)
    from grafter.commands.lookup import reindex as write_anew

    raise typer.Exit(asyncio.run(write_anew(settings, as_json=json_, out=sys.stdout, err=sys.stderr)))


@app.command()
def report(
    since: Annotated[str, typer.Option(help="How long ago it begins: 90m, 24h, 7d, 2w.")] = "7d",
    config: ConfigOption = None,
    set_: SetOption = None,
    json_: JsonOption = False,
    csv: Annotated[
        bool, typer.Option("--csv", help="The figures of the whole and of each hour, for spreadsheets.")
    ] = False,
) -> None:
    """Sum up the calls, by hour too: failures, how long callers waited, whose time that was, interruptions, joins."""
    settings = read_config(config, set_)
    from grafter.commands.lookup import report as sum_up

    form = "json" if json_ else "csv" if csv else "text"
    try:
        raise typer.Exit(asyncio.run(sum_up(since, settings, form=form, out=sys.stdout, err=sys.stderr)))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--since") from None


@app.command()
def demo(keep: Annotated[bool, typer.Option("--keep", help="Stay until stopped.")] = False) -> None:
    """Start everything on free ports, play a call through every door, and print the joined tree."""
    from grafter.commands.demo.command import demo as play

    raise typer.Exit(asyncio.run(play(keep, sys.stdout)))
