"""One call that is recorded from beside it: what the two tests with real Realtime clients share."""

import asyncio
import re
from collections.abc import Awaitable, Callable

import aiohttp
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

from tests.e2e.process import Grafter
from tests.e2e.realtime_server import KEY, RealtimeServer
from tests.e2e.reference_call import Call, Services, reference_call

CALL = "rtc_u1_9c6574da8b8a41a18da9308f4ad974ce"

_MOMENT = re.compile(
    r"\b([\w.]+(?:_unix_nano|first_token_ms|first_audio_ms|elapsed_ms|expires_at|committed_at|ahead_ms|error_ms"
    r"|time_to_first_chunk|wait_ms|wait\.\w+_ms|answer_audio_ms|greeting_ms|greeting\.\w+_ms|unanswered_ms))=[\w.+-]+"
)
_WAITED = re.compile(r"(waited at least) [\d.]+ s")
_LATE = re.compile(r" grafter\.(?:caller_wait|speech_end|unanswered)\.error_ms=[\d.]+")
"""How much later than the quickest the detector's word was is there or not, as the machine is busy or not."""

Client = Callable[[Call, str], Awaitable[None]]
"""Talks to the Realtime API at this address until the caller hangs up, within the app's call."""


def recording_from(server: RealtimeServer) -> dict[str, object]:
    """The settings of a receiver whose recorders listen to this server."""
    return {"projects": {"default": {"api_key": KEY, "base_url": server.url}}}


def talk_url(server: RealtimeServer) -> str:
    """Where the call's own client connects."""
    return f"{server.talk_url}?model=gpt-realtime&talks={CALL}"


def steady(text: str) -> str:
    """A tree's text without what differs from run to run: moments, and how long things took."""
    return _WAITED.sub(r"\1 … s", _MOMENT.sub(r"\1=…", _LATE.sub("", text)))


async def record(grafter: Grafter, call_id: str, **said: object) -> dict[str, object]:
    """Ask grafter for a recorder; its answer."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(grafter.calls, json={"call_id": call_id, **said}) as answer,
    ):
        body: dict[str, object] = await answer.json()
        assert answer.status == 202, body
        return body


async def recorded(grafter: Grafter, server: RealtimeServer, client: Client, *, linked_by_start: bool) -> str:
    """Play the reference call around a real client and grafter's recorder beside it; the host's trace id."""
    services = Services(lambda: [OTLPSpanExporter(endpoint=grafter.otlp_grpc, insecure=True)])
    with reference_call(services) as call:
        await record(grafter, CALL, **({"metadata": call.metadata} if linked_by_start else {}))
        await server.until_listening(CALL)
        await client(call, talk_url(server))
    await asyncio.to_thread(services.flush)
    services.shutdown()
    return call.trace_id
