"""NATS by nats-py, core and JetStream: what no instrumentation carries.

``otel-instrumentation-nats`` traces ``publish`` and subscriptions with a callback. Iterators, ``next_msg`` and
JetStream's ``fetch`` hand messages out where no callback is, so that the context has to be taken up there:

    async for message in subscription.messages:
        with received(message):
            ...
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Final

from grafter_propagation.calls import continue_call
from grafter_propagation.context import inject

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

_OWN: Final = ("_INBOX.", "$JS.")
"""Subjects of NATS' own workings: a span for each of them would only be noise."""


async def publish(
    to: Any,
    subject: str,
    payload: bytes = b"",
    *,
    headers: Mapping[str, str] | None = None,
    tracer: Tracer | None = None,
    **more: Any,
) -> Any:
    """``await to.publish(…)`` in a span of its own that the headers name; ``to``: a client or its JetStream.

    Gives back what it gave (JetStream: the acknowledgement). ``more``: its other arguments.
    """
    with _sending(subject, tracer):
        return await to.publish(subject, payload, headers=inject(headers) or None, **more)


async def request(
    to: Any,
    subject: str,
    payload: bytes = b"",
    *,
    headers: Mapping[str, str] | None = None,
    tracer: Tracer | None = None,
    **more: Any,
) -> Any:
    """``await to.request(…)`` likewise; the span lasts until the reply is there."""
    with _sending(subject, tracer):
        return await to.request(subject, payload, headers=inject(headers) or None, **more)


def received(message: Any, *, tracer: Tracer | None = None) -> AbstractContextManager[Span | None]:
    """A span, current in the block, for the work that a message asks for: a child of its sender.

    For messages of an iterator, ``next_msg``, ``fetch`` or a callback. A message that JetStream delivers again begins a
    trace of its own, with a link. The header is read in any case.
    """
    subject = str(getattr(message, "subject", ""))
    return continue_call(
        getattr(message, "headers", None) or {},
        f"process {subject}",
        attempt=_delivered(message),
        attributes={**_attributes(subject), "messaging.operation.name": "process"},
        tracer=tracer,
    )


@contextmanager
def _sending(subject: str, tracer: Tracer | None) -> Iterator[None]:
    try:
        from opentelemetry import trace
    except ImportError:
        yield
        return
    if subject.startswith(_OWN):
        yield
        return
    attributes = {**_attributes(subject), "messaging.operation.name": "send"}
    own = tracer or trace.get_tracer("grafter_propagation")
    with own.start_as_current_span(f"send {subject}", kind=trace.SpanKind.PRODUCER, attributes=attributes):
        yield


def _attributes(subject: str) -> dict[str, str]:
    return {"messaging.system": "nats", "messaging.destination.name": subject}


def _delivered(message: Any) -> int:
    """How often JetStream has delivered it; 1 for a message of core NATS."""
    if not str(getattr(message, "reply", "") or "").startswith("$JS.ACK."):
        return 1
    try:
        return int(message.metadata.num_delivered or 1)
    except Exception:  # noqa: BLE001  # a reply of another form says nothing of attempts
        return 1
