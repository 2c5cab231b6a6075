"""Notifying another service that the trace of a call has left: a signed POST, for whoever keeps recordings, say.

It is sent as OpenAI's API is asked: to the address of the config and to no other, without following a redirect, and of
the answer nothing but its status is looked at. The signature is that of Standard Webhooks; a repeat has the id of the
first, and so has what a process sent before it was killed.

    {"type": "call.released", "timestamp": "2026-11-29T12:00:00Z",
     "data": {"key": "…", "ids": [{"kind": "twilio", "id": "CA…"}], "traces": ["…"], "start": "…", "end": "…",
              "outcome": "completed", "recording": "…", "verdict": "…", "longest_wait_ms": 2930.0, "link": "https://…",
              "link_expires": "…"}}

No number stands in it. Source: the Standard Webhooks specification, version 1.
"""

import asyncio
import hmac
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from urllib.parse import urlsplit

import aiohttp
import orjson

from grafter.calls.answers import verdict
from grafter.calls.call_link import CallLinks
from grafter.calls.following import Due, Notified, NotifyOutcome
from grafter.calls.model import CallRow
from grafter.core.policy import SECOND
from grafter.receiver.openai_api import OpenAIApi, openai_api
from grafter.receiver.signatures import ID, SIGNATURE, TIMESTAMP, signing_key

_TIMEOUT = aiohttp.ClientTimeout(total=15, sock_connect=5)
_AT_ONCE = 4
# Of an endpoint that is closed for good (410) nothing is kept either.
_AGAIN = frozenset({408, 409, 425, 429})


class CallWebhook:
    """A follower of calls; see ``calls.following``."""

    kind = "webhook"
    everything = False

    def __init__(
        self, name: str, api: OpenAIApi, url: str, secret: str, links: CallLinks | None, clock: Callable[[], int]
    ) -> None:
        """``clock``: Unix nanoseconds of the wall, which the other side compares with its own. Raises ValueError for a
        secret that is none."""
        key = signing_key(secret)
        if key is None:
            raise ValueError("a webhook of calls has no secret")
        self._key = key
        self._api = api
        self._url = url
        self._links = links
        self._clock = clock
        self.name = name
        self.title = f"the webhook at {urlsplit(url).netloc}"

    async def notify(self, some: Sequence[tuple[Due, CallRow]]) -> Sequence[Notified]:
        """POST one event a call."""
        return await asyncio.gather(*[self._post(due, row) for due, row in some])

    async def _post(self, due: Due, row: CallRow) -> Notified:
        now = self._clock()
        body = orjson.dumps({"type": "call.released", "timestamp": _time(due.at), "data": self._data(row, now)})
        event = f"call_{row.key}_{due.at:x}"
        moment = str(now // SECOND)
        signed = hmac.digest(self._key, f"{event}.{moment}.".encode() + body, "sha256")
        headers = {ID: event, TIMESTAMP: moment, SIGNATURE: f"v1,{b64encode(signed).decode()}"}
        answer = await self._api.post(self._url, body, headers)
        if 200 <= answer.status < 300:
            return Notified(NotifyOutcome.TAKEN)
        for_good = 300 <= answer.status < 500 and answer.status not in _AGAIN
        return Notified(NotifyOutcome.REFUSED if for_good else NotifyOutcome.FAILED, answer.reason, answer.retry_after)

    def _data(self, row: CallRow, now: int) -> dict[str, object]:
        link = None if self._links is None else self._links.link(row.key, now)
        return {
            "key": row.key,
            "ids": [{"kind": one.kind, "id": one.value} for one in row.ids],
            "traces": [trace.hex() for trace in row.traces],
            "start": _time(row.start),
            "end": None if row.end is None else _time(row.end),
            "outcome": row.outcome,
            "recording": row.recording,
            "verdict": verdict(row),
            "longest_wait_ms": row.slowest.wait_ms if row.slowest else None,
            "link": None if link is None else link.address,
            "link_expires": None if link is None else _time(link.expires),
        }


@asynccontextmanager
async def call_webhook(
    name: str, url: str, secret: str, links: CallLinks | None, clock: Callable[[], int]
) -> AsyncIterator[CallWebhook]:
    """A follower that posts to this address, until left."""
    async with openai_api(url, {}, timeout=_TIMEOUT, connections=_AT_ONCE) as api:
        yield CallWebhook(name, api, url, secret, links, clock)


def _time(moment: int) -> str:
    try:
        return datetime.fromtimestamp(moment / SECOND, UTC).isoformat().replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return str(moment)
