"""``POST /api/links``: an app says to which trace of its own a guest belongs, when nothing in either of them does.

It may be said before the guest comes, while it is held, and as long as it is remembered. The first that is said of a
guest stands: nobody takes a guest away from a trace, also not by being quick after it left.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from aiohttp import web

from grafter.consumer import Consumer
from grafter.core.link import MOST_CHARACTERS, from_metadata, from_text, is_nameable
from grafter.core.memory_blobs import decode_guest
from grafter.core.model import BY_API, Link, NamedLink, TraceId, UnixNano, call_guest, guest_key
from grafter.errors import RejectedError
from grafter.receiver.http_body import json_object, read_json_body
from grafter.receiver.http_server import Tokens
from grafter.receiver.outcomes import Answered, ConflictError, Outcome, openai_endpoint
from grafter.store.base import CallStore, HeldStore
from grafter.telemetry import Metrics

_LINKS = "links"
_PATH = "/{path:/*api/+links/*}"
_MAX_BYTES = 16 << 10


class LinkStore(HeldStore, CallStore, Protocol):
    """The parts of a store that say whether a guest is linked already."""


def link_routes(
    consumer: Consumer,
    store: LinkStore,
    metrics: Metrics,
    clock: Callable[[], int],
    *,
    tokens: Sequence[str] = (),
) -> list[web.RouteDef]:
    """The route of links: POST to ``/api/links``.

    ``{"guest": "rtc_…", "traceparent": "00-…"}`` in, 204 out once it is stored, also when it was said before; 409 for a
    guest that is known to belong somewhere else, or to have left as a trace of its own. The guest's id is the one of
    its trace, its call or its session, or of a response in it. The span that the traceparent names is the anchor.
    ``clock`` gives Unix nanoseconds. ``tokens`` are the bearer tokens that open it, none opens it to everybody.
    """

    async def handle(request: web.Request) -> Answered:
        link = read_link(await read_json_body(request, _MAX_BYTES))
        now = UnixNano(clock())
        await _check(store, link, now)
        await consumer.consume((), links=[link])
        # Of two that were posted at once one stands.
        _compare(link, await _noted(store, link.guest, now))
        return web.Response(status=204), Outcome.ACCEPTED

    return [web.post(_PATH, openai_endpoint(handle, metrics, _LINKS, tokens=Tokens(tokens)))]


def read_link(body: bytes) -> NamedLink:
    """What a body says. Raises RejectedError, with a message that quotes nothing."""
    posted = json_object(body, "guest and traceparent")
    guest = posted.get("guest")
    if not isinstance(guest, str) or not is_nameable(guest):
        message = f"guest is not a string of 1 to {MOST_CHARACTERS} printable ASCII characters"
        raise RejectedError(message, reason="guest")
    link = from_metadata({"traceparent": posted.get("traceparent")}, ())
    if not isinstance(link, Link):
        raise RejectedError("traceparent is not 00-<32 hex>-<16 hex>-<2 hex>, ids not zero", reason="traceparent")
    return NamedLink(guest, link.host, link.span_id, link.sampled, BY_API)


async def _check(store: LinkStore, link: NamedLink, now: UnixNano) -> None:
    """Raises ConflictError where the guest is known to belong somewhere else."""
    _compare(link, await _noted(store, link.guest, now))
    keys = [guest_key(name) for name in (link.guest, call_guest(link.guest))]
    for key in keys:
        state = await store.peek(key)
        for guest in () if state is None else state.guests.values():
            _compare(link, guest.host)
        host = await store.host_of(key)
        _compare(link, None if host is None else TraceId(host))
    for memory in await store.recall(keys, now):
        known = None if memory is None else decode_guest(memory.blob)
        if known is None:
            continue
        _compare(link, known.host)
        if known.host is None and known.sent:
            raise ConflictError("the guest has left as a trace of its own", reason="left")


async def _noted(store: LinkStore, guest: str, now: UnixNano) -> TraceId | None:
    (note,) = await store.find_calls([guest], now)
    link = None if note is None or note.link is None else from_text(guest, note.link)
    return None if link is None else link.host


def _compare(link: NamedLink, stands: TraceId | None) -> None:
    if stands is not None and stands != link.host:
        message = f"the guest belongs to trace {stands.hex()}, and a link that stands never changes"
        raise ConflictError(message, reason="linked")
