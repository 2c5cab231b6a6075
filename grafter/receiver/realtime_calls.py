"""The door at which an app asks for a recorder: POST /v1/realtime/calls.

The rule it keeps: 202 means that what was said of the call is stored and somebody listens. A call that is recorded
already is answered alike, so that a sender may repeat itself.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from aiohttp import web

from grafter.core.calls import CallNote, Phone, phone_in
from grafter.core.link import Malformed, from_metadata
from grafter.core.model import UnixNano
from grafter.errors import RejectedError
from grafter.guests.json_values import parse_json
from grafter.receiver.answering import Answered, answering
from grafter.receiver.http_common import Tokens, read_body
from grafter.receiver.recorder import Recorders
from grafter.receiver.sideband import is_call_id
from grafter.store.base import CallStore
from grafter.telemetry import Metrics

# A sender may join base and path with one slash, two, or one behind.
_CALLS_PATH = "/{path:/*v1/+realtime/+calls/*}"

_TRANSPORT = "realtime_calls"


def call_routes(
    recorders: Recorders,
    metrics: Metrics,
    clock: Callable[[], int],
    *,
    store: CallStore | None = None,
    secret: bytes = b"",
    tokens: Sequence[str] = (),
    max_bytes: int = 64 << 10,
) -> list[web.RouteDef]:
    """The route that starts recorders: POST to ``/v1/realtime/calls``.

    ``{"call_id": "rtc_…", "traceparent": "00-…" | "metadata": {…}, "from": "+1…", "to": "+1…"}`` in, 202 out; a Live
    session's id is ``live_…``. ``from`` and ``to`` may be left out; ``store`` notes the call with them, as ``secret``
    makes them: without it, without them. ``clock`` gives Unix nanoseconds. ``tokens`` are the bearer tokens that open
    it, none opens it to everybody. ``max_bytes`` bounds the body before and after decompression.
    """
    calls = _Calls(recorders, clock, store, secret, max_bytes)
    return [web.post(_CALLS_PATH, answering(calls.answer, metrics, _TRANSPORT, tokens=Tokens(tokens)))]


@dataclass(frozen=True, slots=True)
class CallStart:
    """What a body asks for."""

    call_id: str
    metadata: Mapping[str, object] = field(default_factory=dict)
    caller: Phone | None = None
    callee: Phone | None = None


def read_start(body: bytes, secret: bytes) -> CallStart:
    """What a body asks for, with its numbers hashed under this secret.

    Raises RejectedError, with a message that quotes nothing, unless the body is as ``call_routes`` says.
    """
    try:
        posted = parse_json(body)
    except ValueError as error:
        raise RejectedError(f"{error}; expected a JSON object with call_id", reason="json") from error
    if not isinstance(posted, dict):
        raise RejectedError("body is no JSON object; expected one with call_id", reason="shape")
    call_id = posted.get("call_id")
    if not isinstance(call_id, str) or not is_call_id(call_id):
        raise RejectedError("call_id is not a string of 1 to 256 printable ASCII characters", reason="call_id")
    metadata = posted.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        raise RejectedError("metadata is no JSON object", reason="shape")
    caller, callee = (_phone(posted, name, secret) for name in ("from", "to"))
    start = dict(metadata or {})
    traceparent = posted.get("traceparent")
    if traceparent is not None:
        # Metadata is taken as it is, as at every door; what stands under this name was meant to be one.
        if isinstance(from_metadata({"traceparent": traceparent}, ()), Malformed):
            raise RejectedError("traceparent is not 00-<32 hex>-<16 hex>-<2 hex>, ids not zero", reason="traceparent")
        start["traceparent"] = traceparent
    return CallStart(call_id, start, caller, callee)


def _phone(posted: Mapping[str, object], name: str, secret: bytes) -> Phone | None:
    value = posted.get(name)
    if not isinstance(value, str | None):
        raise RejectedError(f"{name} is no string", reason="shape")
    return None if value is None else phone_in(value, secret)


class _Calls:
    def __init__(
        self,
        recorders: Recorders,
        clock: Callable[[], int],
        store: CallStore | None,
        secret: bytes,
        max_bytes: int,
    ) -> None:
        self._recorders = recorders
        self._clock = clock
        self._store = store
        self._secret = secret
        self._max_bytes = max_bytes

    async def answer(self, request: web.Request) -> Answered:
        """See ``answering.Answer``."""
        start = read_start(await read_body(request, self._max_bytes), self._secret)
        found = await self._recorders.start(start.call_id, metadata=start.metadata)
        if self._store is not None:
            now = UnixNano(self._clock())
            await self._store.note_calls([CallNote(start.call_id, now, start.caller, start.callee)], now)
        return web.json_response({"call_id": start.call_id, "status": found.value}, status=202), "accepted"
