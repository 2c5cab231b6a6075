"""The commands of single calls and of many: what callers waited for, and what is known of whom."""

import asyncio
import sys
from typing import Annotated

import typer

from grafter.cli.options import ConfigOption, JsonOption, SetOption, read_config


def lookup(
    query: Annotated[
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
    from grafter.commands.lookup import lookup as find_calls

    text = sys.stdin.readline().strip() if query == "-" else query
    flags = {"slow": slow, "errors": errors, "interrupted": interrupted, "unjoined": unjoined, "live": live}
    question = {"text": text, "limit": limit, **flags}
    raise typer.Exit(asyncio.run(find_calls(question, settings, as_json=json_, out=sys.stdout, err=sys.stderr)))


def trace(
    query: Annotated[str, typer.Argument(metavar="ID", help="An id or key of a call, a trace id, or a number.")],
    config: ConfigOption = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Show one call: what the caller waited for in each turn, and the joined trace as a tree."""
    settings = read_config(config, set_)
    from grafter.commands.lookup import trace as show

    raise typer.Exit(asyncio.run(show(query, settings, as_json=json_, out=sys.stdout, err=sys.stderr)))


def forget(
    number: Annotated[str, typer.Argument(help="A phone number, with + and its country; - reads it.")],
    config: ConfigOption = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Remove the calls from and to a number; prints the traces that live on at the backends."""
    settings = read_config(config, set_)
    from grafter.commands.lookup import forget as remove

    text = sys.stdin.readline().strip() if number == "-" else number
    raise typer.Exit(asyncio.run(remove(text, settings, as_json=json_, out=sys.stdout, err=sys.stderr)))


def reindex(config: ConfigOption = None, set_: SetOption = None, json_: JsonOption = False) -> None:
    """Write the hashes of numbers under extensions.calls.number_key, where they stand under old_number_key."""
    settings = read_config(config, set_)
    from grafter.commands.lookup import reindex as write_anew

    raise typer.Exit(asyncio.run(write_anew(settings, as_json=json_, out=sys.stdout, err=sys.stderr)))


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
