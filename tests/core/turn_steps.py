"""Calls for the arithmetic of waits: joined traces as steps, from hand-written calls and from single spans."""

from collections.abc import Iterable, Mapping

from grafter.core.call_latency import CallerTurn, CallLatency, Part, Scalar, Step
from grafter.core.turns import latency
from grafter.otlp.from_json import Oddities, trace_request_from_json
from grafter.otlp.reading import read_spans
from tests.guests.realtime.hand import MS, TRACE, Call, document, nano

SERVER, CLIENT, PRODUCER, CONSUMER = 2, 3, 4, 5


def joined_steps(call: Call, more: Iterable[dict[str, object]] = ()) -> list[Step]:
    """The spans of the call as they leave, read as a page would read them."""
    return [read.step for read in read_spans([trace_request_from_json(document(call, more=more), Oddities())])]


def told(call: Call, more: Iterable[dict[str, object]] = ()) -> CallLatency:
    """Whose time the waits of the call were."""
    return latency(joined_steps(call, more))


def step(
    name: str,
    start: float,
    end: float,
    parent: str = "",
    service: str = "voice",
    kind: int = 1,
    own: str = "",
    **attributes: Scalar,
) -> Step:
    """A step of this name, or of this id, in milliseconds; ``__`` in the name of an attribute is a dot."""
    named: Mapping[str, Scalar] = {key.replace("__", "."): value for key, value in attributes.items()}
    return Step(
        ident(own or name), ident(parent) if parent else b"", name, service, kind, nano(start), nano(end), False, named
    )


def ident(name: str) -> bytes:
    return name.encode()[-8:].rjust(8, b".")


def parts(turn: CallerTurn) -> list[tuple[str, float]]:
    """Names and milliseconds, in the order of time; they add up to the wait."""
    assert sum(part.ns for part in turn.parts) == turn.end - turn.start
    return [_named(part) for part in turn.parts]


def inside(part: Part) -> list[tuple[str, float]]:
    return [_named(one) for one in part.within]


def _named(part: Part) -> tuple[str, float]:
    return (f"{part.name} {part.what}".rstrip(), part.ns / MS)


def host_spans(service: str, *spans: tuple[str, str, float, float, int, Mapping[str, str]]) -> dict[str, object]:
    """Resource spans of one service: id and parent (two hex digits), times in ms, kind and attributes of each."""
    return {
        "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": service}}]},
        "scopeSpans": [
            {
                "spans": [
                    {
                        "traceId": TRACE,
                        "spanId": own.rjust(16, "0"),
                        "parentSpanId": parent.rjust(16, "0"),
                        "name": f"span {own}",
                        "kind": kind,
                        "startTimeUnixNano": str(nano(start)),
                        "endTimeUnixNano": str(nano(end)),
                        "attributes": [{"key": key, "value": {"stringValue": said}} for key, said in said_.items()],
                    }
                    for own, parent, start, end, kind, said_ in spans
                ]
            }
        ],
    }
