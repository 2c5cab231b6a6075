"""``python -m bench.failover``: the primary of a Sentinel pair dies under load; second by second what is seen of it.

Two grafters share a Redis with one replica and one sentinel, which holds a primary for dead after 0.5 s of silence
(Redis' own default is 30 s: what is measured here begins when the sentinel has made up its mind). Requests come at a
fixed rate to both and are not repeated, so that each answer is one of the moment. ``--behind``: the replica hears
nothing for so long before the kill. With ``wait_replicas`` the dead server comes back as a replica after three seconds.
"""

import argparse
import asyncio
import os
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.e2e.process import Grafter
from tests.e2e.sink import Sink, listening, spans_of
from tests.store.redis.servers import Pair, info, pair

RATE, SPANS = 100, 20
KILLED_AT, BACK_AFTER, SECONDS = 4.0, 3.0, 16
DURABLE = ("--appendonly", "yes", "--appendfsync", "everysec")


@dataclass
class Second:
    """What the senders and the operator saw in it."""

    answers: Counter[int] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    ready: set[int] = field(default_factory=set)
    up: set[int] = field(default_factory=set)


@dataclass
class Account:
    """Of one run."""

    began: float = field(default_factory=time.monotonic)
    seconds: dict[int, Second] = field(default_factory=dict)
    moments: dict[str, float] = field(default_factory=dict)
    acknowledged: set[bytes] = field(default_factory=set)

    @property
    def now(self) -> float:
        return time.monotonic() - self.began

    def second(self, at: float) -> Second:
        return self.seconds.setdefault(int(at), Second())

    def saw(self, what: str) -> None:
        """The first time only."""
        self.moments.setdefault(what, self.now)


def request(trace: bytes) -> bytes:
    """A whole trace."""
    made = ExportTraceServiceRequest()
    spans = made.resource_spans.add().scope_spans.add().spans
    for number in range(SPANS):
        parent = b"" if number == 0 else trace[:7] + b"\0"
        spans.add(trace_id=trace, span_id=trace[:7] + bytes([number]), parent_span_id=parent, name="step")
    return made.SerializeToString()


async def ask(client: aiohttp.ClientSession, grafter: Grafter, account: Account) -> None:
    """One request; counted in the second in which it was sent."""
    sent, trace = account.now, os.urandom(16)
    second = account.second(sent)
    try:
        headers = {"Content-Type": "application/x-protobuf"}
        async with client.post(f"{grafter.otlp_http}/v1/traces", data=request(trace), headers=headers) as answer:
            body, status = await answer.read(), answer.status
            text = "" if status == 200 else Status.FromString(body).message
    except (aiohttp.ClientError, TimeoutError):
        status, text = 0, "no answer"
    second.answers[status] += 1
    second.slowest = max(second.slowest, account.now - sent)
    if status == 200:
        account.acknowledged.add(trace)
        if "the primary is killed" in account.moments:
            for what in ("the first refusal", "the replica is the primary"):
                if what in account.moments and sent > account.moments[what]:
                    account.saw(f"the first 200 after {what}")
    else:
        account.saw("the first refusal")
        second.reasons[text.split("Redis at ")[-1].split(": ", 1)[-1]] += 1


async def watch(client: aiohttp.ClientSession, running: list[Grafter], account: Account, servers: Pair) -> None:
    """What operators see, ten times a second, and who is the primary."""
    while True:
        for one in running:
            second = account.second(account.now)
            with suppress(aiohttp.ClientError, TimeoutError):
                async with client.get(f"{one.health}/readyz") as answer:
                    second.ready.add(answer.status)
                    if (await answer.json())["troubles"]:
                        account.saw("/readyz names the store")
                up = int((await one.counters(client))["grafter_store_up"])
                second.up.add(up)
                if not up:
                    account.saw("grafter_store_up is 0")
                elif "grafter_store_up is 0" in account.moments:
                    account.saw("grafter_store_up is 1 again")
        if b"role:master" in await asyncio.to_thread(info, servers.replica):
            account.saw("the replica is the primary")
        await asyncio.sleep(0.1)


async def load(client: aiohttp.ClientSession, running: list[Grafter], account: Account) -> None:
    """At a fixed rate, whatever the answers are."""
    async with asyncio.TaskGroup() as asking:
        number = 0
        while account.now < SECONDS:
            asking.create_task(ask(client, running[number % len(running)], account))
            number += 1
            await asyncio.sleep(max(0.0, number / RATE - account.now))


async def disturb(servers: Pair, account: Account, wait_replicas: int, behind: float) -> None:
    await asyncio.sleep(KILLED_AT - behind - account.now)
    if behind:
        # What is on its way to it would reach it after the kill.
        servers.replica.pause()
        servers.primary.ask([("CLIENT", "KILL", "TYPE", "replica")])
        await asyncio.sleep(behind)
    servers.primary.kill()
    account.saw("the primary is killed")
    if behind:
        servers.replica.resume()
    if wait_replicas:
        await asyncio.sleep(BACK_AFTER)
        await asyncio.to_thread(servers.primary.start, "--replicaof", "127.0.0.1", str(servers.replica.port))
        account.saw("the dead server is back as a replica")


async def come_out(sink: Sink, account: Account) -> tuple[set[bytes], int]:
    """The acknowledged traces that did not come out though nothing is held any more, and spans that came twice."""
    counts: Counter[bytes] = Counter()
    read = 0
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:
        for one in sink.requests[read:]:
            counts.update(span.trace_id + span.span_id for span in spans_of(one))
        read = len(sink.requests)
        if not account.acknowledged - {key[:16] for key in counts}:
            break
        await asyncio.sleep(0.2)
    return account.acknowledged - {key[:16] for key in counts}, sum(count - 1 for count in counts.values())


async def run(wait_replicas: int, behind: float) -> None:
    with pair(*DURABLE) as servers, tempfile.TemporaryDirectory(prefix="grafter-failover-") as home:
        async with AsyncExitStack() as stack:
            sink = await stack.enter_async_context(listening())
            running = []
            for _ in range(2):
                directory = Path(await asyncio.to_thread(tempfile.mkdtemp, dir=home))
                store = {"redis": {"url": servers.url, "wait_replicas": wait_replicas, "timeout": "2s"}}
                exporters = {"otlp_grpc/sink": {"endpoint": sink.grpc_endpoint, "tls": {"insecure": True}}}
                running.append(Grafter(directory, exporters, {"after_root": "1s"}, store=store))
                stack.push_async_callback(running[-1].close)
                await running[-1].start()
            client = await stack.enter_async_context(
                aiohttp.ClientSession(
                    timeout=aiohttp.ClientTimeout(10), connector=aiohttp.TCPConnector(limit=0, force_close=True)
                )
            )
            account = Account()
            watching = asyncio.ensure_future(watch(client, running, account, servers))
            try:
                await asyncio.gather(load(client, running, account), disturb(servers, account, wait_replicas, behind))
                lost, repeats = await come_out(sink, account)
            finally:
                watching.cancel()
    say(account, wait_replicas, behind, len(lost), repeats)


def say(account: Account, wait_replicas: int, behind: float, lost: int, repeats: int) -> None:
    print(f"\nwait_replicas: {wait_replicas}" + (f", replica {behind:g} s behind" if behind else ""))
    for what, at in sorted(account.moments.items(), key=lambda one: one[1]):
        print(f"  {at - account.moments['the primary is killed']:+7.2f} s  {what}")
    print("  second     200   503  none  slowest ms  /readyz  store_up  refused because")
    for number in range(SECONDS):
        second = account.second(number)
        print(
            f"  {number - KILLED_AT:+6.0f}  {second.answers[200]:6} {second.answers[503]:5} {second.answers[0]:5}"
            f"  {second.slowest * 1e3:10.0f}  {'/'.join(map(str, sorted(second.ready))):>7}"
            f"  {'/'.join(map(str, sorted(second.up))):>8}  {', '.join(dict(second.reasons.most_common(2)))}"
        )
    print(f"  acknowledged {len(account.acknowledged)} traces; lost {lost}; spans that came twice {repeats}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.failover")
    parser.add_argument("--wait-replicas", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--behind", type=float, nargs="+", default=[0.0, 0.5])
    options = parser.parse_args()
    for wait_replicas in options.wait_replicas:
        for behind in options.behind:
            asyncio.run(run(wait_replicas, behind))


if __name__ == "__main__":
    main()
