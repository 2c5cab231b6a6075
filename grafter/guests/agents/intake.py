"""A posted batch of OpenAI items, made into parts: one for each OpenAI trace that has an item in it.

The batches come from the Agents SDKs in Python and JavaScript and from ports to other languages that keep less to the
form. So a missing key is null, an unknown key or type is kept, and what cannot be read is counted: one odd item never
loses its batch.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import orjson

from grafter.core.model import GuestFacts, Part, Source, SpanId, guest_key, guest_span_id
from grafter.core.policy import Content, GraftPolicy
from grafter.guests.agents.content import KNOWN_TYPES, clean
from grafter.guests.json_values import json_safe, mapping_of, usable_id
from grafter.guests.trace_object import TraceObject

TRACE = "trace"
SPAN = "trace.span"


@dataclass(frozen=True, slots=True)
class Intake:
    parts: tuple[Part, ...]
    """One for each trace, in order of first appearance."""
    spans: int
    """Span items in all parts; trace objects are none."""
    kinds: Counter[str]
    """Every item once, as ``trace``, ``span``, ``unknown_type`` (a span, kept), ``null`` or ``odd`` (skipped)."""


@dataclass(slots=True)
class _TraceItems:
    encoded: list[bytes] = field(default_factory=list)
    spans: int = 0
    head: TraceObject | None = None
    top_level: bool = False
    ids: dict[SpanId, None] = field(default_factory=dict)
    parents: dict[SpanId, None] = field(default_factory=dict)


def read_items(items: Sequence[object], source: Source, policy: GraftPolicy) -> Intake:
    """The parts of a batch, already without the content that may not be stored.

    Takes any JSON values. A part's payload is a JSON list of its items, read back by ``read_payload``; its link is
    what the metadata of trace objects in this batch says. Never raises.
    """
    kinds: Counter[str] = Counter()
    traces: dict[str, _TraceItems] = {}
    for value in items:
        if value is None:
            kinds["null"] += 1
            continue
        read = _read(value, policy.content)
        if read is None:
            kinds["odd"] += 1
            continue
        trace_id, item, encoded = read
        of_trace = traces.setdefault(trace_id, _TraceItems())
        of_trace.encoded.append(encoded)
        if item["object"] == TRACE:
            kinds["trace"] += 1
            of_trace.head = (of_trace.head or TraceObject()).merged(item, policy.trace_id_keys)
            continue
        kinds["span" if span_type(item) in KNOWN_TYPES else "unknown_type"] += 1
        of_trace.spans += 1
        of_trace.ids[guest_span_id(trace_id, str(item["id"]))] = None
        parent = parent_of(item)
        if parent is None:
            of_trace.top_level = True
        else:
            of_trace.parents[guest_span_id(trace_id, parent)] = None
    parts = tuple(_part(trace_id, of_trace, source) for trace_id, of_trace in traces.items())
    return Intake(parts=parts, spans=sum(part.spans for part in parts), kinds=kinds)


def read_payload(payload: bytes) -> list[dict[str, object]]:
    """The items of a part's payload. Raises ValueError when it is not a JSON list."""
    items = orjson.loads(payload)
    if not isinstance(items, list):
        raise ValueError("payload is not a list of items")
    return [item for item in items if isinstance(item, dict)]


def unfolded(items: Sequence[object]) -> list[object]:
    """The items as ``read_items`` wants them: of a trace that holds its ``spans`` the trace object, then the spans."""
    found: list[object] = []
    for item in items:
        if isinstance(item, Mapping) and isinstance(item.get("spans"), list):
            found.append({**{key: value for key, value in item.items() if key != "spans"}, "object": TRACE})
            # What stands inside its trace may leave out whose it is.
            own = {"trace_id": item["id"]} if "id" in item else {}
            found += [{**own, **span} if isinstance(span, Mapping) else span for span in item["spans"]]
        else:
            found.append(item)
    return found


def is_item(value: object) -> bool:
    """Whether a JSON value is a trace object or a span, as far as its shape tells; a trace may hold its spans."""
    if not isinstance(value, Mapping):
        return False
    holds_spans = isinstance(value.get("spans"), list) and usable_id(value.get("id")) is not None
    return holds_spans or _normal(value) is not None


def parent_of(item: Mapping[str, object]) -> str | None:
    """The parent that a span names; None makes it a top-level span, as does a parent that no span can have."""
    return usable_id(item.get("parent_id"))


def span_type(item: Mapping[str, object]) -> str:
    """The type of a span's data, empty when it has none."""
    kind = mapping_of(item.get("span_data")).get("type")
    return kind if isinstance(kind, str) else ""


def _read(value: object, content: Content) -> tuple[str, dict[str, object], bytes] | None:
    """The trace id, the cleaned item and its JSON; None for what is no trace object and no span."""
    item = _normal(value)
    if item is None:
        return None
    cleaned = clean(item, content)
    try:
        encoded = orjson.dumps(cleaned)
    except TypeError:
        cleaned = clean(mapping_of(json_safe(item)), content)
        encoded = orjson.dumps(cleaned)
    trace_id = usable_id(cleaned.get("id" if cleaned["object"] == TRACE else "trace_id"))
    if trace_id is None or usable_id(cleaned.get("id")) is None:
        return None
    return trace_id, cleaned, encoded


def _normal(value: object) -> dict[str, object] | None:
    """The item with its kind under ``object``, where some ports write ``type`` or nothing."""
    if not isinstance(value, Mapping):
        return None
    kind = value.get("object")
    if kind in (TRACE, SPAN):
        return dict(value)
    if kind is not None:
        return None
    kind = value.get("type")
    if kind is None and isinstance(value.get("span_data"), Mapping):
        kind = SPAN
    if kind not in (TRACE, SPAN):
        return None
    return {"object": kind, **{key: member for key, member in value.items() if key not in ("object", "type")}}


def _part(trace_id: str, of_trace: _TraceItems, source: Source) -> Part:
    link = of_trace.head.link if of_trace.head is not None else None
    facts = GuestFacts(
        guest=trace_id,
        source=source,
        host=None if link is None else link.host,
        sampled=None if link is None else link.sampled,
        head=of_trace.head is not None,
        top_level=of_trace.top_level,
        ids=tuple(of_trace.ids),
        parents=tuple(of_trace.parents),
    )
    payload = b"[" + b",".join(of_trace.encoded) + b"]"
    return Part(key=guest_key(trace_id), payload=payload, spans=of_trace.spans, guest=facts)
