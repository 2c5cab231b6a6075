"""What stands round every attempt over a network: bounded concurrency, backoff, halving, the books.

The rule is that nothing is lost and nothing waits here: a trace is taken, refused for good by itself, or given back at
once to the store with the moment of the next try. An attempt whose outcome is unknown is never repeated here, for the
spans of the repeat must say that they are one. What to ask for next after a refusal is for ``halving``.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from grafter.consumer import Batch, Outage, OutTrace, Result, Signal, Verdict
from grafter.core.refusals import Refusals
from grafter.core.retry import RetryPolicy
from grafter.errors import RejectedError, TooLargeError, UnavailableError
from grafter.exporter.answer import TRACES, Accepted, Attempt, ExportAnswer, Kind, Later, Refused
from grafter.exporter.cut import Limits
from grafter.exporter.gate import Gate, Ticket
from grafter.exporter.halving import ACCEPTED, Halving
from grafter.logs import Throttle
from grafter.otlp import build
from grafter.telemetry import Metrics

logger = logging.getLogger(__name__)

# A blip (a connection that was just closed, a load balancer between two servers) is over in less than this; whatever
# lasts longer is the store's to wait for.
BLIP_PAUSES_SECONDS = (0.1, 0.4)
BLIP_SECONDS = 1.0


class Sending:
    """An Exporter over one Attempt."""

    def __init__(
        self,
        name: str,
        attempt: Attempt,
        *,
        metrics: Metrics,
        retry: RetryPolicy,
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.name = name
        self._attempt = attempt
        self._clock = clock
        self._random = random
        self._sleep = sleep
        self._retry = retry
        self._limits = limits
        self._pauses = BLIP_PAUSES_SECONDS if retry.enabled else ()
        self._slots = asyncio.Semaphore(limits.num_consumers)
        self._gates: dict[Kind, Gate] = {
            TRACES: Gate(name, retry, clock, random, metrics.exporter_up.labels(name).set),
            # A backend may take traces and know no metrics: one signal's trouble is not another's.
            Signal.METRICS: Gate(f"{name} (metrics)", retry, clock, random),
            Signal.LOGS: Gate(f"{name} (logs)", retry, clock, random),
        }
        metrics.exporter_up.labels(name).set(True)
        self._sent = metrics.sent_spans.labels(name)
        self._failed = metrics.failed_spans.labels(name)
        self._rejected = metrics.rejected_spans.labels(name)
        self._resent = metrics.resent_spans.labels(name)
        self._seconds = metrics.exporter_seconds.labels(name)
        self._refusals = Refusals()
        self._throttle = Throttle(clock=clock)

    def outages(self) -> Mapping[str, Outage]:
        return {gate.name: outage for gate in self._gates.values() if (outage := gate.outage()) is not None}

    def retry_in(self) -> float:
        return self._gates[TRACES].wait()

    async def export(self, batch: Batch) -> Sequence[Result]:
        if not batch.traces:
            return []
        gate = self._gates[TRACES]
        async with self._turn(gate) as ticket:
            if ticket is None:
                return [Result(Verdict.LATER, gate.last_error, gate.wait())] * len(batch.traces)
            results = await self._deliver(batch, gate, ticket)
        if batch.runs is not None and results.count(ACCEPTED) == len(results):
            self._sent.inc(batch.spans)
        else:
            self._count(batch.traces, results)
        return results

    async def forward(self, signal: Signal, request: bytes) -> None:
        gate = self._gates[signal]
        async with self._turn(gate) as ticket:
            if ticket is None:
                raise UnavailableError(f"{self.name}: {gate.last_error}", retry_after=gate.wait())
            answer = await self._try(signal, request, gate, ticket, 0)
            match answer:
                case Accepted():
                    gate.succeed(ticket)
                    self._report(signal, answer)
                case Refused():
                    gate.succeed(ticket)
                    text = f"{self.name}: {answer.reason}"
                    raise TooLargeError(text) if answer.too_large else RejectedError(text, reason="refused")
                case Later():
                    wait = gate.fail(ticket, answer)
                    raise UnavailableError(f"{self.name}: {answer.reason}", retry_after=wait)

    @asynccontextmanager
    async def _turn(self, gate: Gate) -> AsyncIterator[Ticket | None]:
        """A place among the requests on their way; None where the peer is not worth one now."""
        if gate.wait() > 0:
            yield None
            return
        async with self._slots:
            # The peer may have gone while this one stood in line.
            ticket = gate.enter()
            try:
                yield ticket
            finally:
                if ticket is not None:
                    gate.leave(ticket)

    async def _deliver(self, batch: Batch, gate: Gate, ticket: Ticket) -> list[Result]:
        """Send the batch, in as many requests as the peer makes it take."""
        first = await self._send_runs(batch, gate, ticket)
        if isinstance(first, Accepted):
            return [ACCEPTED] * len(batch.traces)
        search = Halving(batch, self._refusals, self._limits)
        while attempt := search.next():
            group, body = attempt
            spans = sum(trace.spans for _, trace in group)
            answer, first = first or await self._try(TRACES, body, gate, ticket, spans), None
            match answer:
                case Accepted():
                    gate.succeed(ticket)
                    search.took(group, self._clock())
                    self._report(TRACES, answer)
                case Refused():
                    search.refuse(group, len(body), answer)
                case Later():
                    wait = gate.fail(ticket, answer)
                    # What may be the reason for the peer's silence should not be the next to try it.
                    own = wait * (1 + self._random()) if answer.unknown else wait
                    search.give_back(answer.reason, wait, own, group, unknown=answer.unknown)
        if suspects := search.suspects:
            self._failed.inc(sum(trace.spans for trace in suspects))
            if search.out or self._refusals.out(self._clock()):
                keys = {trace.key for trace in suspects}
                # A lone one may stay for as long as nothing else is sent.
                what = "whatever it is sent" if len(keys) > 1 else f"trace {keys.pop().hex()}, and took no other lately"
                reason = f"it refuses {what}: {search.refused.reason}"
                wait = gate.fail(ticket, Later(reason))
                # The next to try it is one that was not asked yet.
                search.give_back(reason, wait, wait * (1 + self._random()))
            else:
                wait = self._retry.wait(1, self._random())
                search.give_back(search.refused.reason, wait, wait)
                self._log_suspected(suspects[0], search.refused)
        return search.results()

    async def _send_runs(self, batch: Batch, gate: Gate, ticket: Ticket) -> ExportAnswer | None:
        """The answer to the whole batch, where its payloads came in runs: nearly always that is all, and no trace has
        to be looked at on its own. None where it does not go in one request."""
        limits = self._limits
        if batch.runs is None or batch.spans > limits.batch_spans or batch.size > limits.batch_bytes:
            return None
        body = build.of_runs(batch.runs)
        # The batch's size is without the envelopes, of which each trace may have one of its own.
        if len(body) > limits.request_bytes:
            return None
        answer = await self._try(TRACES, body, gate, ticket, batch.spans)
        if isinstance(answer, Accepted):
            gate.succeed(ticket)
            self._refusals.took([trace.key for trace in batch.traces] if self._refusals.any else (), self._clock())
            self._report(TRACES, answer)
        return answer

    def _log_suspected(self, trace: OutTrace, answer: Refused) -> None:
        if times := self._throttle.due("suspect"):
            logger.warning(
                "%s: the peer refused trace %s; it stays held until others show whether that is about the trace or the"
                " peer (such refusals since the last line: %d): %s",
                self.name,
                trace.key.hex(),
                times,
                answer.reason,
            )

    async def _try(self, kind: Kind, body: bytes, gate: Gate, ticket: Ticket, spans: int) -> ExportAnswer:
        """One attempt, and one or two more when it looks like a blip."""
        first = self._clock()
        for pause in (*self._pauses, None):
            started = self._clock()
            answer = await self._attempt.send(kind, body)
            ended = self._clock()
            self._seconds.observe(ended - started)
            if not isinstance(answer, Later):
                return answer
            self._failed.inc(spans)
            blip = not (answer.unknown or answer.fault) and not ticket.probe and gate.down_since is None
            if pause is None or not blip or ended - first > BLIP_SECONDS or (answer.retry_after or 0.0) > pause:
                return answer
            await self._sleep(self._retry.jittered(pause, self._random()))
        raise AssertionError("the last pause is None")

    def _count(self, traces: Sequence[OutTrace], results: Sequence[Result]) -> None:
        # By trace and not by request, so that a trace that was cut and taken in part stands in the books once. Spans
        # that the peer threw away by a partial success have been sent as well: nothing else will become of them.
        sent = resent = 0
        for trace, result in zip(traces, results, strict=True):
            if result.verdict is Verdict.ACCEPTED:
                sent += trace.spans
            elif result.part is not None:
                sent += trace.spans - result.part.spans
            if not (result.verdict is Verdict.ACCEPTED or result.unknown):
                continue
            if trace.resend:
                resent += trace.spans
        if sent:
            self._sent.inc(sent)
        if resent:
            self._resent.inc(resent)

    def _report(self, kind: Kind, answer: Accepted) -> None:
        """Count what the peer threw away, and log what it says of that now and then."""
        if not answer.rejected and not answer.message:
            return
        if kind == TRACES:
            self._rejected.inc(answer.rejected)
        # A refusal of this kind may come with every request.
        if answers := self._throttle.due(kind):
            logger.warning(
                "%s: the peer took a request of %s but rejected %d items of it"
                " (such answers since the last line: %d): %s",
                self.name,
                kind,
                answer.rejected,
                answers,
                answer.message,
            )
