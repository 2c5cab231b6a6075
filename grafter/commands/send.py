"""``grafter send``: replay files into a running grafter.

A file is known by what is in it, never by its name: an OTLP request as protobuf or as a JSON document, OpenAI items
(``{"data": […]}``, a list, a capture with ``requests[].body``, a trace with its ``spans``, an event envelope with any
of these under ``data``), posted Realtime events (known by their key ``call``), or JSON lines of any of these and of
single items. Bytes go out as they stand in the file wherever the receiver takes them so.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, TextIO

import aiohttp
import orjson
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from yarl import URL

from grafter.errors import RejectedError
from grafter.exporter.answer import accepted, accepted_json
from grafter.guests.agents.intake import unfolded
from grafter.guests.realtime.intake import recorded_at
from grafter.otlp.mend import readable

PROTOBUF = "application/x-protobuf"
JSON = "application/json"

# The Agents SDK's own batch size (agents/tracing/processors.py, max_batch_size).
_ITEMS_A_REQUEST = 128
# A grafter that is starting or whose store is full says 503; past this a person should look.
_RETRY_SECONDS = 60.0
_TRY_AGAIN = frozenset({429, 502, 503, 504})


class Speed(StrEnum):
    NOW = "now"
    """Each request as soon as the one before it was answered."""
    RECORDED = "recorded"
    """With the pauses of the recording, as far as the files tell the time."""


class Receiver(StrEnum):
    OTLP = "otlp"
    OPENAI = "openai"
    REALTIME = "realtime"


@dataclass(frozen=True, slots=True)
class Request:
    receiver: Receiver
    body: bytes
    content_type: str
    count: int
    """Spans, OpenAI items, or Realtime events."""
    at: float | None
    """Unix seconds at which it was sent when it was recorded, or at which its last span ended; None: not known."""
    source: str
    """File and, in a file of several, which one; for messages."""


@dataclass(slots=True)
class Summary:
    requests: int = 0
    spans: int = 0
    items: int = 0
    refused: int = 0
    """Requests that were not taken, and spans that a partial success rejected."""
    retries: int = 0
    problems: list[str] = field(default_factory=list)


async def send(
    files: Sequence[Path],
    *,
    otlp_endpoint: str = "http://localhost:4318",
    openai_endpoint: str = "http://localhost:4319",
    token: str = "",
    speed: Speed = Speed.NOW,
    as_json: bool = False,
    out: TextIO,
    err: TextIO,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> int:
    """Send every file's requests, in the order of the files (RECORDED: of their times), one at a time.

    Prints a bar to ``err`` when that is a terminal, and a summary to ``out``. 0: all was taken. 1: a file could not
    be read (then nothing is sent), nobody listens, or something was refused.
    """
    summary = Summary()
    requests: list[Request] = []
    for file in files:
        try:
            requests += read(file)
        except OSError as error:
            summary.problems.append(f"{file}: {error.strerror or error}")
        except ValueError as error:
            summary.problems.append(str(error))
    if not summary.problems:
        urls = {
            Receiver.OTLP: _url(otlp_endpoint, "/v1/traces"),
            Receiver.OPENAI: _url(openai_endpoint, "/v1/traces/ingest"),
            # Where the endpoint names the ingest's path, the other receiver is beside it.
            Receiver.REALTIME: str(URL(_url(openai_endpoint, "/")).with_path("/v1/realtime/events")),
        }
        await _send_all(_paced(requests, speed), urls, token, summary, err, sleep)
    if as_json:
        out.write(orjson.dumps(summary).decode() + "\n")
    else:
        sent = f"sent {summary.requests} of {len(requests)} requests: {summary.spans} spans, {summary.items} items"
        out.write("".join(f"{line}\n" for line in [*summary.problems, sent]))
    return 1 if summary.problems else 0


def read(file: Path) -> list[Request]:
    """The requests that a file holds. Raises OSError, or ValueError with the file and what was found instead."""
    data = file.read_bytes()
    try:
        return _read(data, file.name)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _read(data: bytes, name: str) -> list[Request]:
    try:
        return _requests([orjson.loads(data)], data, name)
    except orjson.JSONDecodeError:
        pass
    # A protobuf request begins with 0x0a, which JSON takes for a blank; so JSON lines are tried before it.
    lines = [line for line in data.splitlines() if line.strip()]
    try:
        return _requests([orjson.loads(line) for line in lines], b"", name)
    except orjson.JSONDecodeError:
        pass
    try:
        # Only looked at: the receivers take one odd value, so it costs no file.
        request = ExportTraceServiceRequest.FromString(readable(data))
    except RejectedError:
        request = ExportTraceServiceRequest()
    ends = [span.end_time_unix_nano for each in request.resource_spans for s in each.scope_spans for span in s.spans]
    if not ends:
        raise ValueError("neither an OTLP trace request (protobuf, JSON, JSON lines) nor OpenAI items")
    return [Request(Receiver.OTLP, data, PROTOBUF, len(ends), max(ends) / 1e9 or None, name)]


def _requests(documents: list[Any], whole: bytes, name: str) -> list[Request]:
    """The requests of a file's documents, in their order; neighbouring single items share a request."""
    requests: list[Request] = []
    loose: list[Any] = []
    posts: list[Any] = []
    for number, document in enumerate(documents, 1):
        source = name if len(documents) == 1 else f"{name}:{number}"
        envelopes = document if isinstance(document, list) else [document]
        if envelopes and all(isinstance(each, dict) and "call" in each for each in envelopes):
            requests += _items(loose, source)
            loose = []
            posts += envelopes
            continue
        requests += _posts(posts, source)
        posts = []
        if isinstance(document, dict) and "object" in document and "data" not in document:
            loose += unfolded([document])
            continue
        requests += _items(loose, source)
        loose = []
        match document:
            case {"resourceSpans": list()} | {"resource_spans": list()}:
                ends = _end_times(document)
                body = whole or orjson.dumps(document)
                requests.append(
                    Request(Receiver.OTLP, body, JSON, len(ends), max(filter(None, ends), default=None), source)
                )
            case {"requests": list() as recorded}:
                for each in recorded:
                    if not (isinstance(each, dict) and isinstance(each.get("body"), dict)):
                        raise ValueError("a request of the capture has no body that is a JSON object")
                    items = each["body"].get("data")
                    if not isinstance(items, list):
                        raise ValueError("a request of the capture has no list under body.data")
                    at = each.get("t")
                    requests += _items(items, source, at if isinstance(at, int | float) else None, len(items))
            case {"data": {"data": list() as items}} | {"data": list() as items}:
                whole_items = unfolded(items)
                requests += _items(whole_items, source, size=len(whole_items))
            case {"data": {"spans": list()} | {"object": "trace" | "trace.span"} as item}:
                whole_items = unfolded([item])
                requests += _items(whole_items, source, size=len(whole_items))
            case {"spans": list()}:
                requests += _items(unfolded([document]), source)
            case list():
                requests += _items(unfolded(document), source)
            case _:
                raise ValueError("JSON, but neither an OTLP trace request nor OpenAI items")
    requests += _items(loose, name)
    requests += _posts(posts, name)
    if not requests:
        raise ValueError("no OTLP trace request, no OpenAI items and no Realtime events in it")
    return requests


def _items(items: list[Any], source: str, at: float | None = None, size: int = _ITEMS_A_REQUEST) -> list[Request]:
    """Requests of at most ``size`` items each; a body that was one request when it was recorded stays one."""
    cuts = [items[start : start + size] for start in range(0, len(items), max(size, 1))]
    return [
        Request(Receiver.OPENAI, orjson.dumps({"data": cut}), JSON, len(cut), at or _last_end(cut), source)
        for cut in cuts
    ]


def _posts(posts: list[Any], source: str) -> list[Request]:
    """Requests of posted Realtime events, as many envelopes or single events each as a batch of items has."""
    cuts = [posts[start : start + _ITEMS_A_REQUEST] for start in range(0, len(posts), _ITEMS_A_REQUEST)]
    return [
        Request(
            Receiver.REALTIME, orjson.dumps(cut), JSON, sum(map(_events, cut)), max(map(_latest, cut)) or None, source
        )
        for cut in cuts
    ]


def _events(post: dict[str, Any]) -> int:
    events = post.get("events")
    return len(events) if isinstance(events, list) else int("event" in post)


def _latest(post: dict[str, Any]) -> float:
    """Unix seconds of the last thing that a post tells of; 0 where it has no time."""
    stated = [post.get("at"), post.get("sent_at"), *(event.get("at") for event in _dicts(post.get("events")))]
    times = [recorded_at(time) for time in stated]
    return max([time for time in times if time is not None], default=0) / 1e9


def _end_times(document: dict[str, Any]) -> list[float]:
    """The end of each span of an OTLP JSON document, in Unix seconds; 0 where it has none."""
    return [
        _seconds(span.get("endTimeUnixNano", span.get("end_time_unix_nano")))
        for resource in _dicts(document.get("resourceSpans", document.get("resource_spans")))
        for scope in _dicts(resource.get("scopeSpans", resource.get("scope_spans")))
        for span in _dicts(scope.get("spans"))
    ]


def _dicts(value: object) -> Iterable[dict[str, Any]]:
    return (each for each in value if isinstance(each, dict)) if isinstance(value, list) else ()


def _seconds(nanoseconds: object) -> float:
    try:
        return int(nanoseconds) / 1e9 if isinstance(nanoseconds, str | int) else 0.0
    except ValueError:
        return 0.0


def _last_end(items: list[Any]) -> float | None:
    times = []
    for each in _dicts(items):
        try:
            times.append(datetime.fromisoformat(str(each.get("ended_at"))).timestamp())
        except ValueError:
            continue
    return max(times, default=None)


def _url(endpoint: str, path: str) -> str:
    """An endpoint as it is written in a config (host:port) or a URL, with the receiver's path where it names none."""
    url = endpoint if "://" in endpoint else f"http://{endpoint}"
    named = url.split("://", 1)[1].partition("/")[2]
    return url if named else url.rstrip("/") + path


def _paced(requests: list[Request], speed: Speed) -> list[tuple[float, Request]]:
    """Each request with the seconds to wait before it."""
    if speed is Speed.NOW:
        return [(0.0, request) for request in requests]
    # A request without a time goes with the first one: there is no better guess.
    start = min((each.at for each in requests if each.at is not None), default=0.0)
    times = sorted(((each.at if each.at is not None else start, each) for each in requests), key=lambda pair: pair[0])
    paced, clock = [], start
    for at, request in times:
        paced.append((at - clock, request))
        clock = at
    return paced


async def _send_all(
    paced: list[tuple[float, Request]],
    urls: dict[Receiver, str],
    token: str,
    summary: Summary,
    err: TextIO,
    sleep: Callable[[float], Awaitable[None]],
) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(file=err)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("sending", total=len(paced))
        async with aiohttp.ClientSession(headers=headers) as session:
            for pause, request in paced:
                if pause:
                    await sleep(pause)
                try:
                    await _send_one(session, urls[request.receiver], request, summary, sleep)
                except (aiohttp.ClientError, TimeoutError) as error:
                    summary.refused += 1
                    summary.problems.append(f"{request.source}: no answer from {urls[request.receiver]}: {error}")
                    return
                bar.advance(task)


async def _send_one(
    session: aiohttp.ClientSession,
    url: str,
    request: Request,
    summary: Summary,
    sleep: Callable[[float], Awaitable[None]],
) -> None:
    """Send until it is taken, refused for good, or was tried for a minute. Raises aiohttp.ClientError."""
    waited = 0.0
    while True:
        # A redirect would turn the POST into a GET that looks like success.
        async with session.post(
            url, data=request.body, headers={"Content-Type": request.content_type}, allow_redirects=False
        ) as answer:
            status, body, retry_after = answer.status, await answer.read(), answer.headers.get("Retry-After", "")
        if status not in _TRY_AGAIN or waited >= _RETRY_SECONDS:
            break
        pause = max(float(retry_after), 0.1) if retry_after.isdecimal() else 1.0
        waited += pause
        summary.retries += 1
        await sleep(pause)
    if 200 <= status < 300:
        summary.requests += 1
        if request.receiver is not Receiver.OTLP:
            summary.items += request.count
            return
        taken = accepted_json(body) if request.content_type == JSON else accepted(body)
        summary.spans += request.count - taken.rejected
        if taken.rejected:
            summary.refused += taken.rejected
            summary.problems.append(
                f"{request.source}: {taken.rejected} of {request.count} spans were rejected: {taken.message}"
            )
    else:
        summary.refused += 1
        text = body.decode("utf-8", "replace").strip()[:200] if answer.content_type.startswith(("text/", JSON)) else ""
        summary.problems.append(f"{request.source}: {url} answered {status}: {text}".removesuffix(": "))
