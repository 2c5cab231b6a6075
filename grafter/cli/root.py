"""The commands of a grafter and of files, and the whole that all of them are."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from grafter import __version__
from grafter.cli.calls import forget, lookup, reindex, report, trace
from grafter.cli.options import ConfigOption, JsonOption, SetOption, read_config
from grafter.cli.undelivered import backlog, dead
from grafter.components import Config
from grafter.config.show import as_json, as_schema, as_yaml, lines

app = typer.Typer(
    name="grafter",
    help="One trace for one AI phone call: joins OpenAI's traces into your OpenTelemetry trace.",
    no_args_is_help=True,
    add_completion=False,
    # A rich traceback prints local variables, and those may be keys or prompts.
    pretty_exceptions_enable=False,
)


def main() -> None:
    """The entry point of the command ``grafter``. Exits."""
    app(prog_name="grafter")


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
    from grafter import process

    with process.nothing_to_stop():
        settings = read_config(config, set_, workers)
        # gRPC's core writes lines of its own to stderr, in no format that a log reader expects.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        # gRPC and the servers are only wanted here; a parent of workers needs no gRPC.
        if settings.service.workers > 1:
            from grafter.workers import supervisor

            raise typer.Exit(supervisor.run(settings, config or ()))
        from grafter import service

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
    query: Annotated[str, typer.Argument(metavar="ID", help="Your trace id, an OpenAI trace id, or a call's id.")],
    config: ConfigOption = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Say why a trace joined, did not join, or is still held, and what to change."""
    settings = read_config(config, set_)
    from grafter.commands.explain import explain as say

    raise typer.Exit(asyncio.run(say(query, settings, as_json=json_, out=sys.stdout, err=sys.stderr)))


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
    from grafter.commands.explain import print_status

    raise typer.Exit(asyncio.run(print_status(settings, as_json=json_, out=sys.stdout, err=sys.stderr)))


app.add_typer(dead)
app.add_typer(backlog)
for _of_calls in (lookup, trace, forget, reindex, report):
    app.command()(_of_calls)


@app.command()
def demo(keep: Annotated[bool, typer.Option("--keep", help="Stay until stopped.")] = False) -> None:
    """Start everything on free ports, play a call through every door, and print the joined tree."""
    from grafter.commands.demo.command import demo as play

    raise typer.Exit(asyncio.run(play(keep, sys.stdout)))
