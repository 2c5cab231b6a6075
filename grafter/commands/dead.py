"""``grafter dead``: what backends refused for good, send it again, or drop it.

The grafter that runs is asked. Where none listens, the store is opened here, and the exporters where they are needed;
where somebody holds the store, the message says who.
"""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from time import time_ns
from typing import TextIO

import orjson

from grafter.commands.admin_client import FAILURES, RefusedError, query, recovered_store
from grafter.components import Config
from grafter.core.model import JsonObject
from grafter.exporter.dead_letters import DeadLetters
from grafter.receiver.admin import DEAD_PATH, STATUS_PATH
from grafter.telemetry import Metrics

_SECONDS = 300.0
"""A page of letters, through an exporter that may be slow."""

Commands = Callable[[str, dict[str, object]], Awaitable[JsonObject]]


async def dead(
    what: str,
    request: dict[str, object],
    config: Config,
    *,
    as_json: bool,
    groups: bool = False,
    out: TextIO,
    err: TextIO,
) -> int:
    """0: done, all of it. 1: nothing is meant by what was asked, some of it stays, or nobody could be asked."""
    try:
        async with AsyncExitStack() as stack:
            answer_to = await _commands_of(stack, config, exports=what == "retry")
            if what in ("list", "show"):
                answer = await answer_to(what, request)
                _print(what, answer, out, as_json=as_json, groups=groups)
                return 0 if what == "list" or answer["letters"] else 1
            answer = await _all_pages(what, request, answer_to, err)
    except FAILURES as error:
        err.write(f"dead {what}: {error}\n")
        return 1
    if as_json:
        out.write(orjson.dumps(answer).decode() + "\n")
    else:
        out.write(_summary(what, answer))
    missed = request.get("ids") and not answer["letters"]
    return 1 if missed or answer["left"] or answer["stopped"] else 0


async def _commands_of(stack: AsyncExitStack, config: Config, *, exports: bool) -> Commands:
    """Who does them. Raises RefusedError, and OSError when the store cannot be opened."""
    if await query(config, STATUS_PATH, {}, _SECONDS) is not None:

        async def running(what: str, request: dict[str, object]) -> JsonObject:
            answer = await query(config, f"{DEAD_PATH}/{what}", request, _SECONDS)
            if answer is None:
                raise RefusedError("the grafter that runs has gone")
            return answer

        return running
    store = await stack.enter_async_context(recovered_store(config))
    metrics = Metrics()
    exporters = {}
    for name, exporter in config.active().exporters.items() if exports else ():
        exporters[name] = await stack.enter_async_context(exporter.open(name, metrics))
    return DeadLetters(store, exporters, metrics, lambda: max(time_ns(), store.moment)).answer


async def _all_pages(what: str, request: dict[str, object], answer_to: Commands, err: TextIO) -> JsonObject:
    """Page after page, with a line of progress on a terminal."""
    letters = spans = waiting = 0
    left: dict[str, str] = {}
    stopped: dict[str, str] = {}
    while True:
        answer = await answer_to(what, request)
        letters += _number(answer.get("taken" if what == "retry" else "dropped"))
        spans += _number(answer.get("spans"))
        waiting += _number(answer.get("waiting"))
        left |= _texts(answer.get("left"))
        stopped |= _texts(answer.get("stopped"))
        if err.isatty():
            err.write(f"\r{letters} letters, {spans} spans; {len(left) + waiting} stay")
            err.flush()
        if answer["next"] is None:
            break
        request = {**request, "skip": answer["next"], "until": answer["until"], "without": list(stopped)}
    if err.isatty():
        err.write("\n")
    return {"letters": letters, "spans": spans, "left": left, "waiting": waiting, "stopped": stopped}


def _texts(value: object) -> dict[str, str]:
    return value if isinstance(value, dict) else {}


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _summary(what: str, answer: JsonObject) -> str:
    left, stopped = _texts(answer["left"]), _texts(answer["stopped"])
    done = "taken" if what == "retry" else "dropped"
    lines = [f"{_many(answer['letters'], 'letter')}, {_many(answer['spans'], 'span')} {done}"]
    if not answer["letters"] and not left and not stopped:
        lines = ["no letter is meant by that"]
    if left:
        lines.append(f"{len(left)} letters were not, and stay in the box:")
        lines += [f"  {number}  {reason}" for number, reason in list(left.items())[:20]]
        if len(left) > 20:
            lines.append(f"  … and {len(left) - 20} more")
    if stopped:
        lines.append(f"{answer['waiting']} letters stay in the box, for these take nothing now:")
        lines += [f"  {name}: {reason}" for name, reason in stopped.items()]
    return "\n".join(lines) + "\n"


def _print(what: str, answer: JsonObject, out: TextIO, *, as_json: bool, groups: bool) -> None:
    letters, found, box = answer["letters"], answer.get("groups"), answer.get("box")
    assert isinstance(letters, list)
    if as_json:
        out.write(orjson.dumps(answer).decode() + "\n")
        return
    if what == "show":
        for letter in letters:
            out.write(f"{_line(letter)}\n{letter['tree'].rstrip()}\n")
        if not letters:
            out.write("no letter has that id, and none is of such a trace\n")
        return
    assert isinstance(found, list)
    assert isinstance(box, dict)
    if groups:
        for group in found:
            out.write(
                f"{_many(group['letters'], 'letter')}, {_many(group['spans'], 'span')}, {group['bytes']} bytes  "
                f"{group['exporter']}  {group['reason']}\n"
            )
    else:
        out.writelines(f"{_line(letter)}\n" for letter in letters)
        meant = sum(group["letters"] for group in found)
        if meant > len(letters):
            out.write(f"… and {meant - len(letters)} older ones (--limit 0 for all, --groups for a summary)\n")
    for name, of in box.items():
        inside = f"{_many(of['letters'], 'letter')}, {_many(of['spans'], 'span')}"
        out.write(f"in the box for {name}: {inside}, {of['bytes']} bytes\n")
    if not box:
        out.write("the box is empty\n")


def _many(count: object, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _line(letter: dict[str, object]) -> str:
    arrived = "  (some of it may have arrived)" if letter["may_have_arrived"] else ""
    return (
        f"{letter['id']}  {letter['at']}  {letter['trace_id']}  {letter['exporter']}  "
        f"{_many(letter['spans'], 'span')}, {letter['bytes']} bytes  {letter['reason']}{arrived}"
    )
