"""The copy for OpenAI's dashboard: cleaned, under the right key, and never at the sender's expense."""

import asyncio
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from grafter.core.retry import RetryPolicy
from grafter.receiver.http_server import serving
from grafter.receiver.tee import teeing
from grafter.telemetry import Metrics
from tests.ports import free_port

QUICK = {"retry": RetryPolicy(initial_interval=0.0, max_interval=5.0, max_hint=5.0), "attempts": 3}
KEY = {"Authorization": "Bearer sk-caller"}

Step = int | web.Response | Callable[[web.Request], Awaitable[web.Response]]


@dataclass
class Ingest:
    """Stands for OpenAI's ingest: answers with the next of ``steps``, then 204, and keeps what it took."""

    url: str = ""
    steps: list[Step] = field(default_factory=list)
    requests: list[tuple[dict[str, str], list[object]]] = field(default_factory=list)
    taken: list[object] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        self.times.append(asyncio.get_running_loop().time())
        self.paths.append(request.path)
        items = (await request.json())["data"]
        self.requests.append((dict(request.headers), items))
        step = self.steps.pop(0) if self.steps else 204
        if callable(step):
            response = await step(request)
        else:
            response = web.Response(status=step) if isinstance(step, int) else step
        if response.status < 300:
            self.taken.extend(items)
        return response


@asynccontextmanager
async def ingesting(*steps: Step) -> AsyncIterator[Ingest]:
    ingest = Ingest(steps=list(steps))
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", ingest.handle)
    async with serving(app, "127.0.0.1:0", None, 0.0) as (_, port):
        ingest.url = f"http://127.0.0.1:{port}/v1/traces/ingest"
        yield ingest


def outcomes(metrics: Metrics) -> dict[str, float]:
    """The counts by outcome, without those that are 0."""
    names = ("sent", "dropped_full", "dropped_refused", "dropped_failed")
    counts = {name: metrics.registry.get_sample_value("grafter_tee_items_total", {"outcome": name}) for name in names}
    return {name: count for name, count in counts.items() if count}


def spans(count: int, start: int = 0) -> list[object]:
    return [{"object": "trace.span", "id": f"span_{n}"} for n in range(start, start + count)]


def refusal(place: str | None, message: str = "Unknown parameter.") -> web.Response:
    error = {"message": message, "type": "invalid_request_error", "param": place, "code": "unknown_parameter"}
    return web.json_response({"error": error}, status=400)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until the condition holds."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  # what is waited for is a socket's, and has no event
            await asyncio.sleep(0)


async def test_sends_what_the_sdk_would_have_sent(metrics: Metrics) -> None:
    """Items arrive cleaned, in order, with the caller's key, organisation and project; no other header does."""
    items = [
        {"object": "trace", "id": "trace_1", "metadata": {"a": 1}},
        {
            "object": "trace.span",
            "id": "span_1",
            "span_data": {"type": "response", "response_id": "r", "usage": {"input_tokens": 1}},
        },
    ]
    caller = {
        "authorization": "Bearer sk-caller",
        "OpenAI-Organization": "org_1",
        "openai-project": "proj_1",
        "Cookie": "private=1",
        "X-Forwarded-For": "10.0.0.1",
    }
    async with ingesting() as ingest:
        async with teeing(ingest.url, None, metrics) as tee:
            tee.offer(items, caller)
        ((headers, sent),) = ingest.requests
    assert sent == [items[0], {**items[1], "span_data": {"type": "response", "response_id": "r"}}]
    assert headers["Authorization"] == "Bearer sk-caller"
    assert headers["OpenAI-Organization"] == "org_1"
    assert headers["OpenAI-Project"] == "proj_1"
    assert headers["OpenAI-Beta"] == "traces=v1"
    assert headers["Content-Type"] == "application/json"
    assert not {"Cookie", "X-Forwarded-For"} & headers.keys()
    assert outcomes(metrics) == {"sent": 2}


async def test_a_configured_key_replaces_the_callers(metrics: Metrics) -> None:
    """With an api_key nothing of the caller's credentials leaves, and one without any is served as well."""
    async with ingesting() as ingest:
        async with teeing(ingest.url, "sk-own", metrics) as tee:
            tee.offer(spans(1), {"Authorization": "Bearer grafter-token", "OpenAI-Project": "proj_1"})
            tee.offer(spans(1, 1), {})
        for headers, _ in ingest.requests:
            assert headers["Authorization"] == "Bearer sk-own"
            assert "OpenAI-Project" not in headers
        assert ingest.taken == spans(2)


async def test_keys_are_never_mixed(metrics: Metrics) -> None:
    """One request carries items of one caller only; each caller's items keep their order."""
    async with ingesting() as ingest:
        async with teeing(ingest.url, None, metrics) as tee:
            for n in range(20):
                tee.offer(spans(1, n), {"Authorization": f"Bearer sk-{n % 2}"})
        by_key: dict[str, list[object]] = {}
        for headers, items in ingest.requests:
            by_key.setdefault(headers["Authorization"], []).extend(items)
    assert by_key == {f"Bearer sk-{k}": [item for n in range(k, 20, 2) for item in spans(1, n)] for k in (0, 1)}


async def test_without_any_key_items_are_refused(metrics: Metrics) -> None:
    """No api_key and no Authorization: counted, and not sent."""
    async with ingesting() as ingest:
        async with teeing(ingest.url, None, metrics) as tee:
            tee.offer(spans(3), {"Content-Type": "application/json"})
        assert ingest.requests == []
    assert outcomes(metrics) == {"dropped_refused": 3}


async def should_retry(request: web.Request) -> web.Response:
    return web.Response(status=500, headers={"x-should-retry": "true"})


async def hang_up(request: web.Request) -> web.Response:
    request.transport.close()
    return web.Response()


@pytest.mark.parametrize(
    "step",
    [408, 409, 429, 500, 503, 302, should_retry, hang_up],
    ids=["408", "409", "429", "500", "503", "302", "should-retry", "hang-up"],
)
async def test_passing_trouble_is_tried_again(step: Step, metrics: Metrics) -> None:
    """Each answer that the SDK repeats is repeated, with the same items."""
    async with ingesting(step, step) as ingest:
        async with teeing(ingest.url, None, metrics, **QUICK) as tee:
            tee.offer(spans(2), KEY)
        assert [items for _, items in ingest.requests] == [spans(2)] * 3
    assert outcomes(metrics) == {"sent": 2}


@pytest.mark.parametrize(
    "step",
    [401, 403, 404, 413, 422, web.Response(status=503, headers={"x-should-retry": "false"}), refusal(None)],
    ids=["401", "403", "404", "413", "422", "should-not-retry", "400"],
)
async def test_a_refusal_for_good_is_not_repeated(step: Step, metrics: Metrics) -> None:
    """Refused items are dropped and counted after one attempt, and the next ones go their way."""
    async with ingesting(step) as ingest:
        async with teeing(ingest.url, None, metrics, **QUICK) as tee:
            tee.offer(spans(128), KEY)
            tee.offer(spans(1, 128), KEY)
        assert len(ingest.requests) == 2
        assert ingest.taken == spans(1, 128)
    assert outcomes(metrics) == {"sent": 1, "dropped_refused": 128}


async def test_attempts_are_bounded(metrics: Metrics) -> None:
    """A peer that only fails gets as many attempts as the policy says."""
    async with ingesting(*[500] * 10) as ingest:
        async with teeing(ingest.url, None, metrics, **QUICK) as tee:
            tee.offer(spans(2), KEY)
        assert len(ingest.requests) == QUICK["attempts"]
    assert outcomes(metrics) == {"dropped_failed": 2}


async def test_waits_as_long_as_the_peer_says(metrics: Metrics) -> None:
    """Retry-After, in milliseconds before seconds, is a lower bound of the wait."""
    limited = web.Response(status=429, headers={"Retry-After": "4", "Retry-After-Ms": "80"})
    async with ingesting(limited) as ingest:
        async with teeing(ingest.url, None, metrics, **QUICK) as tee:
            tee.offer(spans(1), KEY)
        first, second = ingest.times
    assert 0.08 <= second - first < 4


@pytest.mark.parametrize("asked", ["3600", "Wed, 21 Oct 2099 07:28:00 GMT", "nonsense", "-1", "nan", "1e999", ""])
async def test_no_peer_can_make_it_wait_long(asked: str, metrics: Metrics) -> None:
    """The longest wait bounds whatever Retry-After says, and nonsense there counts as nothing."""
    retry = RetryPolicy(initial_interval=0.0, max_interval=0.01, max_hint=0.01)
    async with ingesting(web.Response(status=429, headers={"Retry-After": asked})) as ingest:
        async with teeing(ingest.url, None, metrics, retry=retry, attempts=2) as tee:
            tee.offer(spans(1), KEY)
        assert len(ingest.requests) == 2
    assert outcomes(metrics) == {"sent": 1}


async def test_redirects_are_not_followed(metrics: Metrics) -> None:
    """A key never goes to an address that nobody configured."""
    async with ingesting(*[web.Response(status=307, headers={"Location": "/elsewhere"}) for _ in range(3)]) as ingest:
        async with teeing(ingest.url, None, metrics, **QUICK) as tee:
            tee.offer(spans(1), KEY)
        assert set(ingest.paths) == {"/v1/traces/ingest"}
    assert outcomes(metrics) == {"dropped_failed": 1}


@pytest.mark.parametrize(
    "answer",
    [
        refusal("data[2].span_data.usage.requests"),
        refusal(None, "Unknown parameter: 'data[2].span_data.usage.requests'."),
    ],
)
async def test_the_one_item_that_is_refused_goes_alone(answer: web.Response, metrics: Metrics) -> None:
    """A 400 that names data[i] costs that item only; the rest is sent again without it."""
    async with ingesting(answer) as ingest:
        async with teeing(ingest.url, None, metrics, **QUICK) as tee:
            tee.offer(spans(5), KEY)
        assert ingest.taken == [item for n, item in enumerate(spans(5)) if n != 2]
    assert outcomes(metrics) == {"sent": 4, "dropped_refused": 1}


async def test_a_peer_that_refuses_every_item_ends(metrics: Metrics) -> None:
    """Naming item after item stops early; every item is counted."""
    async with ingesting(*[refusal("data[0].x") for _ in range(200)]) as ingest:
        async with teeing(ingest.url, None, metrics, **QUICK) as tee:
            tee.offer(spans(100), KEY)
        assert len(ingest.requests) < 20
    assert outcomes(metrics) == {"dropped_refused": 100}


@pytest.mark.parametrize(
    "text", [b"", b"no", b"[]", b'{"error": 3}', b'{"error": {"param": "data[99]"}}', b"x" * 1_000_000]
)
async def test_an_odd_refusal_drops_the_batch(text: bytes, metrics: Metrics) -> None:
    """A 400 that names no item of the batch, however long it is, refuses all of it."""
    async with ingesting(web.Response(status=400, body=text)) as ingest:
        async with teeing(ingest.url, None, metrics, **QUICK) as tee:
            tee.offer(spans(3), KEY)
        assert len(ingest.requests) == 1
    assert outcomes(metrics) == {"dropped_refused": 3}


async def test_small_offers_are_joined_and_large_ones_split(metrics: Metrics) -> None:
    """Requests have up to 128 items, as the SDK's own."""
    async with ingesting() as ingest:
        async with teeing(ingest.url, None, metrics) as tee:
            tee.offer(spans(300), KEY)
            for n in range(300, 400):
                tee.offer(spans(1, n), KEY)
        assert ingest.taken == spans(400)
        assert max(len(items) for _, items in ingest.requests) == 128
        assert len(ingest.requests) < 20


async def test_long_items_travel_in_requests_of_some_megabytes(metrics: Metrics) -> None:
    """Custom data is never cut, so items may be long: they are spread over requests, and one alone may be longer."""
    items = [{"object": "trace.span", "span_data": {"type": "custom", "data": {"x": "y" * 1_500_000}}}] * 5
    items.append({"object": "trace", "id": "trace_1", "metadata": {"x": "y" * 9_000_000}})
    async with ingesting() as ingest:
        async with teeing(ingest.url, None, metrics) as tee:
            tee.offer(items, KEY)
        assert ingest.taken == items
        assert [len(items) for _, items in ingest.requests] == [2, 2, 1, 1]
    assert outcomes(metrics) == {"sent": 6}


async def test_what_is_no_item_is_left_out(metrics: Metrics) -> None:
    """Members that no SDK sends are counted as refused and do not cost OpenAI's refusal of the others."""
    deep: object = []
    for _ in range(3_000):
        deep = [deep]
    nan = {"object": "trace", "id": "trace_1", "metadata": {"bad": float("nan"), "big": 10**30, "s": "\ud800"}}
    levels: object = "leaf"
    for _ in range(300):
        levels = [levels]
    items = [None, "text", 3, [], {}, {"object": "trace.span", "deep": deep}, nan, {"levels": levels}, *spans(1)]
    async with ingesting() as ingest:
        async with teeing(ingest.url, None, metrics) as tee:
            tee.offer(items, KEY)
        cleaned = {"object": "trace", "id": "trace_1", "metadata": {"big": 10**30, "s": "?"}}
        assert ingest.taken == [cleaned, {"levels": levels}, *spans(1)]
    assert outcomes(metrics) == {"sent": 3, "dropped_refused": 6}


@dataclass
class Gate:
    """An answer that comes when it is told to."""

    open: asyncio.Event = field(default_factory=asyncio.Event)
    reached: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, request: web.Request) -> web.Response:
        self.reached.set()
        await self.open.wait()
        return web.Response(status=204)


@pytest.mark.parametrize(
    ("limits", "size"),
    [({"max_queued_bytes": 1_000}, 400), ({"max_queued_items": 25}, None), ({"max_queued_bytes": 30_000}, None)],
)
async def test_a_slow_peer_fills_the_queue_and_no_more(
    limits: dict[str, int], size: int | None, metrics: Metrics
) -> None:
    """Past the bound, in bytes or in items, offers are dropped and counted; the room comes back with the answers."""
    gate = Gate()
    async with ingesting(gate) as ingest, teeing(ingest.url, None, metrics, **limits) as tee:
        tee.offer(spans(10), KEY, size=size)
        await gate.reached.wait()
        for n in range(10, 100, 10):
            tee.offer(spans(10, n), KEY, size=size)
        full = outcomes(metrics)["dropped_full"]
        assert full >= 70
        gate.open.set()
        await until(lambda: sum(outcomes(metrics).values()) == 100)
        assert outcomes(metrics) == {"dropped_full": full, "sent": 100 - full}
        tee.offer(spans(10), KEY, size=size)
    assert outcomes(metrics) == {"dropped_full": full, "sent": 110 - full}


async def test_a_stuck_key_holds_up_nobody_else(metrics: Metrics) -> None:
    """While one caller's request gets no answer, another caller's items arrive."""
    gate = Gate()
    async with ingesting(gate) as ingest, teeing(ingest.url, None, metrics) as tee:
        tee.offer(spans(1), {"Authorization": "Bearer stuck"})
        await gate.reached.wait()
        tee.offer(spans(5, 1), KEY)
        await until(lambda: ingest.taken == spans(5, 1))
        gate.open.set()


async def test_a_stop_drops_what_the_grace_does_not_send(metrics: Metrics) -> None:
    """Leaving does not wait for an answer past the grace; what was queued or under way is counted as dropped."""
    gate = Gate()
    async with ingesting(gate) as ingest:
        async with teeing(ingest.url, None, metrics, grace_seconds=0.05) as tee:
            tee.offer(spans(200), KEY)
            await gate.reached.wait()
        gate.open.set()
    assert outcomes(metrics) == {"dropped_failed": 200}
    tee.offer(spans(1), KEY)
    assert outcomes(metrics) == {"dropped_failed": 201}


async def test_a_dead_peer_is_counted(metrics: Metrics) -> None:
    """Nothing listens: the attempts are made, the items counted, and nothing is raised anywhere."""
    async with teeing(f"http://127.0.0.1:{free_port()}/v1/traces/ingest", None, metrics, **QUICK) as tee:
        tee.offer(spans(300), KEY)
    assert outcomes(metrics) == {"dropped_failed": 300}


@pytest.mark.parametrize("endpoint", ["http://", "nonsense", "http://[::1", "ftp://127.0.0.1/x"])
async def test_a_wrong_endpoint_ends_nothing(endpoint: str, metrics: Metrics) -> None:
    """An address that no request can be made to costs the copy only."""
    try:
        async with teeing(endpoint, None, metrics, **QUICK) as tee:
            tee.offer(spans(2), KEY)
    except ValueError:
        return
    assert outcomes(metrics) == {"dropped_failed": 2}


async def test_the_proxy_of_the_environment(metrics: Metrics, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the SDK would go through a proxy the tee does too, and a .netrc file does not get in its way."""
    (tmp_path / "netrc").write_text("default login nobody password nothing")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    async with ingesting() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1/traces/ingest"))
        async with teeing("http://openai.invalid/v1/traces/ingest", None, metrics, **QUICK) as tee:
            tee.offer(spans(2), KEY)
        ((headers, items),) = proxy.requests
        assert (headers["Host"], headers["Authorization"], items) == ("openai.invalid", "Bearer sk-caller", spans(2))
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        async with teeing(proxy.url, None, metrics, **QUICK) as tee:
            tee.offer(spans(2, 2), KEY)
        assert proxy.requests[1][0]["Host"].startswith("127.0.0.1")


@pytest.mark.parametrize("value", ["Bearer a\r\nX-Evil: 1", "Bearer \udcff", "Bearer \x00", "B" * 100_000])
async def test_an_odd_key_ends_nothing(value: str, metrics: Metrics) -> None:
    """A header that HTTP cannot say, or a peer does not take, drops that caller's items and nobody else's."""
    async with ingesting() as ingest:
        async with teeing(ingest.url, None, metrics, **QUICK) as tee:
            tee.offer(spans(2), {"Authorization": value})
            tee.offer(spans(2, 2), KEY)
        assert ingest.taken[-2:] == spans(2, 2)
        assert all("X-Evil" not in headers for headers, _ in ingest.requests)
    assert sum(outcomes(metrics).values()) == 4


async def test_too_many_callers_are_dropped(metrics: Metrics) -> None:
    """Made-up keys cannot open lanes without end."""
    gates = [Gate() for _ in range(8)]
    async with ingesting(*gates) as ingest, teeing(ingest.url, None, metrics) as tee:
        for n in range(400):
            tee.offer(spans(1), {"Authorization": f"Bearer made-up-{n}"})
        await until(lambda: outcomes(metrics).get("dropped_full") == 400 - 256)
        for gate in gates:
            gate.open.set()
    assert outcomes(metrics) == {"sent": 256, "dropped_full": 144}


async def test_keys_are_not_shown(metrics: Metrics, caplog: pytest.LogCaptureFixture) -> None:
    """Neither logs, reprs nor metrics hold a key, and a dead peer makes one line, not one for each batch."""
    caplog.set_level(logging.DEBUG)
    async with teeing(f"http://127.0.0.1:{free_port()}/", None, metrics, **QUICK) as tee:
        for n in range(5):
            tee.offer(spans(200), {"Authorization": f"Bearer sk-very-secret-{n}"})
        shown = repr(tee) + repr(list(asyncio.all_tasks()))
    records = [record for record in caplog.records if record.name == "grafter.receiver.tee"]
    shown += "".join(repr(record.__dict__) for record in caplog.records)
    shown += "".join(str(metric) for metric in metrics.registry.collect())
    assert "very-secret" not in shown
    assert 1 <= len(records) <= 2


async def test_an_error_of_the_body_passes_as_it_is(metrics: Metrics) -> None:
    """Leaving by an exception flushes, and the exception is not wrapped."""
    async with ingesting() as ingest:

        async def failing() -> None:
            async with teeing(ingest.url, None, metrics) as tee:
                tee.offer(spans(1), KEY)
                raise LookupError("the caller's own")

        with pytest.raises(LookupError, match="the caller's own"):
            await failing()
        assert ingest.taken == spans(1)


steps = st.lists(
    st.sampled_from([204, 204, 200, 400, 401, 408, 429, 500, 302]) | st.integers(0, 40), min_size=0, max_size=12
)


@settings(max_examples=25, deadline=None)
@given(steps, st.lists(st.tuples(st.integers(0, 2), st.integers(0, 60)), max_size=8))
def test_the_books_balance(steps: Sequence[int], offers: Sequence[tuple[int, int]]) -> None:
    """Whatever the peer answers, each item offered is counted once, and each one counted as sent was taken once."""

    async def run() -> None:
        metrics = Metrics()
        answers: list[Step] = [refusal(f"data[{step}].x") if step <= 40 else step for step in steps]
        async with ingesting(*answers) as ingest:
            async with teeing(ingest.url, None, metrics, **QUICK) as tee:
                at = 0
                for caller, count in offers:
                    tee.offer(spans(count, at), {"Authorization": f"Bearer {caller}"})
                    at += count
            counts = outcomes(metrics)
            assert sum(counts.values()) == at
            taken = Counter(json.dumps(item) for item in ingest.taken)
            assert len(taken) == taken.total() == counts.get("sent", 0)

    asyncio.run(run())


class Watched(Sequence[object]):
    """Items that say whether one of them was read."""

    def __init__(self, items: list[object]) -> None:
        self._items = items
        self.read = False

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, at: Any) -> Any:
        self.read = True
        return self._items[at]


async def test_offer_takes_no_time(metrics: Metrics) -> None:
    """An offer reads none of its items in the caller's time, though they are 50,000."""
    items = Watched(spans(50_000))
    async with ingesting() as ingest, teeing(ingest.url, None, metrics, grace_seconds=60) as tee:
        tee.offer(items, KEY)
        assert not items.read
        tee.offer(spans(1), KEY)
        await until(lambda: len(ingest.requests) > 0)
    assert outcomes(metrics) == {"sent": 50_001}
