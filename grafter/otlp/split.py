"""Request bytes to parts, one a (trace, resource, scope), without decoding a span.

Where a span belongs is decided by three of its fields. Two ways read them:

* the quick way, for spans whose fields come in ascending order, as every SDK writes them: the first 20 bytes are
  ``0a 10 <trace id> 12 08`` and the span id follows. That these are the span's only ids is proven by a count: all
  spans of the run are parsed as if they were one message, and it must hold as many ids as there are spans. A second
  id anywhere, in any span, breaks the count.
* the sure way, for everything else (a Go Collector writes the fields in descending order): the head of each span
  is parsed by the protobuf runtime.

The answer is the same, and equals a full parse, whatever the order of the fields, repeated or unknown ones.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from grafter.core.model import FLAG_IS_REMOTE, Envelope, Facts, Key, Part
from grafter.core.policy import Selector
from grafter.errors import RejectedError
from grafter.otlp import shallow_pb2 as shallow
from grafter.otlp.frames import PREFIX, run_of
from grafter.otlp.spans import attribute_text

_ZERO_TRACE = bytes(16)
_ZERO_SPAN = bytes(8)
# Adding up an IntFlag member by member costs a microsecond each time; these are all there are.
_FACTS = tuple(Facts(bits) for bits in range(8))
_ROOT, _LOCAL_ROOT, _ANCHOR = int(Facts.ROOT), int(Facts.LOCAL_ROOT), int(Facts.ANCHOR)
# Spans that are tallied at a time: what is joined for it then fits into the processor's cache.
_TALLIED = 512
_BAD_IDS = "spans with an invalid id were rejected (trace ids have 16 bytes, span ids 8, not all zero)"

# Envelopes repeat from request to request; a bound keeps a sender with ever new resources from growing the table.
_MAX_ENVELOPES = 4096


@dataclass(slots=True)
class Split:
    """One request, taken apart."""

    parts: list[Part] = field(default_factory=list)
    spans: int = 0
    """Spans in ``parts``."""
    rejected: int = 0
    """Spans left out because of their ids."""
    message: str = ""
    """Why, for partial_success; empty when nothing was rejected."""


class Splitter:
    """Splits requests; remembers envelopes so that equal ones are one object."""

    def __init__(self, anchors: Sequence[Selector]) -> None:
        """``anchors``: selectors with a name or at least one attribute."""
        self._anchors = tuple(anchors)
        # A selector with a name is looked for among the names; one without, by its key in the request's bytes.
        self._names = tuple({a.name.encode() for a in anchors if a.name})
        self._keys = tuple({a.attributes[0][0].encode() for a in anchors if not a.name})
        self._envelopes: dict[tuple[bytes, bytes], Envelope] = {}

    def split(self, request: bytes) -> Split:
        """The parts of one ExportTraceServiceRequest. Raises RejectedError when the bytes are none.

        A span whose ids are invalid is left out alone; a request may well come out empty.
        """
        out = Split()
        try:
            message = shallow.Request.FromString(request)
            anchored = any(key in request for key in self._keys)
            heads: shallow.HeadRequest | None = None
            for at_resource, resource_run in enumerate(message.resource_spans):
                scope_runs = list(resource_run.scope_spans)
                resource_run.ClearField("scope_spans")
                resource = resource_run.SerializeToString()
                for at_scope, scope_run in enumerate(scope_runs):
                    spans = list(scope_run.spans)
                    if not spans:
                        continue
                    scope_run.ClearField("spans")
                    envelope = self._envelope(resource, scope_run.SerializeToString())
                    if self._quick(spans, envelope, out, anchored):
                        continue
                    heads = heads or shallow.HeadRequest.FromString(request)
                    self._sure(
                        spans, heads.resource_spans[at_resource].scope_spans[at_scope].spans, envelope, out, anchored
                    )
        except DecodeError as error:
            raise RejectedError("request is not a valid ExportTraceServiceRequest") from error
        if out.rejected:
            out.message = f"{out.rejected} {_BAD_IDS}"
        return out

    def _quick(self, spans: list[bytes], envelope: Envelope, out: Split, anchored: bool) -> bool:
        """Split a run whose spans begin with their ids; False, and nothing done, when that cannot be proven."""
        count = len(spans)
        parents = 0
        flags: list[int] = []
        named = anchored
        for at in range(0, count, _TALLIED):
            some = spans[at : at + _TALLIED] if count > _TALLIED else spans
            tally = shallow.Tally.FromString(b"".join(some))
            if not len(tally.trace_id) == len(some) == len(tally.span_id) or _ZERO_SPAN in tally.parent_span_id:
                return False
            parents += len(tally.parent_span_id)
            flags += tally.flags
            names = tally.name
            for name in self._names:
                named = named or name in names
        # A parent stands right behind the ids, unless a trace state comes between: then the count does not add up.
        roots = [s for s in spans if s[28:30] != b'"\x08']
        if len(roots) + parents != count:
            return False

        runs: defaultdict[bytes, list[bytes]] = defaultdict(list)
        for span in spans:
            runs[span[:20]].append(span)
        for ids in runs:
            if ids[:2] != b"\n\x10" or ids[18:] != b"\x12\x08" or ids[2:18] == _ZERO_TRACE:
                return False

        first = {s[:20]: s for s in roots}
        bits = dict.fromkeys(first, _ROOT)
        if flags:
            for ids in self._remote(spans, flags):
                bits[ids] = bits.get(ids, 0) | _LOCAL_ROOT
        parts = []
        for ids, members in runs.items():
            known = bits.get(ids, 0)
            many = len(members)
            if many == 1:
                (span,) = members
                span_ids = span[20:28]
                payload = PREFIX[len(span)] + span
            else:
                if known & _ROOT:
                    at = members.index(first[ids])
                    members.insert(0, members.pop(at))
                span_ids = b"".join([s[20:28] for s in members])
                payload = run_of(members)
            if _ZERO_SPAN in span_ids:
                return False
            if named and any(map(self._is_anchor, members)):
                known |= _ANCHOR
            parts.append(Part(Key(ids[2:18]), payload, many, envelope, _FACTS[known], span_ids))
        out.parts += parts
        out.spans += count
        return True

    @staticmethod
    def _remote(spans: list[bytes], flags: Sequence[int]) -> set[bytes]:
        """The first 20 bytes of the spans whose parent is said to be in another process."""
        if max(flags) < FLAG_IS_REMOTE:
            return set()
        suspects = spans
        if len(flags) == len(spans):
            suspects = [s for s, flag in zip(spans, flags, strict=True) if flag & FLAG_IS_REMOTE]
        found = set()
        for span in suspects:
            head = shallow.Head.FromString(span)
            if head.flags & FLAG_IS_REMOTE and head.parent_span_id:
                found.add(span[:20])
        return found

    def _sure(
        self, spans: list[bytes], heads: Iterable[shallow.Head], envelope: Envelope, out: Split, anchored: bool
    ) -> None:
        """Split a run by the heads that the protobuf runtime read."""
        runs: dict[bytes, list[bytes]] = {}
        ids: dict[bytes, list[bytes]] = {}
        facts: dict[bytes, int] = {}
        for span, head in zip(spans, heads, strict=True):
            trace_id, span_id, parent = head.trace_id, head.span_id, head.parent_span_id
            if (
                len(trace_id) != 16
                or len(span_id) != 8
                or trace_id == _ZERO_TRACE
                or span_id == _ZERO_SPAN
                or len(parent) not in (0, 8)
            ):
                out.rejected += 1
                continue
            run = runs.get(trace_id)
            if run is None:
                run = runs[trace_id] = []
                ids[trace_id] = []
                facts[trace_id] = 0
            at = len(run)
            if not parent or parent == _ZERO_SPAN:
                if not facts[trace_id] & _ROOT:
                    facts[trace_id] |= _ROOT
                    at = 0
            elif head.flags & FLAG_IS_REMOTE:
                facts[trace_id] |= _LOCAL_ROOT
            run[at:at] = (PREFIX[len(span)], span)
            ids[trace_id].insert(at // 2, span_id)
            if (anchored or head.name in self._names) and self._is_anchor(span):
                facts[trace_id] |= _ANCHOR
        for trace_id, run in runs.items():
            span_ids = ids[trace_id]
            out.parts.append(
                Part(Key(trace_id), b"".join(run), len(span_ids), envelope, _FACTS[facts[trace_id]], b"".join(span_ids))
            )
            out.spans += len(span_ids)

    def _is_anchor(self, span: bytes) -> bool:
        """Whether a span matches a selector; asked only where a cheaper look found a sign."""
        try:
            decoded = Span.FromString(span)
        except DecodeError:
            # Only its head was read so far. It is forwarded as it came, and nothing hangs under it.
            return False
        attributes: set[tuple[str, str | None]] | None = None
        for selector in self._anchors:
            if selector.name and decoded.name != selector.name:
                continue
            if selector.attributes and attributes is None:
                attributes = {(a.key, attribute_text(a.value)) for a in decoded.attributes}
            if attributes is None or attributes.issuperset(selector.attributes):
                return True
        return False

    def _envelope(self, resource: bytes, scope: bytes) -> Envelope:
        known = self._envelopes.get((resource, scope))
        if known is None:
            if len(self._envelopes) >= _MAX_ENVELOPES:
                self._envelopes.clear()
            known = self._envelopes[resource, scope] = Envelope(resource, scope)
        return known
