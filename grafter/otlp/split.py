"""Request bytes to parts, one a (trace, resource, scope), without decoding a span.

Where a span belongs is decided by five of its fields. Three ways read them:

* the compiled way (``_split.c``), where it was built: one walk over the fields of each span. It declines whatever is
  not plainly right.
* the quick way, without it, for requests whose spans all have their fields in ascending order, as every SDK writes
  them: the first 20 bytes of a span are ``0a 10 <trace id> 12 08`` and the span id follows. That these are its only
  ids is proven by a count: the request is parsed with all of its spans merged into one message, which must hold as many
  ids as there are spans. A second id anywhere, in any span, breaks the count.
* the sure way, for everything else: the head of each span is parsed by the protobuf runtime, which also judges what
  is no request.

The answer is the same, and equals a full parse, whatever the order of the fields, repeated or unknown ones. A span
that ends before it starts is marked: that is the one thing that is added to a span here.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from operator import gt, itemgetter
from struct import Struct

from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from grafter.core import semconv
from grafter.core.model import FLAG_IS_REMOTE, Envelope, EnvelopeCache, Facts, Key, NamedLink, Part
from grafter.core.policy import Rule, Selector
from grafter.core.rules import RuleSet
from grafter.errors import RejectedError
from grafter.otlp import shallow_pb2 as shallow
from grafter.otlp.frames import PREFIX, run_of, spans_of
from grafter.otlp.guest_ids import GuestIds
from grafter.otlp.rule_keys import RuleKeys
from grafter.otlp.spans import attribute_text

try:
    from grafter.otlp import _split as compiled
except ImportError:
    compiled = None  # type: ignore[assignment]  # an installation without a compiler is a good one too
# The one that this code knows. A build that failed leaves an older library where it was, in a checkout or in build/.
_VERSION = 6
if compiled is not None and getattr(compiled, "VERSION", 0) != _VERSION:
    compiled = None  # type: ignore[assignment]

COMPILED = compiled is not None

_ZERO_TRACE = bytes(16)
# The first 20 bytes of a span that is written in order: tag and length of its trace id, the id, those of its span id.
_IDS = Struct("<H16sH")
_TRACE_TAG, _SPAN_TAG = 0x100A, 0x0812
_span_id = itemgetter(slice(20, 28))
_ZERO_SPAN = bytes(8)
# Adding up an IntFlag member by member costs a microsecond each time; these are all there are.
_FACTS = tuple(Facts(bits) for bits in range(8))
_ROOT, _LOCAL_ROOT, _ANCHOR = int(Facts.ROOT), int(Facts.LOCAL_ROOT), int(Facts.ANCHOR)
# A Collector that groups by trace sends a run a trace; the largest batches have some thousands of spans.
_MAX_RUNS = 50_000
# What a request's envelopes may come to, each with its own copy of its resource, beside the request's own bytes: a
# resource is written once on the wire and stands over any number of scopes.
_ENVELOPES_SPARE, _ENVELOPES_TIMES = 1 << 20, 4
# A trace id and a span id with their tags. A few spans without may be a mistake and are rejected one by one.
_LEAST_SPAN, _SPARE = 28, 1 << 16
# Behind a serialised span it is one more attribute of it.
_ODD = KeyValue(key=semconv.GRAFTER_TIME_ODD, value=AnyValue(bool_value=True))
_ODD_TIME = Span(attributes=[_ODD]).SerializeToString()
_BAD_IDS = "spans with an invalid id were rejected (trace ids have 16 bytes, span ids 8, not all zero)"


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
    links: Sequence[NamedLink] = ()
    """The guests that its spans name."""
    envelopes_left: int = 0
    """Bytes that more envelopes of this request may have."""


class Splitter:
    """Splits requests; remembers envelopes so that equal ones are one object. Threads may use one at the same time."""

    def __init__(
        self,
        anchors: Sequence[Selector],
        guest_id_keys: Sequence[str] = (),
        rules: Sequence[Rule] = (),
        *,
        pure: bool = not COMPILED,
    ) -> None:
        """``anchors``: selectors with a name or at least one attribute. ``guest_id_keys``: attributes in which a span
        may name a guest. ``rules``: whose traces are marked, and noted. ``pure``: without the compiled way."""
        self._pure = pure
        walks = (None, None) if pure else (compiled.mentions, compiled.attributes)
        self._rule_keys = RuleKeys(RuleSet(rules), walks[1]) if rules else None
        self._guest_ids = GuestIds(guest_id_keys, *walks)
        self._anchors = tuple(anchors)
        # A selector with a name is looked for among the names; one without, by its key in the request's bytes.
        self._names = tuple({a.name.encode() for a in anchors if a.name})
        self._keys = tuple({a.attributes[0][0].encode() for a in anchors if not a.name})
        self._envelopes = EnvelopeCache()

    def split(self, request: bytes, *, aside: bool = False) -> Split:
        """The parts of one ExportTraceServiceRequest. Raises RejectedError when the bytes are none.

        A span whose ids are invalid is left out alone; a request may well come out empty. ``aside``: called in a thread
        of its own, beside which the compiled way lets the others run.
        """
        out = self._split(request, aside=aside)
        if self._guest_ids.mentioned(request):
            out.links = self._guest_ids.links(out.parts)
        if self._rule_keys is not None:
            for part in out.parts:
                if int(part.facts) & _ANCHOR:
                    part.facts |= Facts.ANCHORED
            if self._rule_keys.mentioned(request):
                out.links = [*out.links, *self._rule_keys.mark(out.parts)]
        return out

    def _split(self, request: bytes, *, aside: bool) -> Split:
        out = Split(envelopes_left=_ENVELOPES_TIMES * len(request) + _ENVELOPES_SPARE)
        if not self._pure and self._compiled(request, out, aside=aside):
            return out
        try:
            runs = self._runs(request, out)
            if not self._quick(request, runs, out):
                self._sure(request, runs, out)
            _mark_backwards(out.parts)
        except DecodeError as error:
            raise RejectedError("request is not a valid ExportTraceServiceRequest") from error
        if out.rejected:
            out.message = f"{out.rejected} {_BAD_IDS}"
        return out

    def _compiled(self, request: bytes, out: Split, *, aside: bool) -> bool:
        """Split by the compiled walk; False, and nothing done, when it declines."""
        runs = compiled.split(request, self._names, _give_way if aside else None)
        if runs is None:
            return False
        keyed = any(key in request for key in self._keys)
        for resource, scope, trace_ids, payloads, counts, facts, span_ids in runs:
            envelope = self._envelope(resource, scope, out)
            most = max(facts)
            if most >= compiled.BACKWARDS:
                payloads = [_marked(p) if f & compiled.BACKWARDS else p for p, f in zip(payloads, facts, strict=True)]
                facts = [bits & ~compiled.BACKWARDS for bits in facts]
            if keyed or most >= compiled.NAMED:
                facts = list(map(self._with_anchor, facts, payloads, repeat(keyed)))
            found = map(_FACTS.__getitem__, facts)
            out.parts += map(Part, trace_ids, payloads, counts, repeat(envelope), found, span_ids)
            out.spans += sum(counts)
        return True

    def _with_anchor(self, facts: int, payload: bytes, keyed: bool) -> int:
        """A part's facts, with the one that a look at its spans has to tell."""
        bits = facts & ~compiled.NAMED
        if (keyed or facts != bits) and any(map(self._is_anchor, spans_of(payload))):
            bits |= _ANCHOR
        return bits

    def _runs(self, request: bytes, out: Split) -> list[tuple[Envelope, list[bytes]]]:
        """The spans under each (resource, scope), in the request's order; empty runs too.

        Raises RejectedError for a request that is made to cost more than it holds.
        """
        runs: list[tuple[Envelope, list[bytes]]] = []
        resource_runs = shallow.Request.FromString(request).resource_spans
        # Counted before anything is made of them: two bytes on the wire would else become a kilobyte here.
        if len(resource_runs) > _MAX_RUNS:
            raise RejectedError(f"request has {len(resource_runs)} resource_spans, at most {_MAX_RUNS} are taken")
        for resource_run in resource_runs:
            if len(runs) + len(resource_run.scope_spans) > _MAX_RUNS:
                raise RejectedError(f"request has more than {_MAX_RUNS} scope_spans")
            scope_runs = list(resource_run.scope_spans)
            resource_run.ClearField("scope_spans")
            resource = resource_run.SerializeToString()
            for scope_run in scope_runs:
                if len(scope_run.spans) * _LEAST_SPAN > len(request) + _SPARE:
                    raise RejectedError(f"request has {len(scope_run.spans)} spans, too many to have ids")
                spans = list(scope_run.spans)
                scope_run.ClearField("spans")
                runs.append((self._envelope(resource, scope_run.SerializeToString(), out), spans))
        return runs

    def _quick(self, request: bytes, runs: list[tuple[Envelope, list[bytes]]], out: Split) -> bool:
        """Split a request whose spans all begin with their ids; False, and nothing done, when that is not proven."""
        count = sum([len(spans) for _, spans in runs])
        tally = shallow.TallyRequest.FromString(request).resource_spans.scope_spans.spans
        parents = tally.parent_span_id
        if not len(tally.trace_id) == count == len(tally.span_id) or _ZERO_SPAN in parents:
            return False
        named = any(key in request for key in self._keys)
        for name in self._names:
            named = named or name in tally.name
        remote = max(tally.flags, default=0) >= FLAG_IS_REMOTE
        parts: list[Part] = []
        all_ids: list[bytes] = []
        roots = 0
        for envelope, spans in runs:
            # Framed while they are grouped: a trace has few spans in a request, and each step for each trace counts.
            by_ids: defaultdict[bytes, list[bytes]] = defaultdict(list)
            for prefix, span in zip(map(PREFIX.__getitem__, map(len, spans)), spans, strict=True):
                framed = by_ids[span[:20]]
                framed.append(prefix)
                framed.append(span)
            # A parent stands right behind the ids, unless a trace state comes between: then the sum does not fit.
            rootless = [span for span in spans if span[28:30] != b'"\x08']
            roots += len(rootless)
            bits = {span[:20]: _ROOT for span in rootless}
            # Of two roots the last one stands for the trace; which one it is does not matter.
            root_of = {span[:20]: span for span in rootless}
            if remote:
                for ids in self._remote(spans):
                    bits[ids] = bits.get(ids, 0) | _LOCAL_ROOT
            keys = b"".join(by_ids)
            if len(keys) != _IDS.size * len(by_ids) or _ZERO_TRACE in keys:
                return False
            for (tag, trace_id, next_tag), (ids, framed) in zip(_IDS.iter_unpack(keys), by_ids.items(), strict=True):
                if tag != _TRACE_TAG or next_tag != _SPAN_TAG:
                    return False
                many = len(framed) >> 1
                if many == 1:
                    span_ids = framed[1][20:28]
                else:
                    if ids in root_of:
                        at = framed.index(root_of[ids])
                        framed[:0] = framed[at - 1 : at + 1]
                        del framed[at + 1 : at + 3]
                    span_ids = b"".join(map(_span_id, framed[1::2]))
                known = bits.get(ids, 0)
                if named and any(map(self._is_anchor, framed[1::2])):
                    known |= _ANCHOR
                all_ids.append(span_ids)
                parts.append(Part(trace_id, b"".join(framed), many, envelope, _FACTS[known], span_ids))
        # Found across two neighbours it is no such id, and the sure way says so.
        if roots + len(parents) != count or _ZERO_SPAN in b"".join(all_ids):
            return False
        out.parts = parts
        out.spans = count
        return True

    @staticmethod
    def _remote(spans: list[bytes]) -> set[bytes]:
        """The first 20 bytes of the spans whose parent is said to be in another process."""
        found = set()
        for span in spans:
            head = shallow.Head.FromString(span)
            if head.flags & FLAG_IS_REMOTE and head.parent_span_id:
                found.add(span[:20])
        return found

    def _sure(self, request: bytes, runs: list[tuple[Envelope, list[bytes]]], out: Split) -> None:
        """Split by the heads that the protobuf runtime read."""
        keyed = any(key in request for key in self._keys)
        heads = [
            scope_run.spans
            for resource_run in shallow.HeadRequest.FromString(request).resource_spans
            for scope_run in resource_run.scope_spans
        ]
        for (envelope, spans), own in zip(runs, heads, strict=True):
            self._sure_run(spans, own, envelope, out, keyed)

    def _sure_run(
        self, spans: list[bytes], heads: Iterable[shallow.Head], envelope: Envelope, out: Split, keyed: bool
    ) -> None:
        by_trace: dict[bytes, list[bytes]] = {}
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
            run = by_trace.get(trace_id)
            if run is None:
                run = by_trace[trace_id] = []
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
            if (keyed or head.name in self._names) and self._is_anchor(span):
                facts[trace_id] |= _ANCHOR
        for trace_id, run in by_trace.items():
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

    def _envelope(self, resource: bytes, scope: bytes, out: Split) -> Envelope:
        out.envelopes_left -= len(resource) + len(scope)
        if out.envelopes_left < 0:
            raise RejectedError("request has a resource too large for the number of its scopes")
        known = self._envelopes.get((resource, scope))
        return self._envelopes.put((resource, scope), Envelope(resource, scope)) if known is None else known


def _give_way() -> None:
    """A step of Python, at which a thread lets others run that wait. Called so often that to let go of the interpreter
    for a moment would not do: who waits is woken by it, finds it taken again, and waits anew."""


def _mark_backwards(parts: list[Part]) -> None:
    """Mark the spans that end before they start. Hardly a request has one, so the times of all are read at once."""
    if _may_hold_backwards(b"".join([part.payload for part in parts]), sum([part.spans for part in parts])):
        for part in parts:
            part.payload = _marked(part.payload)


def _may_hold_backwards(run: bytes, count: int) -> bool:
    try:
        times = shallow.SurveyScopeRun.FromString(run).spans
    except DecodeError:
        return True
    starts, ends = times.start_time_unix_nano, times.end_time_unix_nano
    return not len(starts) == len(ends) == count or any(map(gt, starts, ends))


def _marked(run: bytes) -> bytes:
    """A run whose spans say so where they end before they start. They leave as they came, whatever else is in them."""
    return run_of([raw + _ODD_TIME if _is_backwards(raw) else raw for raw in spans_of(run)])


def _is_backwards(span: bytes) -> bool:
    head = shallow.Head.FromString(span)
    return 0 < head.end_time_unix_nano < head.start_time_unix_nano
