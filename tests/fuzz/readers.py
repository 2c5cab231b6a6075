"""Everything that reads what strangers send, and what backends and the store give back, as a function of bytes that may
raise a refusal and nothing else."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import orjson
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToJson
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from grafter.components import load
from grafter.config.problems import ConfigError
from grafter.core.calls import Phone
from grafter.core.lifecycle import ReleaseReason
from grafter.core.memory import Anchor, AnchorSpan, GuestMemory, TraceMemory
from grafter.core.memory_blobs import decode_guest, decode_trace, encode_guest, encode_trace
from grafter.core.memory_edits import decision_of, digest_in, put_together, taken_apart, with_decision
from grafter.core.model import Envelope, Part, Source, SpanId, TraceId, UnixNano
from grafter.core.policy import Content, GraftPolicy, Selector
from grafter.core.rules import Moved
from grafter.core.sampling.policies import SamplingDecision
from grafter.errors import RejectedError
from grafter.exporter.answer import accepted, accepted_json, retry_info, status_message, status_message_json
from grafter.guests.agents.intake import read_items
from grafter.guests.json_values import parse_json
from grafter.guests.realtime.event_buffer import EventBuffer
from grafter.guests.realtime.intake import read_posts
from grafter.guests.realtime.stored_event import Side
from grafter.guests.sessions.intake import SessionInfo, closing, opening, read_page, read_session
from grafter.guests.sources import source_of
from grafter.guests.webhooks import read_delivery
from grafter.otlp.frames import framed, spans_of
from grafter.otlp.from_json import trace_request_from_json
from grafter.otlp.reading import read_spans
from grafter.otlp.redaction import Redaction
from grafter.otlp.split import COMPILED, Split, Splitter
from grafter.otlp.to_json import trace_request_to_json
from grafter.receiver.calls_http import read_call
from grafter.receiver.links_http import read_link

POLICY = GraftPolicy()
FULL = replace(POLICY, content=Content.FULL)
NOW = UnixNano(1_790_000_000_000_000_000)
TRACEPARENT = f"00-{'a' * 32}-{'b' * 16}-01"
ANCHORS = (Selector("gen_ai.realtime.session"),)


def otlp(body: bytes) -> None:
    """The compiled split and the one in Python say the same; a request can be written as JSON, or is refused."""
    found = []
    for pure in (True, not COMPILED):
        try:
            found.append(_in_order(Splitter(ANCHORS, pure=pure).split(body)))
        except RejectedError:
            found.append("refused")
    assert found[0] == found[1], "the two splits disagree"
    try:
        trace_request_to_json(body)
    except RejectedError:
        return


def _in_order(split: Split) -> str:
    """All that it says, whichever order the spans of a part are in."""
    parts = []
    for part in split.parts:
        ids = sorted(part.span_ids[at : at + 8] for at in range(0, len(part.span_ids), 8))
        parts.append(repr((replace(part, payload=b"", span_ids=b""), sorted(spans_of(part.payload)), ids)))
    return repr((sorted(parts), split.rejected))


def otlp_json(body: bytes) -> None:
    """What comes out is a request that protobuf reads and the split takes."""
    try:
        request = trace_request_from_json(body)
    except RejectedError:
        return
    ExportTraceServiceRequest.FromString(request)
    Splitter(ANCHORS).split(request)


def guests(parts: tuple[Part, ...] | list[Part], policy: GraftPolicy) -> None:
    """The parts of each guest become spans."""
    by_guest: dict[tuple[Source, str], list[bytes]] = {}
    for part in parts:
        assert part.guest is not None
        by_guest.setdefault((part.guest.source, part.guest.guest), []).append(part.payload)
    for (source, guest), payloads in by_guest.items():
        for final in (False, True):
            source_of(source).read(guest, payloads, policy, None, final=final)


def ingest(body: bytes) -> None:
    """Items of the Agents SDKs."""
    try:
        posted = parse_json(body)
    except ValueError:
        return
    data = posted.get("data") if isinstance(posted, dict) else None
    if isinstance(data, list):
        for policy in (POLICY, FULL):
            guests(read_items(data, Source.SDK, policy).parts, policy)


def webhook(body: bytes) -> None:
    """A delivery whose signature was right."""
    try:
        delivery = read_delivery(body, b"secret")
    except ValueError:
        return
    guests(read_items(delivery.items, Source.WEBHOOK, FULL).parts, FULL)


def realtime(body: bytes) -> None:
    """Posted events, as one document and as lines."""
    for lines in (False, True):
        for policy in (POLICY, FULL):
            try:
                intake = read_posts(body, lines, policy, NOW)
            except ValueError:
                continue
            guests(intake.parts, policy)


def sessions(body: bytes) -> None:
    """A session, and a page of its traces."""
    info = SessionInfo("asess_1", None, False, b"{}")
    with suppress(ValueError):
        info = read_session(body, "asess_1", FULL)
    try:
        page = read_page(body, info, (), FULL)
    except ValueError:
        return
    guests([opening(info, 1), *page.parts, closing(info, 1)], FULL)


def redacted(body: bytes) -> None:
    """The spans of a request without the values of some keys; what is left is read, as a page shows it."""
    try:
        split = Splitter(ANCHORS).split(body)
    except RejectedError:
        return
    for action in (lambda value: "x", lambda value: None):
        redaction = Redaction(frozenset(("session.id", "gen_ai.input.messages", "key")), action)
        documents = []
        for part in split.parts:
            assert part.envelope is not None
            envelope, run = redaction.envelope(part.envelope), redaction.run(part.payload)
            scope = b"".join((envelope.scope, run))
            documents.append(framed(0x0A, b"".join((envelope.resource, framed(0x12, scope)))))
        for _ in read_spans(documents):
            pass


def recorded(body: bytes) -> None:
    """Frames of a call's socket, a line each."""
    for policy in (POLICY, FULL):
        buffer = EventBuffer("rtc_1", policy)
        for at, line in enumerate(body.split(b"\n")):
            buffer.add(line, UnixNano(NOW + at * 10**6), Side.SERVER if at % 3 else Side.CLIENT)
        part = buffer.take()
        guests([] if part is None else [part], policy)


def links(body: bytes) -> None:
    """A guest and where it belongs."""
    with suppress(RejectedError):
        read_link(body)


def calls(body: bytes) -> None:
    """What an app says of a call."""
    with suppress(RejectedError):
        read_call(body, lambda number: (Phone("0" * 32, number[-4:]), None), NOW)


def answers(body: bytes) -> None:
    """What a backend says of a request, in any of its forms: never an error."""
    accepted(body)
    accepted_json(body)
    status_message(body)
    status_message_json(body)
    retry_info(body)


def memories(body: bytes) -> None:
    """What is remembered of a trace or a guest, as the store gives it back: known, or not; and put together again as it
    was parted."""
    trace, guest = decode_trace(body), decode_guest(body)
    assert trace is None or guest is None
    decision_of(body)
    rest, digest, resource = taken_apart(body)
    if digest:
        assert digest_in(rest) == digest
        assert decode_trace(put_together(rest, resource)) == trace
    elif digest_in(body):
        put_together(body, None)


def config(body: bytes) -> None:
    """A config file: what is wrong is a list of problems."""
    with tempfile.NamedTemporaryFile(suffix=".yaml") as file:
        file.write(body)
        file.flush()
        try:
            load([file.name], env={})
        except ConfigError:
            return


READERS: Mapping[str, Callable[[bytes], None]] = {
    reader.__name__: reader
    for reader in (
        *(otlp, otlp_json, redacted, ingest, webhook, realtime, recorded, sessions, links, calls, answers, memories),
        config,
    )
}
_DATA = Path(__file__).parents[1] / "data"


def beginnings(reader: str) -> list[bytes]:
    """What was recorded of real senders, in this reader's form; mutations begin here."""
    requests = [file.read_bytes() for file in sorted(_DATA.glob("otlp/*.pb"))]
    documents = [trace_request_to_json(request) for request in requests]
    captures = [orjson.loads(file.read_bytes()) for file in sorted(_DATA.glob("openai/*.json"))]
    bodies = [one["body"] for capture in captures for one in capture.get("requests", ()) if one.get("body")]
    match reader:
        case "otlp" | "redacted":
            return requests
        case "otlp_json":
            return documents
        case "ingest":
            return [orjson.dumps(body) for body in bodies]
        case "webhook":
            call = {"call_id": "rtc_1", "sip_headers": [{"name": "From", "value": "sip:+14155550123@example.com"}]}
            events = [{"type": "realtime.call.incoming", "data": call}]
            events += [{"type": "agent.session.idle", "data": {"id": "asess_1"}}]
            events += [{"type": "agent.trace.export", "data": body["data"]} for body in bodies if "data" in body]
            return [orjson.dumps(event) for event in events]
        case "links":
            return [orjson.dumps({"guest": "rtc_1", "traceparent": TRACEPARENT})]
        case "calls":
            ids = {"openai.call_id": "rtc_1", "room": "a"}
            times = {"start": "2026-11-29T10:00:00Z", "end": 1_790_000_000.5, "outcome": "transferred"}
            numbers = {"from": "+14155550123", "to": "sip:100@example.com", "recording": "https://example.com/1.wav"}
            return [orjson.dumps({"id": "a", "ids": ids, "traceparent": TRACEPARENT, **times, **numbers})]
        case "answers":
            told = Status(code=14, message="later")
            told.details.add().Pack(RetryInfo(retry_delay=Duration(seconds=3, nanos=5)))
            partial = ExportTraceServiceResponse()
            partial.partial_success.rejected_spans, partial.partial_success.error_message = 3, "why"
            texts = [MessageToJson(one).encode() for one in (told, partial)]
            return [told.SerializeToString(), partial.SerializeToString(), *texts]
        case "memories":
            return list(_memories())
        case "realtime":
            return [file.read_bytes() for file in sorted(_DATA.glob("realtime_calls/*.ndjson"))]
        case "sessions":
            session = {
                "id": "asess_1",
                "object": "agent.session",
                "metadata": {"trace_id": "a" * 32},
                "agent": {"name": "a"},
            }
            traces = [{"id": f"t{at}", "otlp": orjson.loads(one)} for at, one in enumerate(documents)]
            return [orjson.dumps(session), orjson.dumps({"data": traces, "has_more": True, "last_id": "t2"})]
        case "recorded":
            found = []
            for file in sorted(_DATA.glob("realtime_calls/*.ndjson")):
                posts = [orjson.loads(line) for line in file.read_bytes().splitlines()]
                found.append(b"\n".join(orjson.dumps(post["event"]) for post in posts if "event" in post))
            return found
    root = _DATA.parents[1]
    files = [root / "config.yaml", *sorted(root.glob("examples/*.yaml"))]
    return [file.read_bytes() for file in files]


def _memories() -> Iterator[bytes]:
    """Of a plain trace and one with anchors and steps, of a guest, and with what sampling decided."""
    span_id, root = SpanId(b"12345678"), Envelope(b"r" * 200, b"scope")
    anchor = AnchorSpan(span_id, NOW, NOW, "a=b", 1, root, frozenset(("conv_1",)))
    plain = TraceMemory(ReleaseReason.COMPLETE, NOW, span_id, "a=b", 1, root, b"12345678" * 3)
    whole = replace(
        plain, anchors=(anchor,), guests=("rtc_1",), summed="waits", moved=Moved(TraceId(b"m" * 16), None, "x")
    )
    where = Anchor(span_id, "named", "a=b", 1, root)
    guest = GuestMemory(TraceId(b"h" * 16), TraceId(b"t" * 16), b"abcdefgh" * 2, {"id": "trace_1"}, where)
    for blob in (encode_trace(plain), encode_trace(whole), encode_guest(guest)):
        yield blob
        yield with_decision(blob, SamplingDecision("p", kept=True, one_of=4, upstream=1))
        yield taken_apart(blob)[0]
