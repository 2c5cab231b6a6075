"""Recorders of Realtime calls, against a real WebSocket server that speaks OpenAI's shapes."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from time import monotonic_ns, time_ns

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest

from grafter.core.calls import CallNote, phone_in
from grafter.core.model import Source, TraceId, UnixNano, called
from grafter.core.policy import Waits
from grafter.core.retry import RetryPolicy
from grafter.errors import RejectedError, UnavailableError
from grafter.guests.realtime.intake import read_posts
from grafter.guests.realtime.stored_event import Side
from grafter.receiver.http_server import serving
from grafter.receiver.openai_api import Account, is_call_id, sideband_url
from grafter.receiver.openai_http import application
from grafter.receiver.realtime_http import call_routes
from grafter.receiver.recorder import Recorders, Started, recording
from grafter.receiver.recorder_outbox import RecorderLimits
from grafter.telemetry import Metrics
from tests.e2e import realtime_server
from tests.e2e.realtime_server import KEY, RealtimeServer, delta, event
from tests.receiver.recorder_rig import (
    POLICY,
    QUICK,
    TRACE,
    TRACEPARENT,
    Store,
    connects,
    ends,
    items,
    recorded,
    recorders_of,
)

SMALL = RecorderLimits(waiting_bytes=5_000, pending=10)


@pytest.fixture
async def server() -> AsyncIterator[RealtimeServer]:
    """OpenAI, for one test."""
    async with realtime_server.serving() as running:
        yield running


@pytest.fixture
def store() -> Store:
    """A store, for one test."""
    return Store()


async def test_a_start_returns_when_its_head_is_stored(server: RealtimeServer, store: Store, metrics: Metrics) -> None:
    """Metadata and the note that a recorder began are in the store, under the host that they name, before the call
    is even known."""
    server.answers.extend([(404, {})] * 3)
    async with recorders_of(server, store, metrics) as recorders:
        assert await recorders.start("rtc_1", metadata={"traceparent": TRACEPARENT}) is Started.STARTED
        (head,) = store.parts
        assert head.guest is not None
        assert (head.guest.source, head.guest.host, head.guest.sampled, head.guest.head) == (
            Source.REALTIME,
            TraceId(bytes.fromhex(TRACE)),
            True,
            True,
        )
        assert store.types() == ["grafter.metadata", "grafter.started"]
        assert store.stored_events()[0].event == {
            "type": "grafter.metadata",
            "origin": "start",
            "metadata": {"traceparent": TRACEPARENT},
        }
        assert recorded(metrics) == 1


async def test_a_start_that_the_store_refuses_leaves_nothing(
    server: RealtimeServer, store: Store, metrics: Metrics
) -> None:
    """UnavailableError reaches the caller, no recorder runs, and the next start is a first one."""
    store.errors.append(UnavailableError("full"))
    async with recorders_of(server, store, metrics) as recorders:
        with pytest.raises(UnavailableError):
            await recorders.start("rtc_1")
        assert len(recorders) == 0
        assert recorded(metrics) == 0
        assert await recorders.start("rtc_1") is Started.STARTED


async def test_what_is_heard_is_stored(server: RealtimeServer, store: Store, metrics: Metrics) -> None:
    """Events in their order, deltas folded into one note without their audio, the key shown as a bearer token."""
    async with recorders_of(server, store, metrics) as recorders:
        await recorders.start("rtc_1", metadata={"trace_id": TRACE})
        call = await server.until_listening()
        before = time_ns()
        await server.show(
            call,
            event("input_audio_buffer.speech_started", audio_start_ms=100, item_id="item_0"),
            *[delta(size=300)] * 5,
            event("input_audio_buffer.speech_stopped", audio_end_ms=900, item_id="item_0"),
        )
        await server.hang_up(call)
        assert await store.until_ended() == "close"
    assert store.types() == [
        "grafter.metadata",
        "grafter.started",
        "session.created",
        "input_audio_buffer.speech_started",
        "response.output_audio.delta",
        "input_audio_buffer.speech_stopped",
        "grafter.ended",
    ]
    audio = store.stored_events()[4]
    assert (audio.count, audio.event["delta_bytes"]) == (5, 1500)
    assert "AAAA" not in str(store.parts)
    times = [stored.at for stored in store.stored_events()]
    assert times == sorted(times)
    assert all(before < at <= time_ns() for at in times[3:])
    assert {stored.side for stored in store.stored_events()[2:-1]} == {Side.SERVER}
    assert all(part.guest and part.guest.host == bytes.fromhex(TRACE) for part in store.parts)
    assert [part.guest.ended for part in store.parts if part.guest][-1]
    assert server.attempts[0]["path"] == "/v1/realtime?call_id=rtc_1"
    assert server.frames == []
    assert KEY not in str(store.parts) + generate_latest(metrics.registry).decode()
    assert (ends(metrics, "close"), connects(metrics, "connected"), recorded(metrics)) == (1, 1, 0)
    assert (items(metrics, "audio"), items(metrics, "event")) == (5, 3)


async def test_a_finished_turn_does_not_wait(server: RealtimeServer, store: Store) -> None:
    """What may end a span is stored at the next look; what may not waits for the slower turn."""
    async with recorders_of(server, store, timing=replace(QUICK, store=1000.0)) as recorders:
        await recorders.start("rtc_1")
        call = await server.until_listening()
        await store.until_type("session.created")
        await server.show(call, delta())
        await server.show(call, event("input_audio_buffer.speech_stopped", audio_end_ms=900, item_id="item_0"))
        await store.until_type("input_audio_buffer.speech_stopped")
        assert store.types()[-2:] == ["response.output_audio.delta", "input_audio_buffer.speech_stopped"]
        await server.show(call, delta())
        # A second call's turn is stored by a later look than the first one's delta was heard.
        await recorders.start("rtc_2")
        await server.show(await server.until_listening("rtc_2"), event("input_audio_buffer.cleared"))
        await store.until_type("session.created", "rtc_2")
        assert store.types().count("response.output_audio.delta") == 1


async def test_a_call_is_recorded_once(server: RealtimeServer, store: Store, metrics: Metrics) -> None:
    """Starts of one call, one after the other or at once, open one socket; what a later one adds is stored."""
    async with recorders_of(server, store, metrics) as recorders:
        found = await asyncio.gather(*(recorders.start("rtc_1", sip_headers=[("From", "x")]) for _ in range(5)))
        assert sorted(found) == [Started.RUNNING] * 4 + [Started.STARTED]
        await server.until_listening()
        assert await recorders.start("rtc_1", metadata={"trace_id": TRACE}) is Started.RUNNING
        assert await recorders.start("rtc_1", metadata={"trace_id": TRACE}) is Started.RUNNING
        assert store.types().count("grafter.metadata") == 1
        assert store.types().count("grafter.started") == 1
        assert len(server.attempts) == 1
        assert len(recorders) == recorded(metrics) == 1


@pytest.mark.parametrize("name", ["traceparent", "X-Traceparent", "x-TRACEPARENT "])
async def test_a_sip_header_may_link(server: RealtimeServer, store: Store, name: str) -> None:
    """traceparent and X-Traceparent are taken from SIP headers in any case, all others are left out."""
    async with recorders_of(server, store) as recorders:
        await recorders.start("rtc_1", sip_headers=[("From", "sip:+15550100@x"), (name, TRACEPARENT)])
    assert store.stored_events()[0].event == {"type": "grafter.sip", "traceparent": TRACEPARENT}
    assert "5550100" not in str(store.parts)


async def test_each_project_has_a_key_of_its_own(server: RealtimeServer, store: Store) -> None:
    """A start may name the project in whose name it listens; its key goes to its own address, and no other does."""
    async with realtime_server.serving() as other:
        other.key = "sk-eu"
        projects = {"default": Account(KEY, server.url), "eu": Account("sk-eu", other.url)}
        async with recorders_of(server, store, projects=projects) as recorders:
            for call, project in (("rtc_1", "eu"), ("rtc_2", "default"), ("rtc_3", "")):
                await recorders.start(call, project=project)
            await other.until_attempts(1)
            await server.until_attempts(2)
            with pytest.raises(UnavailableError, match=r"no api_key under receivers\.openai\.projects\.us$"):
                await recorders.start("rtc_4", project="us")
    assert [attempt["Authorization"] for attempt in other.attempts] == ["Bearer sk-eu"]
    assert {attempt["Authorization"] for attempt in server.attempts} == {f"Bearer {KEY}"}
    assert "rtc_4" not in str(store.parts)


async def test_without_a_default_a_project_still_records(server: RealtimeServer, store: Store) -> None:
    """Of several projects none may be the default one: then only a start that names one is possible."""
    async with recording(store, Metrics(), POLICY, None, projects={"eu": Account(KEY, server.url)}) as recorders:
        with pytest.raises(UnavailableError) as refused:
            await recorders.start("rtc_1")
        assert refused.value.reason == "no_api_key"
        await recorders.start("rtc_1", project="eu")
        await server.until_attempts(1)


async def test_a_call_that_is_not_accepted_yet_is_tried_again(
    server: RealtimeServer, store: Store, metrics: Metrics
) -> None:
    """404 before the call is accepted: attempts with backoff, until it is."""
    server.answers.extend([(404, {})] * 4)
    async with recorders_of(server, store, metrics) as recorders:
        await recorders.start("rtc_1")
        await server.until_listening()
    assert (connects(metrics, "not_found"), connects(metrics, "connected")) == (4, 1)


async def test_a_call_that_is_never_accepted_is_given_up(
    server: RealtimeServer, store: Store, metrics: Metrics
) -> None:
    """404 for as long as a call may take to be accepted: the recorder ends, and no trace waits for it any more."""
    server.call().over = True
    async with recorders_of(server, store, metrics, replace(QUICK, not_accepted=0.2)) as recorders:
        await recorders.start("rtc_1")
        assert await store.until_ended() == "disconnect"
    assert ends(metrics, "not_accepted") == 1
    assert connects(metrics, "not_found") > 2


@pytest.mark.parametrize("status", [401, 403])
async def test_a_key_that_may_not_listen_is_said_once(
    server: RealtimeServer, store: Store, metrics: Metrics, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    """401 and 403 end it at once, with one clear line that has no key in it."""
    server.answers.append((status, {}))
    with caplog.at_level(logging.DEBUG):
        async with recorders_of(server, store, metrics) as recorders:
            await recorders.start("rtc_1")
            assert await store.until_ended() == "disconnect"
    (line,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "receivers.openai.projects" in line.message
    assert line.answer == f"HTTP {status}"
    assert KEY not in str([record.__dict__ for record in caplog.records])
    assert (ends(metrics, "unauthorized"), connects(metrics, "unauthorized")) == (1, 1)


async def test_a_limit_is_obeyed(server: RealtimeServer, store: Store, metrics: Metrics) -> None:
    """429 waits as long as Retry-After says, and no shorter."""
    server.answers.append((429, {"Retry-After": "0.4"}))
    async with recorders_of(server, store, metrics) as recorders:
        began = monotonic_ns()
        await recorders.start("rtc_1")
        await server.until_listening()
        assert monotonic_ns() - began >= 400_000_000
    assert connects(metrics, "limited") == 1


async def test_a_wait_that_nobody_can_wait_for_ends_it(server: RealtimeServer, store: Store, metrics: Metrics) -> None:
    """A Retry-After past the longest outage is an end now rather than then."""
    server.answers.append((429, {"Retry-After": "86400"}))
    async with recorders_of(server, store, metrics) as recorders:
        await recorders.start("rtc_1")
        assert await store.until_ended() == "disconnect"
    assert ends(metrics, "disconnect") == 1


@pytest.mark.parametrize("status", [500, 502, 503, 408])
async def test_a_peer_in_trouble_is_tried_again(
    server: RealtimeServer, store: Store, metrics: Metrics, status: int
) -> None:
    """5xx and 408 are tried again until they pass."""
    server.answers.extend([(status, {})] * 3)
    async with recorders_of(server, store, metrics) as recorders:
        await recorders.start("rtc_1")
        await server.until_listening()
    assert connects(metrics, "unavailable") == 3


async def test_a_peer_that_stays_away_ends_it(store: Store, metrics: Metrics) -> None:
    """Nobody listens at the address: attempts for as long as an outage may last, then an end."""
    async with recorders_of(
        RealtimeServer(url="http://127.0.0.1:1/v1"), store, metrics, replace(QUICK, outage=0.2)
    ) as recorders:
        await recorders.start("rtc_1")
        assert await store.until_ended() == "disconnect"
    assert connects(metrics, "failed") > 2


@pytest.mark.parametrize("status", [301, 302, 307, 308, 400, 426])
async def test_no_other_answer_is_followed(server: RealtimeServer, store: Store, metrics: Metrics, status: int) -> None:
    """A redirect is an end, not a way: the key goes to the configured address alone."""
    async with realtime_server.serving() as elsewhere:
        server.answers.append((status, {"Location": elsewhere.url + "/realtime?call_id=rtc_1"}))
        async with recorders_of(server, store, metrics) as recorders:
            await recorders.start("rtc_1")
            assert await store.until_ended() == "disconnect"
        assert elsewhere.attempts == []
    assert len(server.attempts) == 1
    assert (ends(metrics, "refused"), connects(metrics, "refused")) == (1, 1)


@pytest.mark.parametrize("code", [1000, 1001])
async def test_a_close_is_the_end(server: RealtimeServer, store: Store, metrics: Metrics, code: int) -> None:
    """Normal and going away end the call without another attempt."""
    async with recorders_of(server, store, metrics) as recorders:
        await recorders.start("rtc_1")
        await server.hang_up(await server.until_listening(), code)
        assert await store.until_ended() == "close"
    assert (ends(metrics, "close"), len(server.attempts)) == (1, 1)


async def test_what_starts_say_is_remembered_within_bounds(server: RealtimeServer, store: Store) -> None:
    """A sender that repeats itself every second, each time with another metadata, takes no memory for it: what it said
    first is news again. What it said last is still known, so that a mere repeat is not stored."""
    async with recorders_of(server, store) as recorders:
        for number in range(300):
            await recorders.start("rtc_1", metadata={"attempt": number})
        assert await recorders.start("rtc_1", metadata={"attempt": 299}) == "running"
        assert store.types().count("grafter.metadata") == 300
        assert await recorders.start("rtc_1", metadata={"attempt": 200}) == "running"
        assert store.types().count("grafter.metadata") == 301


async def test_nothing_is_listened_to_for_ever(server: RealtimeServer, store: Store) -> None:
    """Whatever is shown: no call lasts for two days, and no expiry of this one is told."""
    passed = [0]
    timing = replace(QUICK, silence=1e6, ping=1e6)
    server.introduces = False
    async with recorders_of(server, store, timing=timing, steady=lambda: passed[0]) as recorders:
        await recorders.start("rtc_1")
        await server.until_listening()
        passed[0] = int(48.1 * 3600 * 1e9)
        assert await store.until_ended() == "expired"


async def test_a_peer_that_always_breaks_off_is_asked_less_and_less(server: RealtimeServer, store: Store) -> None:
    """Though it shows the session each time: an outage must not be made worse by everybody who listens."""
    retry = RetryPolicy(initial_interval=0.005, max_interval=0.4, multiplier=2.0)
    timing = replace(QUICK, retry=retry, steady=0.4)
    async with recorders_of(server, store, timing=timing) as recorders:
        await recorders.start("rtc_1")
        for _ in range(8):
            await server.drop(await server.until_listening())
        dropped = asyncio.get_running_loop().time()
        await server.until_listening()
        assert asyncio.get_running_loop().time() - dropped >= retry.max_interval / 2


@pytest.mark.parametrize("code", [1011, 1012, 1008, 4000])
async def test_any_other_close_is_asked_about(server: RealtimeServer, store: Store, code: int) -> None:
    """After another code the next attempt says whether the call still lives: it does not here."""
    async with recorders_of(server, store) as recorders:
        await recorders.start("rtc_1")
        await server.hang_up(await server.until_listening(), code)
        assert await store.until_ended() == "close"
    assert len(server.attempts) == 2


async def test_a_dropped_socket_is_opened_again(server: RealtimeServer, store: Store, metrics: Metrics) -> None:
    """A connection that breaks in the call is replaced, past trouble on the way; all that both showed is stored."""
    async with recorders_of(server, store, metrics) as recorders:
        await recorders.start("rtc_1")
        call = await server.until_listening()
        await server.show(call, event("input_audio_buffer.speech_stopped", audio_end_ms=1, item_id="item_1"))
        await store.until_type("input_audio_buffer.speech_stopped")
        server.answers.extend([(503, {}), (429, {"Retry-After": "0"})])
        await server.drop(call)
        call = await server.until_listening()
        await server.show(call, event("input_audio_buffer.committed", item_id="item_1"))
        await store.until_type("input_audio_buffer.committed")
        await server.hang_up(call)
        assert await store.until_ended() == "close"
    assert store.types().count("session.created") == 2
    assert connects(metrics, "connected") == 2
    # It may have missed what was said meanwhile, and says so.
    end, (stopped,) = store.end().event, store.at("input_audio_buffer.speech_stopped")
    assert stopped < end["deaf_until"] <= store.at("session.created")[1]
    assert "untimed" not in end


@pytest.mark.parametrize("status", [404, 410])
async def test_a_call_that_is_known_no_more_has_ended(server: RealtimeServer, store: Store, status: int) -> None:
    """After an established session, 404 on the way back means that the call is over, at once."""
    async with recorders_of(server, store) as recorders:
        await recorders.start("rtc_1")
        call = await server.until_listening()
        server.answers.append((status, {}))
        await server.drop(call)
        assert await store.until_ended() == "close"
    assert len(server.attempts) == 2
    # When it had ended, and what was said until then, nobody heard.
    end = store.end().event
    assert end["untimed"] is True
    assert end["deaf_until"] > store.at("session.created")[0]


async def test_silence_ends_it(server: RealtimeServer, store: Store, metrics: Metrics) -> None:
    """No event for the configured time though the socket lives."""
    async with recorders_of(server, store, metrics, replace(QUICK, silence=0.2)) as recorders:
        await recorders.start("rtc_1")
        await server.until_listening()
        assert await store.until_ended() == "silence"
    assert ends(metrics, "silence") == 1


async def test_a_dead_socket_is_noticed(server: RealtimeServer, store: Store, metrics: Metrics) -> None:
    """A peer that answers no ping is dead: the connection is dropped and opened again long before silence is over."""
    server.pongs = False
    async with recorders_of(server, store, metrics, replace(QUICK, ping=0.1)) as recorders:
        await recorders.start("rtc_1")
        await server.until_attempts(2)
    assert ends(metrics, "silence") == 0


async def test_a_quiet_socket_that_answers_lives(server: RealtimeServer, store: Store) -> None:
    """Pings are answered, so a quiet call keeps its connection; the app's own silence ends it."""
    timing = replace(QUICK, ping=0.05, silence=0.5)
    async with recorders_of(server, store, timing=timing) as recorders:
        await recorders.start("rtc_1")
        assert await store.until_ended() == "silence"
    assert len(server.attempts) == 1


async def test_the_session_expires(server: RealtimeServer, store: Store, metrics: Metrics) -> None:
    """At expires_at of the session the recorder ends, whether or not the peer closes."""
    server.call(expires_at=int(time_ns() / 1e9) + 1)
    async with recorders_of(server, store, metrics, replace(QUICK, expiry_grace=0.0)) as recorders:
        await recorders.start("rtc_1")
        assert await store.until_ended() == "expired"
    assert ends(metrics, "expired") == 1


@pytest.mark.parametrize("expires_at", [0, 1, 1_000_000_000, (1 << 33) + 1, "soon", None, True, 1e300])
async def test_an_expiry_that_cannot_be_is_none(server: RealtimeServer, store: Store, expires_at: object) -> None:
    """What is past, absurd or no number at all does not end a call."""
    async with recorders_of(server, store, timing=replace(QUICK, expiry_grace=0.0, silence=0.3)) as recorders:
        await recorders.start("rtc_1")
        call = await server.until_listening()
        raw = {"type": "session.updated", "event_id": "e", "session": {**call.session, "expires_at": expires_at}}
        call.session["expires_at"] = expires_at
        await call.listeners[0].send_json(raw)
        # The session.created of the connection had a good one, an hour away.
        assert await store.until_ended() == "silence"


async def test_stop_from_outside(server: RealtimeServer, store: Store, metrics: Metrics) -> None:
    """Somebody says that the call is over: what was heard is stored, and the recorder closes its socket."""
    async with recorders_of(server, store, metrics, replace(QUICK, store=1000.0)) as recorders:
        await recorders.start("rtc_1")
        call = await server.until_listening()
        await store.until_type("session.created")
        await server.show(call, delta())
        await server.show(call, event("input_audio_buffer.speech_stopped", audio_end_ms=1, item_id="item_1"))
        await store.until_type("input_audio_buffer.speech_stopped")
        assert recorders.stop("rtc_1")
        assert not recorders.stop("rtc_2")
        assert await store.until_ended() == "posted"
        assert not recorders.stop("rtc_1")
        assert await recorders.start("rtc_1") is Started.STARTED
    assert ends(metrics, "posted") == 1


async def test_a_posted_end_stops_it(server: RealtimeServer, store: Store, metrics: Metrics) -> None:
    """Behind the door of posted events: an end that is stored ends the call's recorder, a refused one does not."""
    async with recorders_of(server, store, metrics) as recorders:
        await recorders.start("rtc_1")
        await recorders.start("rtc_2")
        await server.until_listening()
        door = recorders.ended_by(store)
        ended = read_posts(b'{"call": "rtc_1", "ended": true}', False, POLICY, UnixNano(time_ns())).parts
        store.errors.append(UnavailableError("full"))
        with pytest.raises(UnavailableError):
            await door.consume(ended)
        assert len(recorders) == 2
        await door.consume(ended)
        await store.until(lambda: "posted" in store.ended_by() and len(recorders) == 1)
        await door.consume(read_posts(b'{"call": "rtc_2", "events": []}', False, POLICY, UnixNano(time_ns())).parts)
        assert len(recorders) == 1
    assert ends(metrics, "posted") == 1
    noted = [stored.event for stored in store.stored_events() if stored.event["type"] == "grafter.ended"]
    assert [(one["by"], one["untimed"]) for one in noted] == [("posted", True)] * 2, "nobody says when that was"


async def test_grafters_stop_is_no_end_of_a_call(server: RealtimeServer, store: Store, metrics: Metrics) -> None:
    """Leaving stores what was heard to the last event, says nothing of an end, and closes every socket."""
    async with recorders_of(server, store, metrics, replace(QUICK, store=1000.0)) as recorders:
        await recorders.start("rtc_1")
        call = await server.until_listening()
        await store.until_type("session.created")
        await server.show(call, delta())
        async with asyncio.timeout(60):
            while items(metrics, "audio") < 1:  # noqa: ASYNC110  # a counter wakes nobody
                await asyncio.sleep(0)
        assert "response.output_audio.delta" not in store.types()
        store.errors.append(UnavailableError("once", retry_after=0.01))
    assert store.types()[-1] == "response.output_audio.delta"
    assert store.ended_by() == []
    assert (ends(metrics, "stopped"), recorded(metrics)) == (1, 0)


async def test_a_store_that_is_away_loses_nothing(server: RealtimeServer, store: Store, metrics: Metrics) -> None:
    """While parts are refused they are kept and tried again; each note is stored once, in the end with the end."""
    async with recorders_of(server, store, metrics) as recorders:
        await recorders.start("rtc_1")
        call = await server.until_listening()
        await store.until_type("session.created")
        store.errors.extend([UnavailableError("full", retry_after=0.01)] * 8)
        for n in range(8):
            before = store.refused
            await server.show(call, event("input_audio_buffer.speech_stopped", audio_end_ms=n, item_id=f"item_{n}"))
            await store.until(lambda before=before: store.refused > before)
        await server.hang_up(call)
        assert await store.until_ended() == "close"
    heard = [
        stored.event["item_id"] for stored in store.stored_events() if "speech_stopped" in str(stored.event["type"])
    ]
    assert heard == [f"item_{n}" for n in range(8)]


async def test_what_is_kept_for_a_store_that_is_away_is_bounded(
    server: RealtimeServer, store: Store, metrics: Metrics
) -> None:
    """Past the bound events are dropped and counted; the recorder goes on, and the oldest are what is kept."""
    labels = {"reason": "unavailable"}
    async with recorders_of(server, store, metrics, limits=SMALL) as recorders:
        await recorders.start("rtc_1")
        call = await server.until_listening()
        await store.until_type("session.created")
        store.errors.extend([UnavailableError("full", retry_after=0.01)] * 100_000)
        at = 0
        async with asyncio.timeout(60):
            while not metrics.registry.get_sample_value("grafter_recorder_lost_events_total", labels):
                at += 1
                await server.show(
                    call, event("input_audio_buffer.speech_stopped", audio_end_ms=at, item_id=f"item_{at}")
                )
                await asyncio.sleep(0)
        store.errors.clear()
        await server.hang_up(call)
        assert await store.until_ended() == "close"
    kept = [
        stored.event["item_id"] for stored in store.stored_events() if "speech_stopped" in str(stored.event["type"])
    ]
    assert kept[:20] == [f"item_{n}" for n in range(1, 21)]
    assert len(kept) < at
    assert store.end().event["deaf_until"] > store.at("input_audio_buffer.speech_stopped")[19]


async def test_what_is_kept_for_a_store_that_hangs_is_bounded(
    server: RealtimeServer, store: Store, metrics: Metrics
) -> None:
    """One that neither takes nor refuses: what is heard meanwhile has the same bound; what fits is stored later."""
    labels = {"reason": "unavailable"}
    async with recorders_of(server, store, metrics, limits=SMALL) as recorders:
        await recorders.start("rtc_1")
        call = await server.until_listening()
        await store.until_type("session.created")
        async with asyncio.timeout(60), store.news:
            # Nobody gets past the condition while it is held here.
            sent = 0
            while not metrics.registry.get_sample_value("grafter_recorder_lost_events_total", labels):
                await server.show(call, event("input_audio_buffer.speech_started", audio_start_ms=sent, item_id="i"))
                sent += 1
                await asyncio.sleep(0)
        await server.show(call, event("input_audio_buffer.speech_stopped", audio_end_ms=sent, item_id="i"))
        await store.until_type("input_audio_buffer.speech_stopped")
        kept = store.types().count("input_audio_buffer.speech_started")
        assert 10 <= kept < sent


async def test_one_refused_part_costs_no_other_call_its_own(
    server: RealtimeServer, store: Store, metrics: Metrics
) -> None:
    """A part that is refused for good is counted and dropped; the recorders go on."""
    async with recorders_of(server, store, metrics) as recorders:
        await recorders.start("rtc_1")
        await recorders.start("rtc_2")
        first, second = await server.until_listening("rtc_1"), await server.until_listening("rtc_2")
        await store.until_type("session.created", "rtc_1")
        await store.until_type("session.created", "rtc_2")
        store.errors.extend([RejectedError("no")])
        await server.show(first, event("input_audio_buffer.speech_stopped", audio_end_ms=1, item_id="item_1"))
        await store.until(lambda: not store.errors)
        for call in (first, second):
            await server.hang_up(call)
        assert await store.until_ended("rtc_1") == "close"
        assert await store.until_ended("rtc_2") == "close"
    assert store.end("rtc_1").event["deaf_until"] > store.at("session.created", "rtc_2")[0]
    assert store.end("rtc_2").event["deaf_until"] < store.at("session.created", "rtc_2")[0]


async def test_a_store_with_a_bug_ends_nothing(server: RealtimeServer, store: Store, metrics: Metrics) -> None:
    """An exception that no store should raise is logged; the recorders go on, and what was refused is tried again."""
    async with recorders_of(server, store, metrics, replace(QUICK, bug=0.01)) as recorders:
        await recorders.start("rtc_1")
        store.errors.append(KeyError("a bug"))
        await store.until_type("session.created")
        assert store.refused == 1
        await server.hang_up(await server.until_listening())
        assert await store.until_ended() == "close"


async def test_silence_keeps_the_trace_open(server: RealtimeServer, store: Store) -> None:
    """With nothing to store for a third of idle, an ALIVE note is, so that the lifecycle sees that somebody listens."""
    policy = replace(POLICY, waits=Waits(idle=300_000_000))
    async with recorders_of(server, store, policy=policy) as recorders:
        await recorders.start("rtc_1")
        await server.until_listening()
        await store.until(lambda: store.types().count("grafter.alive") >= 3)


async def test_garbage_costs_only_itself(server: RealtimeServer, store: Store, metrics: Metrics) -> None:
    """Frames that are no events are counted as odd; binary frames and a frame of a mebibyte are read like any other."""
    async with recorders_of(server, store, metrics) as recorders:
        await recorders.start("rtc_1")
        call = await server.until_listening()
        (socket,) = call.listeners
        for frame in [
            "",
            "{",
            "[]",
            "null",
            '{"type": 7}',
            '{"type": ""}',
            "\x00",
            "[" * 5000,
            '{"type":"a"' + "x" * 99,
        ]:
            await socket.send_str(frame)
        await socket.send_bytes(b"\xff\xfe")
        await socket.send_bytes(json.dumps(event("input_audio_buffer.cleared")).encode())
        await server.show(call, delta(size=700_000))
        item = {
            "id": "i",
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "x" * (1 << 20)}],
        }
        await server.show(call, event("conversation.item.done", item=item))
        await server.show(call, event("input_audio_buffer.speech_stopped", audio_end_ms=1, item_id="item_1"))
        await server.hang_up(call)
        assert await store.until_ended() == "close"
    assert {"input_audio_buffer.cleared", "conversation.item.done"} < set(store.types())
    assert items(metrics, "odd") == 10
    assert connects(metrics, "connected") == 1


async def test_a_frame_past_the_limit_costs_the_connection(
    server: RealtimeServer, store: Store, metrics: Metrics
) -> None:
    """More than any event can be: the connection is opened anew, the recorder lives."""
    async with recorders_of(server, store, metrics) as recorders:
        await recorders.start("rtc_1")
        call = await server.until_listening()
        socket = call.listeners[0]
        with suppress(ConnectionError):
            await socket.send_str("x" * ((16 << 20) + 1))
        await server.until_attempts(2)
        await server.hang_up(await server.until_listening())
        assert await store.until_ended() == "close"


async def test_recorders_are_bounded(server: RealtimeServer, store: Store) -> None:
    """Past the limit a start is refused, and taken again when a call has ended."""
    async with recorders_of(server, store, limits=RecorderLimits(recorders=2)) as recorders:
        for call in ("rtc_1", "rtc_2"):
            await recorders.start(call)
        with pytest.raises(UnavailableError):
            await recorders.start("rtc_3")
        await server.hang_up(await server.until_listening("rtc_1"))
        await store.until_ended("rtc_1")
        assert await recorders.start("rtc_3") is Started.STARTED


async def test_recorders_start_at_a_bounded_rate(server: RealtimeServer, store: Store) -> None:
    """Past a burst a start is refused with a hint, though there is room: each opens a socket in the operator's name."""
    async with recorders_of(server, store, limits=RecorderLimits(burst=3)) as recorders:
        for n in range(3):
            await recorders.start(f"rtc_{n}")
        with pytest.raises(UnavailableError, match="recorders a second"):
            await asyncio.gather(*(recorders.start(f"rtc_{n}") for n in range(3, 9)))


@given(st.text(max_size=300))
def test_no_call_id_leads_elsewhere(call_id: str) -> None:
    """Whatever is taken for a call id, it is one parameter of the one address; what is not is refused."""
    base_url, name = ("https://api.openai.com/v1/", call_id) if is_call_id(call_id) else ("https://a/v1", "x")
    url = sideband_url(base_url, name)
    if is_call_id(call_id):
        assert (url.scheme, url.host, url.path, url.port) == ("wss", "api.openai.com", "/v1/realtime", 443)
        assert dict(url.query) == {"call_id": call_id}
        assert url.fragment == ""


@pytest.mark.parametrize("call_id", ["", "a b", "rtc_\n", "rtc_\x00", "é", "a" * 257, "\ud800"])
async def test_what_is_no_call_id_is_refused(server: RealtimeServer, store: Store, call_id: str) -> None:
    """Empty, blank, control characters, beyond ASCII, too long."""
    async with recorders_of(server, store) as recorders:
        with pytest.raises(RejectedError):
            await recorders.start(call_id)
    assert store.parts == []


@pytest.mark.parametrize("call_id", ["../../x?y=1&call_id=z#f", "rtc_1&model=x", "a%2Fb", "//evil.example/", "@h:1"])
async def test_a_hostile_call_id_is_one_parameter(server: RealtimeServer, store: Store, call_id: str) -> None:
    """It arrives as it is, at the configured address."""
    async with recorders_of(server, store) as recorders:
        await recorders.start(call_id)
        await server.until_listening(call_id)
    assert [attempt["path"].partition("?")[0] for attempt in server.attempts] == ["/v1/realtime"]


@asynccontextmanager
async def door(recorders: Recorders, metrics: Metrics, **more: object) -> AsyncIterator[Callable[..., object]]:
    routes = call_routes(recorders, metrics, time_ns, **more)
    async with (
        serving(application(routes), "127.0.0.1:0", None, 1.0) as (_, port),
        aiohttp.ClientSession() as session,
    ):

        async def post(body: object, **headers: str) -> tuple[int, dict[str, object], dict[str, str]]:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            url = f"http://127.0.0.1:{port}/v1/realtime/calls"
            async with session.post(url, data=data, headers=headers, allow_redirects=False) as answer:
                return answer.status, await answer.json(), dict(answer.headers)

        yield post


async def test_the_door_starts_a_recorder(server: RealtimeServer, store: Store, metrics: Metrics) -> None:
    """202 for a start and for its repeat; no phone number is in what is stored of the call."""
    body = {"call_id": "rtc_1", "traceparent": TRACEPARENT, "from": "+15550100", "to": "+15550199"}
    async with recorders_of(server, store) as recorders, door(recorders, metrics) as post:
        assert (await post(body))[:2] == (202, {"call_id": "rtc_1", "status": "started"})
        assert (await post(body))[:2] == (202, {"call_id": "rtc_1", "status": "running"})
        assert (await post({"call_id": "rtc_2", "metadata": {"trace_id": TRACE}}))[0] == 202
        await server.until_listening("rtc_2")
    hosts = {called(part.guest.guest): part.guest.host for part in store.parts if part.guest}
    assert hosts == {"rtc_1": bytes.fromhex(TRACE), "rtc_2": bytes.fromhex(TRACE)}
    assert "+1555" not in str(store.parts)
    name = "grafter_receiver_requests_total"
    labels = {"receiver": "openai", "transport": "realtime_calls", "outcome": "accepted"}
    assert metrics.registry.get_sample_value(name, labels) == 3


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "json"),
        (b"{", "json"),
        ([], "shape"),
        ({}, "call_id"),
        ({"call_id": 7}, "call_id"),
        ({"call_id": ""}, "call_id"),
        ({"call_id": "a b"}, "call_id"),
        ({"call_id": "x" * 257}, "call_id"),
        ({"call_id": "rtc_1", "metadata": "x"}, "shape"),
        ({"call_id": "rtc_1", "traceparent": "00-zz-00f067aa0ba902b7-01"}, "traceparent"),
        ({"call_id": "rtc_1", "traceparent": 7}, "traceparent"),
        ({"call_id": "rtc_1", "from": 15550100}, "shape"),
    ],
)
async def test_the_door_says_what_is_wrong(
    server: RealtimeServer, store: Store, metrics: Metrics, body: object, code: str
) -> None:
    """400 with an OpenAI-shaped error that names the field, and nothing is stored or started."""
    async with recorders_of(server, store) as recorders, door(recorders, metrics) as post:
        status, answer, _ = await post(body)
        assert (status, answer["error"]["code"], len(recorders)) == (400, code, 0)
    assert store.parts == []


async def test_the_door_without_a_key(store: Store, metrics: Metrics) -> None:
    """503 with a hint to the config where no key is configured."""
    async with recording(store, metrics, POLICY, None) as recorders, door(recorders, metrics) as post:
        status, answer, headers = await post({"call_id": "rtc_1"})
    assert (status, answer["error"]["code"], headers["Retry-After"]) == (503, "no_api_key", "60")
    assert "receivers.openai.projects" in answer["error"]["message"]


async def test_the_door_notes_who_calls_whom(server: RealtimeServer, store: Store, metrics: Metrics) -> None:
    """Once the call is recorded, with its numbers hashed; what is no number costs nothing. While the store does not
    take the note the app is told to come again."""
    notes: list[CallNote] = []
    errors = [UnavailableError("down", retry_after=3.0, reason="store_down")]

    class Notes:
        async def put_calls(self, calls: Sequence[CallNote], now: UnixNano) -> None:
            if errors:
                raise errors.pop()
            notes.extend(calls)

    body = {"call_id": "rtc_1", "from": "tel:+1-555-010-0123", "to": "the front desk"}
    async with (
        recorders_of(server, store) as recorders,
        door(recorders, metrics, store=Notes(), secret=b"s" * 32) as post,
    ):
        status, _, headers = await post(body)
        assert (status, headers["Retry-After"]) == (503, "3")
        assert (await post(body))[:2] == (202, {"call_id": "rtc_1", "status": "running"})
    (note,) = notes
    assert note == CallNote("rtc_1", note.at, phone_in("+15550100123", b"s" * 32))


async def test_the_door_when_the_store_is_away(server: RealtimeServer, store: Store, metrics: Metrics) -> None:
    """503 with the wait that the store asks for."""
    store.errors.append(UnavailableError("full", retry_after=7.0))
    async with recorders_of(server, store) as recorders, door(recorders, metrics) as post:
        status, _, headers = await post({"call_id": "rtc_1"})
    assert (status, headers["Retry-After"]) == (503, "7")


async def test_the_door_asks_for_a_token(server: RealtimeServer, store: Store, metrics: Metrics) -> None:
    """401 without one of the configured tokens, 202 with it."""
    async with recorders_of(server, store) as recorders, door(recorders, metrics, tokens=["t"]) as post:
        assert (await post({"call_id": "rtc_1"}))[0] == 401
        assert (await post({"call_id": "rtc_1"}, Authorization="Bearer u"))[0] == 401
        assert (await post({"call_id": "rtc_1"}, Authorization="Bearer t"))[0] == 202


async def test_the_door_has_a_limit(server: RealtimeServer, store: Store, metrics: Metrics) -> None:
    """413 for a body past 64 KiB."""
    async with recorders_of(server, store) as recorders, door(recorders, metrics) as post:
        assert (await post({"call_id": "rtc_1", "metadata": {"x": "y" * (64 << 10)}}))[0] == 413


async def test_an_answer_that_is_no_websocket(store: Store, metrics: Metrics) -> None:
    """200 instead of 101 is a refusal, not a crash."""

    async def handle(_: web.Request) -> web.Response:
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/v1/realtime", handle)
    async with (
        serving(app, "127.0.0.1:0", None, 1.0) as (_, port),
        recorders_of(RealtimeServer(url=f"http://127.0.0.1:{port}/v1"), store, metrics) as recorders,
    ):
        await recorders.start("rtc_1")
        assert await store.until_ended() == "disconnect"
    assert ends(metrics, "refused") == 1
