"""Recorders of Live sessions, against a stand-in of their sideband that the official client reads too."""

import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from time import monotonic_ns, time_ns

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI
from openai.types.live import ResponseEvent, SessionClosedEvent, SessionStartedEvent

from grafter.core.policy import Content, GraftPolicy
from grafter.guests.realtime.spans import map_realtime
from grafter.receiver.openai_api import is_call_id, sideband_url
from grafter.receiver.recorder import Started
from grafter.telemetry import Metrics
from tests.e2e import realtime_server
from tests.e2e.live_events import audio, closed, conversation, live_event, microphone, said
from tests.e2e.realtime_server import KEY, Call, RealtimeServer
from tests.receiver.recorder_rig import (
    POLICY,
    QUICK,
    TRACEPARENT,
    Store,
    connects,
    ends,
    items,
    recorders_of,
)

LIVE = "live_u1_9c6574da"
COMMAND_ERROR = {"type": "invalid_request_error", "code": "not_found", "message": "no such session"}


@pytest.fixture
async def server() -> AsyncIterator[RealtimeServer]:
    """OpenAI, for one test."""
    async with realtime_server.serving() as running:
        yield running


@pytest.fixture
def store() -> Store:
    """A store, for one test."""
    return Store()


def names(store: Store, policy: GraftPolicy = POLICY) -> set[str]:
    """The spans that a release of what is stored would give."""
    mapped = map_realtime(LIVE, [part.payload for part in store.parts], policy, final=True)
    return {span.name for one in mapped for span in one.guest.spans}


async def over(server: RealtimeServer, call: Call, **more: object) -> None:
    await server.show(call, closed(call.session, **more))  # type: ignore[arg-type]


async def test_a_live_session_is_recorded_beside_the_official_client(
    server: RealtimeServer, store: Store, metrics: Metrics
) -> None:
    """Both read the same socket of the same session: the client every event by its type, grafter a whole tree. Of the
    sound there is nothing in the store."""
    client = AsyncOpenAI(api_key=KEY, base_url=server.url)
    async with (
        recorders_of(server, store, metrics) as recorders,
        client.live.sideband.connect(session_id=LIVE) as beside,
    ):
        assert await recorders.start(LIVE, metadata={"traceparent": TRACEPARENT}) is Started.STARTED
        call = await server.until_listening(LIVE, 2)
        await server.show(call, *conversation())
        await over(server, call)
        assert await store.until_ended(LIVE) == "close"
        await server.hang_up(call)
        seen = [event async for event in beside]
    assert isinstance(seen[0], SessionStartedEvent)
    assert isinstance(seen[-1], SessionClosedEvent)
    assert sum(isinstance(event, ResponseEvent) for event in seen) == 11
    assert len(seen) == len(conversation()) + 2
    ours, theirs = (server.attempts[index] for index in (1, 0))
    assert ours["path"] == theirs["path"] == f"/v1/live/sessions/{LIVE}/attach"
    assert ours["Authorization"] == theirs["Authorization"]
    assert "Sec-WebSocket-Protocol" not in {**ours, **theirs}
    assert names(store) == {
        "realtime_session gpt-live-1",
        "user_speech",
        "assistant_speech",
        "chat gpt-5.5-2026-08-01",
        "execute_tool insurance.check",
    }
    assert server.frames == []
    assert "AAAA" not in str(store.parts)
    assert KEY not in str(store.parts)
    assert (ends(metrics, "close"), connects(metrics, "connected")) == (1, 1)
    assert (items(metrics, "audio"), items(metrics, "unknown_type"), items(metrics, "odd")) == (3, 0, 0)


@pytest.mark.parametrize("content", list(Content))
async def test_what_is_said_is_stored_where_the_policy_says_so(
    server: RealtimeServer, store: Store, content: Content
) -> None:
    """By default no word of a transcript, an instruction, an argument or an answer reaches the disk."""
    policy = GraftPolicy(content=content)
    async with recorders_of(server, store, policy=policy) as recorders:
        await recorders.start(LIVE)
        call = await server.until_listening(LIVE)
        await server.show(call, *conversation())
        await over(server, call)
        await store.until_ended(LIVE)
    stored = b"".join(part.payload for part in store.parts)
    for words in (b"covered", b"clinic", b"plan"):
        assert (words in stored) is (content is not Content.NONE)


@pytest.mark.parametrize(
    ("reason", "by"),
    [
        ("close_requested", "close"),
        ("remote_hangup", "close"),
        ("expired", "expired"),
        ("connection_lost", "disconnect"),
    ],
)
async def test_the_last_event_is_the_end(
    server: RealtimeServer, store: Store, metrics: Metrics, reason: str, by: str
) -> None:
    """Whether or not the socket is closed after it, and without another attempt."""
    async with recorders_of(server, store, metrics) as recorders:
        await recorders.start(LIVE)
        call = await server.until_listening(LIVE)
        await over(server, call, reason=reason)
        assert await store.until_ended(LIVE) == by
    assert (ends(metrics, by), len(server.attempts)) == (1, 1)


async def test_a_dropped_socket_is_opened_again(server: RealtimeServer, store: Store) -> None:
    """What is replayed on the new one is told once."""
    async with recorders_of(server, store) as recorders:
        await recorders.start(LIVE)
        call = await server.until_listening(LIVE)
        first = said("input", "Is that ", 100, 500)
        await server.show(call, first)
        await store.until_type(first["type"], LIVE)
        await server.drop(call)
        call = await server.until_listening(LIVE)
        await server.show(call, first, said("input", "covered?", 500, 900))
        await over(server, call)
        assert await store.until_ended(LIVE) == "close"
    (mapped,) = map_realtime(LIVE, [part.payload for part in store.parts], POLICY, final=True)
    (speech,) = [dict(span.attributes) for span in mapped.guest.spans if span.name == "user_speech"]
    assert (speech["grafter.speech.audio_start_ms"], speech["grafter.speech.audio_end_ms"]) == (100, 900)


async def test_a_listener_that_is_told_nothing_when_it_comes(server: RealtimeServer, store: Store) -> None:
    """The end tells of what model the session was."""
    server.introduces = False
    async with recorders_of(server, store) as recorders:
        await recorders.start(LIVE)
        call = await server.until_listening(LIVE)
        await server.show(call, said("input", "Hello", 100, 500))
        await over(server, call)
        await store.until_ended(LIVE)
    assert names(store) == {"realtime_session gpt-live-1", "user_speech"}


async def test_the_session_expires(server: RealtimeServer, store: Store, metrics: Metrics) -> None:
    """At its ``expires_at``, whether or not the peer says so."""
    server.call(LIVE, expires_at=int(time_ns() / 1e9) + 1)
    async with recorders_of(server, store, metrics, replace(QUICK, expiry_grace=0.0)) as recorders:
        await recorders.start(LIVE)
        assert await store.until_ended(LIVE) == "expired"
    assert ends(metrics, "expired") == 1


async def test_silence_ends_it(server: RealtimeServer, store: Store, metrics: Metrics) -> None:
    """A session whose sound is shown is not silent, however long nobody says a word; one of which nothing comes is."""
    now = [monotonic_ns()]
    timing = replace(QUICK, store=0.0, silence=90.0, ping=10_000.0)
    async with recorders_of(server, store, metrics, timing, steady=lambda: now[0]) as recorders:
        await recorders.start(LIVE)
        call = await server.until_listening(LIVE)
        for minute in range(3):
            await server.show(call, microphone(), audio(minute * 60_000))
            await store.until(lambda heard=minute: store.types(LIVE).count("session.output_audio.delta") > heard)
            now[0] += 60 * 10**9
        assert store.ended_by(LIVE) == []
        now[0] += 60 * 10**9
        assert await store.until_ended(LIVE) == "silence"


@pytest.mark.parametrize("status", [404, 409, 410])
async def test_a_session_that_is_accepted_late(
    server: RealtimeServer, store: Store, metrics: Metrics, status: int
) -> None:
    """What says that there is nothing to attach to yet is asked again."""
    server.answers.extend([(status, {})] * 3)
    async with recorders_of(server, store, metrics) as recorders:
        await recorders.start(LIVE)
        await server.until_listening(LIVE)
    assert connects(metrics, "not_found") == 3


@pytest.mark.parametrize("status", [400, 405, 422, 425])
async def test_another_no_may_mean_not_yet(
    server: RealtimeServer, store: Store, metrics: Metrics, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    """Nobody knows what a session that is not accepted yet is answered with; if it stays at that, it is said."""
    server.answers.extend([(status, {})] * 3)
    async with recorders_of(server, store, metrics) as recorders:
        await recorders.start(LIVE)
        await server.until_listening(LIVE)
    server.answers.extend([(status, {})] * 1000)
    async with recorders_of(server, store, metrics, replace(QUICK, not_accepted=0.2)) as recorders:
        await recorders.start("live_2")
        assert await store.until_ended("live_2") == "disconnect"
    assert ends(metrics, "refused") == 1
    (line,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert line.answer == f"HTTP {status}"


@pytest.mark.parametrize("status", [302, 307])
async def test_a_redirect_is_no_way(server: RealtimeServer, store: Store, metrics: Metrics, status: int) -> None:
    """The key goes to the configured address alone."""
    async with realtime_server.serving() as elsewhere:
        server.answers.append((status, {"Location": f"{elsewhere.url}/live/sessions/{LIVE}/attach"}))
        async with recorders_of(server, store, metrics) as recorders:
            await recorders.start(LIVE)
            assert await store.until_ended(LIVE) == "disconnect"
        assert elsewhere.attempts == []
    assert (ends(metrics, "refused"), len(server.attempts)) == (1, 1)


@pytest.mark.parametrize("refused_by", ["status", "error"])
async def test_a_session_that_the_other_api_took_ends_quietly(
    server: RealtimeServer, store: Store, metrics: Metrics, caplog: pytest.LogCaptureFixture, refused_by: str
) -> None:
    """Or that was rejected: after its time nothing is warned of, and nothing of it leaves, however it is told."""
    if refused_by == "status":
        server.answers.extend([(404, {})] * 1000)
    else:
        server.refuses = live_event("error", error=COMMAND_ERROR)
    with caplog.at_level(logging.DEBUG):
        async with recorders_of(server, store, metrics, replace(QUICK, not_accepted=0.2)) as recorders:
            await recorders.start(LIVE, sip_headers=[("traceparent", TRACEPARENT)])
            assert await store.until_ended(LIVE) == "disconnect"
    assert ends(metrics, "not_accepted") == 1
    assert len(server.attempts) > 2
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert names(store) == set()
    assert store.types(LIVE) == ["grafter.sip", "grafter.started", "grafter.ended"]


async def test_an_error_in_a_session_that_runs_is_heard(server: RealtimeServer, store: Store) -> None:
    """Somebody else's command was refused; the session goes on."""
    async with recorders_of(server, store) as recorders:
        await recorders.start(LIVE)
        call = await server.until_listening(LIVE)
        await server.show(call, live_event("error", error=COMMAND_ERROR))
        await store.until_type("error", LIVE)
        await over(server, call)
        assert await store.until_ended(LIVE) == "close"
    assert len(server.attempts) == 1


@given(st.text(max_size=250).map("live_".__add__))
def test_no_session_id_leads_elsewhere(call_id: str) -> None:
    """Whatever is taken for one, it is one segment of the one path."""
    if is_call_id(call_id):
        url = sideband_url("https://api.openai.com/v1/?tenant=a", call_id)
        assert (url.scheme, url.host, url.port) == ("wss", "api.openai.com", 443)
        assert url.raw_parts[:4] == ("/", "v1", "live", "sessions")
        assert url.parts[4] == call_id
        assert url.parts[5:] == ("attach",)
        assert dict(url.query) == {"tenant": "a"}
        assert url.fragment == ""


@pytest.mark.parametrize(
    "call_id", ["live_/../../x?y=1#f", "live_a%2Fb", "live_//evil.example/", "live_@h:1", "live_?a"]
)
async def test_a_hostile_session_id_is_one_segment(server: RealtimeServer, store: Store, call_id: str) -> None:
    """It arrives as it is, at the configured address."""
    async with recorders_of(server, store) as recorders:
        await recorders.start(call_id)
        await server.until_listening(call_id)
    (attempt,) = server.attempts
    assert attempt["path"].startswith("/v1/live/sessions/live_")
    assert attempt["path"].endswith("/attach")
    assert attempt["path"].count("/") == 5
