"""``grafter lookup``, ``trace``, ``forget``, ``report`` and ``reindex``: which calls there were, of which number, and
where the time went.

The grafter that runs is asked. Where none listens, the call map is read here: what waits in the store for its database
is written down first.
"""

import csv
import re
from base64 import b64decode
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from time import time_ns
from typing import TextIO

from grafter.calls.base import CallMap
from grafter.calls.report import rows
from grafter.commands.admin_client import FAILURES, RefusedError, opened_store, print_answer, printable, query
from grafter.components import Config
from grafter.core.model import JsonObject
from grafter.exporter.tree import render
from grafter.otlp.reading import read_spans
from grafter.receiver.calls_admin import FORGET_PATH, LOOKUP_PATH, REINDEX_PATH, REPORT_PATH, TRACE_PATH, call_queries
from grafter.telemetry import Metrics

_SECONDS = 150.0
_BAR = 30
_MEDIA = ("ice.", "stun.", "turn.", "dtls.", "webrtc.")
"""How the names of events of the media path begin."""
_MOST_MEDIA = 40
_UNITS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_SINCE = re.compile(r"(\d{1,6})([mhdw])")


async def lookup(request: Mapping[str, object], config: Config, *, as_json: bool, out: TextIO, err: TextIO) -> int:
    """0: calls were found. 1: none, or nobody could be asked; why stands on ``err``."""
    answer = await _answer(LOOKUP_PATH, request, config, err)
    if answer is None:
        return 1
    print_answer(answer, out, as_json=as_json)
    return 0 if answer.get("calls") else 1


async def trace(query: str, config: Config, *, as_json: bool, out: TextIO, err: TextIO) -> int:
    """0: the call is known, with its trace where that is kept. 1: it is not, or nobody could be asked."""
    answer = await _answer(TRACE_PATH, {"text": query}, config, err)
    if answer is None:
        return 1
    call = answer.get("call")
    documents = answer.get("documents")
    if as_json or not isinstance(call, dict):
        print_answer(answer, out, as_json=as_json)
        return 0 if isinstance(call, dict) else 1
    print_answer(call, out, as_json=False)
    if answer.get("others"):
        out.write("this is the newest of several; grafter lookup lists them\n")
    _print_waits(call, out)
    bodies = [b64decode(one) for one in documents] if isinstance(documents, list) else []
    if bodies:
        _print_media(bodies, out)
        # Documents are whole requests: one after the other they are one.
        out.write("\n" + render(b"".join(bodies)))
    else:
        out.write("\nits trace is not kept here (sampled away, too old or too large); a backend may have it\n")
    return 0


async def forget(number: str, config: Config, *, as_json: bool, out: TextIO, err: TextIO) -> int:
    """0: what was known of the number is removed, also where that is nothing."""
    answer = await _answer(FORGET_PATH, {"number": number}, config, err)
    if answer is None:
        return 1
    print_answer(answer, out, as_json=as_json)
    return 0


async def report(since: str, config: Config, *, form: str, out: TextIO, err: TextIO) -> int:
    """``form``: text, json or csv. Raises ValueError for what is no time ago."""
    until = time_ns()
    answer = await _answer(REPORT_PATH, {"since": max(0, until - ago(since)), "until": until}, config, err)
    if answer is None:
        return 1
    if form == "csv":
        csv.writer(out, lineterminator="\n").writerows(rows(answer))
    else:
        print_answer(answer, out, as_json=form == "json")
    return 0


async def reindex(config: Config, *, as_json: bool, out: TextIO, err: TextIO) -> int:
    """0: all numbers stand under the current key. 1: not all of them; what is done stays done, and is passed over when
    it is asked for again."""
    after, calls, changed, strange = "", 0, 0, 0
    while True:
        some = await _answer(REINDEX_PATH, {"after": after}, config, err)
        if some is None:
            err.write(f"{calls} calls were looked at; run it again to go on\n")
            return 1
        calls, changed, strange = (
            before + int(str(some[name]))
            for before, name in ((calls, "calls"), (changed, "changed"), (strange, "strange"))
        )
        if not isinstance(some["next"], str):
            break
        after = some["next"]
    lines = [f"{calls} calls, of which {changed} had numbers under the old key"]
    if strange:
        lines.append(
            f"{strange} records are under a key that is neither number_key nor old_number_key: "
            "their calls are found by their ids alone"
        )
    else:
        lines.append("old_number_key is needed no more")
    print_answer({"calls": calls, "changed": changed, "strange": strange, "lines": lines}, out, as_json=as_json)
    return 1 if strange else 0


def ago(text: str) -> int:
    """Nanoseconds of ``90m``, ``24h``, ``7d`` or ``2w``. Raises ValueError."""
    found = _SINCE.fullmatch(text.strip())
    if found is None:
        raise ValueError("expected a time such as 90m, 24h, 7d or 2w")
    return int(found[1]) * _UNITS[found[2]] * 1_000_000_000


async def _answer(path: str, request: Mapping[str, object], config: Config, err: TextIO) -> JsonObject | None:
    try:
        if config.extensions.calls is None:
            raise RefusedError("the config names no extensions.calls: nobody keeps calls")
        answer = await query(config, path, request, _SECONDS)
        if answer is None:
            async with _opened(config) as calls:
                answer = await call_queries(calls, time_ns)[path](request, "command")
        return answer
    except FAILURES as error:
        err.write(f"{path.rpartition('/')[2]}: {error}\n")
        return None


@asynccontextmanager
async def _opened(config: Config) -> AsyncIterator[CallMap]:
    """The call map without a grafter that runs. Raises RefusedError, and OSError when the store cannot be opened."""
    extension = config.extensions.calls
    assert extension is not None
    async with (
        opened_store(config) as store,
        extension.open(store, store.hmac_secret(), Metrics(), time_ns, serve=False) as calls,
    ):
        await calls.backlog.drain_all()
        yield calls


def _print_waits(call: Mapping[str, object], out: TextIO) -> None:
    """A bar a turn, each as long as its share of the longest wait."""
    turns = call.get("turns")
    waited = [turn for turn in turns if turn.get("wait_ms") is not None] if isinstance(turns, list) else []
    longest = max((turn["wait_ms"] for turn in waited), default=0.0)
    if longest <= 0:
        return
    out.write("\n")
    for turn in waited:
        bar = "█" * max(1, round(_BAR * turn["wait_ms"] / longest))
        slow = "!" if turn["wait_ms"] > 1500 else " "
        name = f"turn {turn['number']}" if turn["number"] else "greeting"
        sentence = turn["sentence"] or f"{turn['wait_ms'] / 1000:.2f} s"
        out.write(f"{name:>9} {slow} {bar:<{_BAR}} {sentence}\n")


def _print_media(documents: Sequence[bytes], out: TextIO) -> None:
    """What happened to the media path, from the call's first span on."""
    steps = [span.step for span in read_spans(documents)]
    begun = min((step.start for step in steps if step.start), default=0)
    events = [
        (at, name, attributes) for step in steps for at, name, attributes in step.events if name.startswith(_MEDIA)
    ]
    events.sort(key=lambda event: event[:2])
    if events:
        out.write("\n")
    for at, name, attributes in events[:_MOST_MEDIA]:
        details = "  ".join(f"{key}={value}" for key, value in attributes.items())
        out.write(printable(f"{'media':>9}   +{(at - begun) / 1e9:.3f} s  {name}  {details}").rstrip() + "\n")
