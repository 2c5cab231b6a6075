"""Workers behind one set of ports: real processes, real sockets, and one of them killed."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import orjson
import psutil
import pytest
from prometheus_client.multiprocess import MultiProcessCollector

from grafter.workers.supervisor import Fleet, Supervised, supervising
from tests.exporter.doubles import TRACES_METHOD, spans_in
from tests.rig import recorded_call
from tests.test_service import PATIENCE, PROTOBUF, Backend, backend, get, post
from tests.workers.fleet import WORKERS, config, place, sections, sums

DOORS = ("otlp_grpc", "otlp_http", "openai", "health", "metrics")


@pytest.fixture
async def out() -> AsyncIterator[Backend]:
    """Where traces go."""
    async with backend() as made:
        yield made


@pytest.fixture
async def fleet(out: Backend, tmp_path: Path) -> AsyncIterator[Supervised]:
    """Two workers that are ready."""
    async with supervising(config(sections(out.url, tmp_path))) as running:
        yield running


async def until(holds: Callable[[], Any]) -> None:
    """Return when it holds, looking again and again."""
    async with asyncio.timeout(PATIENCE):
        while not await holds():  # noqa: ASYNC110  # a page wakes nobody
            await asyncio.sleep(0.01)


async def page(served: Supervised) -> dict[str, float]:
    """/metrics, summed over labels."""
    return sums((await get(served.ports["metrics"], "/metrics"))[1])


ALL_READY = (200, {"status": "ready", "troubles": {}})


async def ready(served: Supervised) -> tuple[int, dict[str, Any]]:
    """/readyz."""
    status, body = await get(served.ports["health"], "/readyz")
    return status, orjson.loads(body)


def trace(number: int) -> bytes:
    """The recorded call under a trace id of its own."""
    ids = {span.trace_id for span in spans_in(recorded_call())}
    body = recorded_call()
    for one in ids:
        body = body.replace(one, number.to_bytes(16, "big"))
    return body


SPANS = len(spans_in(recorded_call()))


class Sender:
    """A client that sends whole traces over new connections, and sends again what was not answered."""

    def __init__(
        self,
        ports: dict[str, int],
        bodies: Callable[[int], list[bytes]] = lambda number: [trace(number)],
        first: int = 0,
    ) -> None:
        """``bodies``: the requests of a trace by its number; ``first``: the number before the first."""
        self._ports = ports
        self._bodies = bodies
        self.sent = first
        self.retries = 0
        self.odd: list[str] = []
        """Failures other than a connection that broke or was refused."""

    async def send(self) -> None:
        """One trace, by one door or the other, until all of it is acknowledged."""
        self.sent += 1
        door = self._grpc if self.sent % 2 else self._http
        for body in self._bodies(self.sent):
            while not await door(body):
                self.retries += 1
                await asyncio.sleep(0.01)

    async def _grpc(self, body: bytes) -> bool:
        # A channel of its own: otherwise the process shares one connection for all.
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self._ports['otlp_grpc']}", options=options) as channel:
            try:
                await channel.unary_unary(TRACES_METHOD)(body, timeout=PATIENCE)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    self.odd.append(str(error.code()))
                return False
            return True

    async def _http(self, body: bytes) -> bool:
        try:
            status = await post(self._ports["otlp_http"], "/v1/traces", body, PROTOBUF)
        except aiohttp.ClientConnectionError:
            return False
        if status != 200:
            self.odd.append(str(status))
        return status == 200


async def test_workers_share_the_ports_and_answer_as_one(fleet: Supervised, out: Backend) -> None:
    """On ports that were picked, each worker gets its share; /readyz and /metrics speak for both: memory of all three
    processes is one number, and no series carries a process id."""
    assert set(fleet.ports) == set(DOORS)
    assert all(fleet.ports.values())
    assert (await ready(fleet))[0] == 200
    sender = Sender(fleet.ports)
    for _ in range(40):
        await sender.send()
    await out.spans(40 * SPANS)
    assert (sender.odd, sender.retries) == ([], 0)
    assert [listeners(pid, fleet.ports) for pid in fleet.fleet.pids] == [{"otlp_grpc", "otlp_http", "openai"}] * WORKERS
    # One chance in a quarter of a million that one worker gets all connections of a door.
    for door in ("grpc", "http"):
        shares = [accepted_by(fleet, number, door) for number in range(WORKERS)]
        assert sum(shares) == 20 * SPANS
        assert all(shares)
    found = await page(fleet)
    assert found["grafter_receiver_accepted_spans_total"] == 40 * SPANS
    assert found["grafter_exporter_sent_spans_total"] == 40 * SPANS
    assert found["grafter_receiver_request_seconds_count"] == 40
    assert (found["grafter_workers"], found["grafter_worker_restarts_total"]) == (WORKERS, 0)
    assert found["grafter_store_up"] == 1
    resident = sum(psutil.Process(pid).memory_info().rss for pid in (os.getpid(), *fleet.fleet.pids))
    _, text = await get(fleet.ports["metrics"], "/metrics")
    assert sums(text)["process_resident_memory_bytes"] == pytest.approx(resident, rel=0.2)
    assert "pid=" not in text


def accepted_by(served: Supervised, number: int, door: str) -> float:
    """Spans that one worker accepted at one door, by its own file."""
    (file,) = Path(served.fleet.directory).glob(f"counter_{number}.db")
    samples = [one for family in MultiProcessCollector.merge([str(file)]) for one in family.samples]
    name = "grafter_receiver_accepted_spans_total"
    return sum(one.value for one in samples if one.name == name and one.labels["transport"] == door)


def listeners(pid: int, ports: dict[str, int]) -> set[str]:
    """The doors at which a process listens."""
    at = {one.laddr.port for one in psutil.Process(pid).net_connections("tcp") if one.status == psutil.CONN_LISTEN}
    return {door for door, port in ports.items() if port in at}


async def test_a_killed_worker_comes_back_and_nothing_counted_is_lost(
    fleet: Supervised, out: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    """Under load: a retry mends all that clients see; the sums go on from where the dead worker's ended."""
    sender = Sender(fleet.ports)
    for _ in range(20):
        await sender.send()
    await out.spans(20 * SPANS)
    before = await page(fleet)
    victim, other = fleet.fleet.pids
    killed = asyncio.Event()

    async def load() -> None:
        while not (killed.is_set() and len(fleet.fleet.pids) == WORKERS and victim not in fleet.fleet.pids):
            await sender.send()

    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
        loads = [tasks.create_task(load()) for _ in range(4)]
        while sender.sent < 40:  # noqa: ASYNC110  # the load goes on meanwhile
            await asyncio.sleep(0.01)
        os.kill(victim, signal.SIGKILL)
        killed.set()
        await asyncio.wait(loads)
    assert sender.odd == []

    async def again() -> bool:
        return await ready(fleet) == ALL_READY

    await until(again)
    assert other in fleet.fleet.pids
    for _ in range(20):
        await sender.send()
    after = await page(fleet)
    # What the dead worker had acknowledged but not yet sent on was in its memory: only the counts are compared here.
    counted = after["grafter_receiver_accepted_spans_total"]
    assert before["grafter_receiver_accepted_spans_total"] == 20 * SPANS
    # It may have died between keeping a trace and counting it.
    assert (sender.sent - 4) * SPANS <= counted <= (sender.sent + sender.retries) * SPANS
    assert (after["grafter_workers"], after["grafter_worker_restarts_total"]) == (WORKERS, 1)
    assert after["process_cpu_seconds_total"] > before["process_cpu_seconds_total"]
    assert "a worker was ended by SIGKILL; starting it again in 0.2 s" in caplog.text


async def test_readyz_names_a_worker_that_is_away(fleet: Supervised) -> None:
    """While one is gone /readyz says which, and stays 200: the other goes on taking traces."""
    os.kill(fleet.fleet.pids[1], signal.SIGKILL)

    async def away() -> bool:
        status, body = await ready(fleet)
        # The other one serves.
        assert (status, body["status"]) == (200, "ready")
        return "SIGKILL" in body["troubles"].get("worker 1", "")

    await until(away)
    sender = Sender(fleet.ports)
    await sender.send()
    assert sender.odd == []

    async def back() -> bool:
        return (await ready(fleet)) == ALL_READY

    await until(back)


async def test_a_worker_that_hangs_is_named(fleet: Supervised) -> None:
    """One that does not answer is a trouble; the page and the others stay."""
    frozen = fleet.fleet.pids[0]
    os.kill(frozen, signal.SIGSTOP)
    try:
        status, body = await ready(fleet)
        found = await page(fleet)
    finally:
        os.kill(frozen, signal.SIGCONT)
    assert (status, body["troubles"]) == (200, {"worker 0": "does not answer"})
    assert found["grafter_store_up"] == 1

    async def back() -> bool:
        return (await ready(fleet)) == ALL_READY

    await until(back)


async def test_a_start_that_fails_is_one_error(out: Backend, tmp_path: Path) -> None:
    """What one worker cannot open none can: its words come out once, and nothing is left running."""
    said = sections(out.url, tmp_path)
    said["receivers"]["otlp"]["protocols"]["http"]["tls"] = {"cert_file": "/none.pem", "key_file": "/none.key"}
    with pytest.raises(OSError, match=r"^/none\.pem: no such file or directory$"):
        async with supervising(config(said)):
            pass
    assert psutil.Process().children() == []


async def test_a_worker_that_dies_at_its_start_is_an_error(out: Backend, tmp_path: Path) -> None:
    """A start that crashes is not tried again and again: the first one fails, and nothing is left running."""

    async def kill_one() -> None:
        this = psutil.Process()
        while not (born := this.children()):  # noqa: ASYNC110  # a turn of the loop each time
            await asyncio.sleep(0)
        born[0].kill()

    async with asyncio.timeout(PATIENCE):
        killing = asyncio.ensure_future(kill_one())
        with pytest.raises(OSError, match=r"^a worker was ended by SIGKILL before it was ready$"):
            async with supervising(config(sections(out.url, tmp_path))):
                pass
        await killing
    assert psutil.Process().children() == []


@pytest.mark.parametrize("door", DOORS)
async def test_a_port_in_use_is_an_error_before_any_worker(out: Backend, tmp_path: Path, door: str) -> None:
    """Whichever door it is: the error names the endpoint."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        endpoint = f"127.0.0.1:{taken.getsockname()[1]}"
        said = sections(out.url, tmp_path)
        place(said, door)["endpoint"] = endpoint
        with pytest.raises(OSError, match=f"{endpoint}: address already in use"):
            async with supervising(config(said)):
                pass


async def test_a_second_grafter_does_not_share_by_accident(fleet: Supervised, out: Backend, tmp_path: Path) -> None:
    """Workers of another parent are refused the port that these workers share."""
    said = sections(out.url, tmp_path)
    endpoint = f"127.0.0.1:{fleet.ports['otlp_http']}"
    place(said, "otlp_http")["endpoint"] = endpoint
    with pytest.raises(OSError, match=f"{endpoint}: address already in use"):
        async with supervising(config(said)):
            pass


def test_a_fleet_that_has_not_begun_knows_nothing(tmp_path: Path) -> None:
    """No process, no port, and a page all the same."""
    fresh = Fleet(config({"service": {"workers": 3}}), str(tmp_path))
    assert (fresh.pids, fresh.ports, fresh.orderly) == ([], {}, True)
    found = sums(fresh.page.text().decode())
    assert (found["grafter_workers"], "grafter_held_traces" in found) == (0, False)
