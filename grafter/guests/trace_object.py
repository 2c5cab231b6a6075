"""What a guest's trace object says: names, ids, metadata, and by it the link to the host.

The object has no times and no end. It comes before its spans, after them, several times (each process that resumes a
run sends it again), or never; so it is merged, and what is known of it is remembered for spans that come late.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import orjson

from grafter.core import semconv
from grafter.core.link import Malformed, from_metadata
from grafter.core.model import AttributeValue, Link, SpanId, TraceId
from grafter.guests.attributes import ATTRIBUTE_BYTES, NAME_BYTES, Json, cut_text, fit_json
from grafter.guests.json_values import in_order, mapping_of, scalar_of, text_of

_OWN_KEYS = frozenset({"object", "id", "workflow_name", "group_id", "metadata"})


@dataclass(frozen=True, slots=True)
class TraceObject:
    """The sum of a guest's trace objects in order of arrival."""

    workflow_name: str | None = None
    group_id: str | None = None
    metadata: object = None
    link: Link | None = None
    malformed: str | None = None
    """Why the metadata names no host although it seems to; None once there is a link."""
    extra: Mapping[str, object] = field(default_factory=dict)
    """Keys of the trace object that no SDK is known to send."""

    def merged(self, trace: Mapping[str, object], keys: Sequence[str]) -> "TraceObject":
        """With one more trace object: later keys win, null takes nothing away, and a link never changes.

        ``keys`` are those of the metadata that may hold a trace id.
        """
        metadata = _merged(self.metadata, trace.get("metadata"))
        link, malformed = self.link, None
        if link is None:
            named = from_metadata(metadata, keys)
            if isinstance(named, Malformed):
                malformed = named.reason
            else:
                link = named
        more = {key: value for key, value in trace.items() if key not in _OWN_KEYS}
        return replace(
            self,
            workflow_name=_label(trace.get("workflow_name")) or self.workflow_name,
            group_id=_label(trace.get("group_id")) or self.group_id,
            metadata=metadata,
            link=link,
            malformed=malformed,
            extra=mapping_of(_merged(self.extra, more)),
        )


def remembered(head: Mapping[str, object] | None) -> TraceObject:
    """The head that ``memory`` wrote; an empty one from None. What cannot be read is left out."""
    if head is None:
        return TraceObject()
    return TraceObject(
        workflow_name=text_of(head.get("workflow_name")),
        group_id=text_of(head.get("group_id")),
        metadata=head.get("metadata"),
        link=_link(head.get("link")),
        malformed=text_of(head.get("malformed")),
        extra=mapping_of(head.get("extra")),
    )


def memory(head: TraceObject) -> dict[str, object]:
    """The head as a JSON object of bounded size, without what is unset."""
    kept: dict[str, object] = {
        "workflow_name": head.workflow_name,
        "group_id": head.group_id,
        "metadata": _small(head.metadata),
        "link": None if head.link is None else _written(head.link),
        "malformed": head.malformed,
        "extra": _small(dict(head.extra)) or None,
    }
    return {key: value for key, value in kept.items() if value is not None}


def introduction(trace: TraceObject, metadata_keys: Iterable[str]) -> dict[str, AttributeValue | Json]:
    """What it says on the spans at the top of its guest: the workflow's name, the group, and the metadata, whole and
    by the keys that an attribute of their own was asked for."""
    found: dict[str, AttributeValue | Json] = {}
    if trace.workflow_name is not None:
        found[semconv.AGENTS_WORKFLOW_NAME] = trace.workflow_name
    if trace.group_id is not None:
        found[semconv.AGENTS_GROUP_ID] = trace.group_id
    if trace.metadata is not None and trace.metadata != {}:
        found[semconv.AGENTS_TRACE_METADATA] = Json(in_order(trace.metadata))
    for key in metadata_keys:
        value = mapping_of(trace.metadata).get(key)
        if value is not None:
            scalar = scalar_of(value)
            found[f"{semconv.AGENTS_TRACE_METADATA}.{key}"] = Json(in_order(value)) if scalar is None else scalar
    return found


def _merged(known: object, came: object) -> object:
    if isinstance(known, Mapping) and isinstance(came, Mapping):
        return {**known, **{key: value for key, value in came.items() if value is not None or key not in known}}
    return known if came is None else came


def _label(value: object) -> str | None:
    """A name or id, short enough to stand on every span."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    label = text_of(value)
    return None if label is None else cut_text(label, NAME_BYTES)


def _small(value: object) -> object:
    text, size = fit_json(value, ATTRIBUTE_BYTES)
    return value if size <= ATTRIBUTE_BYTES else orjson.loads(text)


def _written(link: Link) -> dict[str, object]:
    return {
        "host": link.host.hex(),
        "span_id": None if link.span_id is None else link.span_id.hex(),
        "sampled": link.sampled,
        "how": link.how,
    }


def _link(value: object) -> Link | None:
    written = mapping_of(value)
    host, span_id = _bytes(written.get("host"), 16), _bytes(written.get("span_id"), 8)
    if host is None:
        return None
    sampled = written.get("sampled")
    return Link(
        host=TraceId(host),
        span_id=None if span_id is None else SpanId(span_id),
        sampled=sampled if isinstance(sampled, bool) else None,
        how=text_of(written.get("how")) or "trace_id",
    )


def _bytes(digits: object, length: int) -> bytes | None:
    try:
        raw = bytes.fromhex(digits) if isinstance(digits, str) else b""
    except ValueError:
        return None
    return raw if len(raw) == length and any(raw) else None
