"""Everything that reads what strangers send, as a function of bytes that may raise a refusal and nothing else."""

import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import orjson
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from grafter.components import load
from grafter.config.problems import ConfigError
from grafter.core.model import Part, Source, UnixNano
from grafter.core.policy import Content, GraftPolicy, Selector
from grafter.core.rules import Moved
from grafter.core.sampling.policies import SamplingDecision
from grafter.errors import RejectedError
from grafter.guests.agents.intake import read_items
from grafter.guests.json_values import parse_json
from grafter.guests.realtime.intake import read_posts
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
    reader.__name__: reader for reader in (otlp, otlp_json, ingest, webhook, realtime, sessions, config)
}
_DATA = Path(__file__).parents[1] / "data"


def beginnings(reader: str) -> list[bytes]:
    """What was recorded of real senders, in this reader's form; mutations begin here."""
    requests = [file.read_bytes() for file in sorted(_DATA.glob("otlp/*.pb"))]
    documents = [trace_request_to_json(request) for request in requests]
    captures = [orjson.loads(file.read_bytes()) for file in sorted(_DATA.glob("openai/*.json"))]
    bodies = [one["body"] for capture in captures for one in capture.get("requests", ()) if one.get("body")]
    match reader:
        case "otlp":
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
    root = _DATA.parents[1]
    files = [root / "config.yaml", *sorted(root.glob("examples/*.yaml"))]
    return [file.read_bytes() for file in files]
