"""Builds the rooms from the config and keeps them running: the only room that knows them all.

The text of ``running`` is the start order from top to bottom and the stop order from bottom to top: the receivers open
last and close first, so that at a stop new input is refused, what is in flight is finished, and what is held stays in
the store for the next start.
"""

import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, fields, replace
from time import time_ns
from typing import TYPE_CHECKING, Any

from grafter import __version__, announcing
from grafter.arrival_clock import keeping_time
from grafter.calls.call_link import CallLinks
from grafter.components import Config
from grafter.config.model import revealed
from grafter.config.problems import path_of
from grafter.config.root import listening
from grafter.consumer import Consumer, OpenedExporter, Signal
from grafter.core.model import DedupeKey, NamedLink, Part, UnixNano
from grafter.core.policy import SECOND, RedactAction
from grafter.errors import UnavailableError
from grafter.exporter.backlogs import Backlogs
from grafter.exporter.dead_letters import DeadLetters
from grafter.health import Health, Phase, health_app, metrics_app
from grafter.memory_limit import guarding, total_memory
from grafter.otlp.split import COMPILED
from grafter.process import (
    collecting_garbage,
    run_to_end,
    started,
    stop_signals,
    taking_turns,
    tune_allocator,
)
from grafter.processor.assembling import Assembler
from grafter.processor.call_records import CallKeys, CallRecords
from grafter.processor.lanes import Limits
from grafter.processor.processor import Processor
from grafter.receiver.address import check_all
from grafter.receiver.call_webhook import call_webhook
from grafter.receiver.config import Surroundings
from grafter.receiver.http_server import serving
from grafter.receiver.in_flight import BUDGET_BYTES, InFlight
from grafter.receiver.otlp import Forwarding
from grafter.store.config import error_of
from grafter.store.model import FORGOTTEN_BY, Backlog, Share
from grafter.telemetry import BacklogHeld, DeadLettersHeld, Held, HeldFor, Metrics, StoreGauges

if TYPE_CHECKING:
    from grafter.calls.sql_map import SqlCallMap
    from grafter.store.config import OpenedStore

logger = logging.getLogger(__name__)

# The shares of the shutdown timeout that requests in flight may take, and what leaving the store may take; the rest is
# for the batches on their way out.
_RECEIVER_SHARE, _STORE_SHARE = 0.3, 0.1

_NO_BACKLOG = Backlog(0, 0, 0, None)
_AS_THEY_ARE = [gauge.name for gauge in fields(StoreGauges)]


@dataclass(frozen=True, slots=True)
class Worker:
    """What makes a service one of ``service.workers`` processes.

    Receivers share ports that their parent holds, memory is shared out among them, and /healthz, /readyz and /metrics
    are the parent's to answer.
    """

    replica: bytes
    """8 bytes by which a store that they share knows it; the one that takes the place of a dead worker has the same."""
    first: bool = True
    """It does what one of them does for all: the lookup page."""
    uncounted: Callable[[Held, int, Collection[str]], int] = lambda _held, _recovered, _exporters: 0
    """Spans that one that was killed in its place had not counted, by what is held, what the store has recovered, and
    who gets traces."""


@dataclass(slots=True)
class Running:
    metrics: Metrics
    health: Health
    ports: dict[str, int] = field(default_factory=dict)
    """By receiver: otlp_grpc, otlp_http, openai, health, metrics, lookup; of ``otlp/name`` as ``otlp_grpc/name``."""
    count_recovered: Callable[[], None] = lambda: None
    """Adds what the store has found so far to the metrics."""
    held: Callable[[], Held] = Held.nothing
    """What is held now."""


@asynccontextmanager
async def running(
    config: Config, metrics: Metrics | None = None, *, worker: Worker | None = None, health: Health | None = None
) -> AsyncIterator[Running]:
    """Run everything that the config names until left.

    As a ``worker`` it is one of several, and not the one that answers for them. ``health`` says how it is from the
    beginning on, also while a start waits for the store.
    Raises OSError or ValueError, with a message for people, when something cannot be opened.
    """
    metrics = metrics or Metrics()
    active = config.active()
    shutdown_seconds = config.service.shutdown_timeout.seconds
    receiver_seconds = shutdown_seconds * _RECEIVER_SHARE
    service = Running(metrics, health or Health())
    async with AsyncExitStack() as stack:
        if worker is None:
            await check_all((path_of(loc), endpoint) for loc, endpoint in listening(config))
            if (check := config.extensions.health_check) is not None:
                service.health.readiness_on_store = check.readiness_on_store
                _, service.ports["health"] = await stack.enter_async_context(
                    serving(health_app(service.health), check.endpoint, None, 1.0)
                )
            scraped = metrics_app(metrics, lambda: service.count_recovered())
            _, service.ports["metrics"] = await stack.enter_async_context(
                serving(scraped, config.service.telemetry.metrics.endpoint, None, 1.0)
            )
        policy = config.graft_policy()
        workers = 1 if worker is None else config.service.workers
        total = total_memory(processes=workers)
        memory = None if total is None else config.service.memory_limit.of(total * workers) // workers
        replica = b"" if worker is None else worker.replica
        tracing = active.pipelines["traces"].exporters
        awaited: dict[str, str] = {}
        service.health.errors = lambda: awaited
        store = await stack.enter_async_context(
            config.extensions.store.open(
                policy,
                memory,
                replica,
                tracing,
                waiting=lambda why: awaited.update(store=f"waiting for it: {why}"),
                goodbye_seconds=shutdown_seconds * _STORE_SHARE,
            )
        )
        # What is opened next may take its time too, and is not what the store has to do with.
        awaited.clear()
        policy = replace(policy, redact=replace(policy.redact, secret=store.hmac_secret()))
        clock = await stack.enter_async_context(keeping_time(store, metrics))
        extension = config.extensions.calls
        calls = records = None
        lookup, links = config.extensions.lookup, None
        if extension is not None:
            if lookup is not None:
                links = CallLinks(
                    policy.redact.secret,
                    int(lookup.link_expires),
                    lambda: lookup.public_address(service.ports.get("lookup")),
                )
            webhooks = [
                await stack.enter_async_context(
                    call_webhook(one.name, one.url, one.secret.get_secret_value(), links, time_ns)
                )
                for one in extension.webhooks
            ]
            calls = await stack.enter_async_context(
                extension.open(store, policy.redact.secret, metrics, clock, webhooks=webhooks)
            )
            hashed = policy.redact.keys if policy.redact.action is RedactAction.HMAC else ()
            keys = CallKeys(**{name: getattr(extension.keys, name) for name in type(extension.keys).model_fields})
            records = CallRecords(calls.backlog, keys, calls.read_number, clock, hashed, plain=calls.numbers.plain)
        exporters = {
            name: await stack.enter_async_context(exporter.open(name, metrics))
            for name, exporter in active.exporters.items()
        }
        _watch(service, store, exporters, clock, calls, tracing)
        if worker is not None:
            metrics.recovered_spans.inc(worker.uncounted(service.held(), store.stats().recovered_spans, tracing))
        stack.callback(_log_held, config, service)
        processor = Processor(
            store,
            [exporters[name] for name in tracing],
            policy,
            Assembler(policy, __version__, config.sampling_policy()),
            metrics,
            clock,
            Limits(lease_seconds=config.extensions.store.lease.seconds),
            records,
        )
        await stack.enter_async_context(processor.running(shutdown_seconds * (1 - _RECEIVER_SHARE - _STORE_SHARE)))
        await stack.enter_async_context(collecting_garbage())
        stack.enter_context(taking_turns())
        consumer: Consumer = processor
        in_flight = InFlight(BUDGET_BYTES if memory is None else min(BUDGET_BYTES, memory // 4))
        if memory is not None:
            consumer = await stack.enter_async_context(
                guarding(processor, memory, lambda: store.memory_bytes + in_flight.bytes + processor.memory_bytes)
            )
        forwarding = Forwarding(
            {
                one: [exporters[name] for name in active.pipelines[one.value].exporters]
                for one in Signal
                if one.value in active.pipelines
            },
            metrics,
        )
        around = Surroundings(
            in_flight=in_flight,
            consumer=_Gate(consumer, service.health),
            storing=consumer,
            forwarding=forwarding,
            policy=policy,
            metrics=metrics,
            # They close one after the other.
            grace_seconds=receiver_seconds / len(active.receivers),
            store=store,
            clock=clock,
            lease_seconds=config.extensions.store.lease.seconds,
            dead_letters=DeadLetters(store, exporters, metrics, clock),
            backlogs=Backlogs(store, exporters, metrics, clock),
            admin_tokens=revealed(config.extensions.admin.tokens),
            share_ports=worker is not None,
            calls=calls,
            calls_id_keys=() if extension is None else extension.keys.ids,
            calls_tokens=() if extension is None else revealed(extension.tokens),
            links=links,
        )
        for name, receiver in active.receivers.items():
            service.ports.update(await stack.enter_async_context(receiver.open(name, around)))
        reminding = announcing.reminding(
            exporters,
            service.held,
            lambda: store.stats().recovering,
            unwanted=lambda: _unwanted(store.stats().backlogs, tracing).values(),
        )
        await stack.enter_async_context(reminding)
        if lookup is not None and calls is not None and (worker is None or worker.first):
            service.ports["lookup"] = await stack.enter_async_context(lookup.open(calls, __version__, links))
        service.health.phase = Phase.RUNNING
        split = "compiled" if COMPILED else "python"
        logger.info("grafter %s is running", __version__, extra={**service.ports, "split": split})
        try:
            yield service
        finally:
            service.health.phase = Phase.STOPPING


class _Gate(Consumer):
    """A Consumer in front of another: refuses once a stop has begun, for the receivers close one after the other."""

    def __init__(self, consumer: Consumer, health: Health) -> None:
        self._consumer = consumer
        self._health = health

    async def consume(
        self, parts: Sequence[Part], dedupe_keys: Sequence[DedupeKey] = (), links: Sequence[NamedLink] = ()
    ) -> None:
        """As the consumer behind it, but for UnavailableError while stopping."""
        if self._health.phase is Phase.STOPPING:
            raise UnavailableError("stopping", reason="stopping")
        await self._consumer.consume(parts, dedupe_keys, links)


def _watch(
    service: Running,
    store: "OpenedStore",
    exporters: Mapping[str, OpenedExporter],
    clock: Callable[[], int],
    calls: "SqlCallMap | None",
    tracing: Collection[str],
) -> None:
    """Wire the gauges and the errors of /readyz to the store and the exporters; ``tracing``: who gets traces."""
    recovered = forgotten_keys = lost = 0
    forgotten = dict.fromkeys(FORGOTTEN_BY, 0)

    def count_recovered() -> None:
        nonlocal recovered, forgotten_keys, lost
        found = store.stats().recovered_spans
        service.metrics.recovered_spans.inc(found - recovered)
        recovered = found
        for why, number in store.forgotten.items():
            service.metrics.forgotten_traces.labels(why).inc(number - forgotten[why])
            forgotten[why] = number
        service.metrics.forgotten_marks.inc(store.forgotten_marks - forgotten_keys)
        forgotten_keys = store.forgotten_marks
        service.metrics.lost_records.inc(store.lost_records - lost)
        lost = store.lost_records

    def held() -> Held:
        stats = store.stats()
        own = stats.own or Share(stats.traces, stats.spans, stats.bytes, stats.oldest)
        as_they_are: dict[str, Any] = {name: getattr(stats, name) for name in _AS_THEY_ARE}
        return Held(
            **as_they_are,
            traces=own.traces,
            spans=own.spans,
            bytes=own.bytes,
            oldest_seconds=_age(own.oldest, clock()),
            store_up=store.up and not store.full,
            replicas=[
                HeldFor(number, share.traces, share.spans, share.bytes, _age(share.oldest, clock()))
                for number, share in stats.replicas.items()
            ],
            letters=[
                DeadLettersHeld(name, box.letters, box.spans, box.bytes)
                for name, box in sorted(stats.dead_letters.items())
            ],
            backlogs=[
                BacklogHeld(name, one.spans, one.bytes, _age(one.oldest, clock()))
                for name, one in sorted((dict.fromkeys(tracing, _NO_BACKLOG) | dict(stats.backlogs)).items())
                # What was given up of an exporter that gets nothing is no longer a backlog of 0.
                if one.batches or name in tracing
            ],
        )

    def errors() -> dict[str, str]:
        found = {}
        if wrong := error_of(store):
            found["store"] = wrong
        if store.stats().recovering:
            found["recovery"] = "the index is being rebuilt; input is taken"
        for exporter in exporters.values():
            for name, outage in exporter.outages().items():
                found[name] = f"has taken nothing for {outage.seconds:.0f} s: {outage.reason}"
        found |= {f"backlog of {name}": line for name, line in _unwanted(store.stats().backlogs, tracing).items()}
        if calls is not None:
            found |= calls.errors()
        return found

    service.count_recovered = count_recovered
    service.metrics.watch(held)
    service.held = held
    service.health.errors = errors
    service.health.takes_parts = lambda: store.up and not store.full


def _unwanted(backlogs: Mapping[str, Backlog], tracing: Collection[str]) -> dict[str, str]:
    """What waits for exporters that get no traces any more, by their names."""
    return {
        name: f"{one.spans} spans wait for exporter {name}, which gets no traces by this config: name it there again, "
        f"or give them up with `grafter backlog drop {name}`"
        for name, one in backlogs.items()
        if one.spans and name not in tracing
    }


def _log_held(config: Config, service: Running) -> None:
    """At a stop, when nothing is on its way any more; a start that failed has a line of its own."""
    if service.health.phase is Phase.STOPPING:
        store = config.extensions.store
        announcing.log_held(service.held(), lasting=store.redis is not None or not store.embedded.memory)


def _age(moment: UnixNano | None, now: int) -> float:
    """In seconds; of nothing 0."""
    return 0.0 if moment is None else max(0.0, (now - moment) / SECOND)


async def _serve(config: Config, files: Sequence[str]) -> int:
    # One second more, for what ends by itself at the very end.
    with stop_signals(within=config.service.shutdown_timeout.seconds + 1.0) as stop:
        async with started(running(config), stop) as service:
            if service is not None:
                announcing.log_config(config, files)
            await stop.wait()
    return 0


def run(config: Config, files: Sequence[str] = ()) -> int:
    """Run until SIGTERM or SIGINT; the exit code: 0 after an orderly stop, 1 when it could not start or failed.

    ``files``: where the config came from.
    """
    announcing.open_log(config)
    tune_allocator(total_memory())
    return run_to_end(_serve(config, files))
