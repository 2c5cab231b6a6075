"""Under which host span a guest hangs.

The first that holds: the span that the app named, when it is one of the host's, held or remembered; a host span that
matches a selector; the host's root; none. A trace that leaves without its root may have been cut anywhere, so there a
named span that was not seen is believed to exist (``unseen``), also where something stands in for the root.

Several spans may match a selector, one a leg of the call: the one with the guest's session or conversation id is
preferred, then one that overlaps the guest in time, then the latest that starts not after it, then the smaller span
id. Preferences choose among several and never refuse the only one.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import accumulate
from typing import Generic, TypeVar

from grafter.core.explain import Refusal
from grafter.core.lifecycle import ReleaseReason
from grafter.core.memory import Anchor, AnchorSpan, TraceMemory, latest_anchors
from grafter.core.model import FLAG_SAMPLED, AttributeValue, Guest, HostSpan, SpanId, UnixNano
from grafter.core.policy import GraftPolicy, Selector

_T = TypeVar("_T")

CONVERSATION_KEYS = ("gen_ai.conversation.id", "session.id", "gen_ai.realtime.session.id", "openai.session.id")
"""Attributes by which an app says which session or conversation of the model's a span belongs to: the GenAI and the
general conventions' names, and two that realtime instrumentations write."""


def wanted_keys(policy: GraftPolicy) -> frozenset[str]:
    """The attributes of host spans that a search for anchors reads; the rest need not be decoded."""
    selected = (key for selector in policy.anchors for key, _ in selector.attributes)
    return frozenset(CONVERSATION_KEYS).union(selected)


def matches(selector: Selector, span: HostSpan) -> bool:
    """Name and attributes all match. Values are compared as text: ``true``, ``5``."""
    if selector.name and selector.name != span.name:
        return False
    attributes = span.attributes
    return all(key in attributes and _text(attributes[key]) == value for key, value in selector.attributes)


class AnchorIndex:
    """The host spans of one trace, in the order in which anchors are looked for: built once for all its guests.

    The order of the spans that it is made of does not matter, and a span that stands among them twice counts once.
    """

    def __init__(
        self,
        held: dict[SpanId, HostSpan],
        selected: Sequence[AnchorSpan],
        memory: TraceMemory | None,
        stand_in: HostSpan | None = None,
    ) -> None:
        self._held = held
        self._memory = memory
        self._selected_here = selected
        remembered = {anchor.span_id: anchor for anchor in memory.anchors} if memory is not None else {}
        both = [*remembered.values(), *(anchor for anchor in selected if anchor.span_id not in remembered)]
        self._remembered = remembered
        self._selected = _Candidates(both)
        by_conversation: dict[str, list[AnchorSpan]] = {}
        for anchor in both:
            for conversation in anchor.conversation_ids:
                by_conversation.setdefault(conversation, []).append(anchor)
        self._by_conversation = {key: _Candidates(anchors) for key, anchors in by_conversation.items()}
        roots = (span for span in held.values() if not span.parent_span_id)
        self._root_here = min(roots, key=_earlier, default=stand_in)
        self.root = self._find_root()
        """The host's root, held or remembered."""
        self.cut = self.root is None or stand_in is not None
        """The host's root has not come, whether something stands in for it or not."""

    @classmethod
    def of(
        cls,
        host_spans: Iterable[HostSpan],
        policy: GraftPolicy,
        memory: TraceMemory | None = None,
        stand_in: HostSpan | None = None,
    ) -> "AnchorIndex":
        """Index the spans that are about to leave, and those that left before. ``stand_in``: in place of a root that
        never came."""
        held: dict[SpanId, HostSpan] = {}
        for span in host_spans:
            known = held.setdefault(span.span_id, span)
            if known is not span and known != span:
                held[span.span_id] = min(known, span, key=_whichever_came_first)
        selectors = policy.anchors
        # Nearly all spans are told by their names alone, where each selector has one.
        names = {selector.name for selector in selectors}
        named = held.values() if "" in names else [span for span in held.values() if span.name in names]
        selected = [_anchor_span(span) for span in named if any(matches(selector, span) for selector in selectors)]
        return cls(held, selected, memory, stand_in)

    def memory(self, reason: ReleaseReason, released_at: UnixNano, span_ids: bytes = b"") -> TraceMemory:
        """What to remember of the indexed spans, earlier memories aside (see ``merged``).

        ``span_ids``: the ids that leave, where the caller has them joined already.
        """
        root = self._root_here
        return TraceMemory(
            reason=reason,
            released_at=released_at,
            root=None if root is None else root.span_id,
            root_trace_state="" if root is None else root.trace_state,
            root_flags=0 if root is None else root.flags,
            root_envelope=None if root is None else root.envelope,
            span_ids=span_ids or b"".join(span.span_id for span in sorted(self._held.values(), key=_earlier)),
            anchors=latest_anchors(self._selected_here),
        )

    def named(self, span_id: SpanId) -> Anchor | None:
        """The anchor that the app named, when it is one of the host's spans."""
        known = self._held.get(span_id) or self._remembered.get(span_id)
        if known is not None:
            return _anchor(known, "named")
        if self._memory is None or not (span_id == self._memory.root or self._memory.sent(span_id)):
            return None
        # Only its id was kept. Its root's words stand in: one trace has one sampling decision, and mostly one app.
        trace_state, flags = self._host_sampling(None)
        return Anchor(span_id, "named", trace_state, flags, None if self.root is None else self.root.envelope)

    def selected(self, guest: Guest) -> Anchor | None:
        """The preferred one of the spans that match a selector."""
        if not self._selected:
            return None
        start = min((span.start for span in guest.spans), default=UnixNano(0))
        end = max(start, *(span.end for span in guest.spans)) if guest.spans else start
        same = [self._by_conversation[key] for key in guest.conversation_ids if key in self._by_conversation]
        best = max(
            (candidates.best(start, end) for candidates in same or (self._selected,)),
            key=lambda anchor: _preference(anchor, start, end),
        )
        return _anchor(best, "selector")

    def nowhere(self, guest: Guest) -> Anchor:
        """What is left for a guest whose host has no span to hang it under."""
        named = guest.link.span_id if guest.link is not None and self.cut else None
        trace_state, flags = self._host_sampling(None if guest.link is None else guest.link.sampled)
        return Anchor(named, "none" if named is None else "unseen", trace_state, flags, None)

    def _find_root(self) -> Anchor | None:
        memory = self._memory
        if memory is not None and memory.root is not None:
            return Anchor(memory.root, "root", memory.root_trace_state, memory.root_flags, memory.root_envelope)
        return None if self._root_here is None else _anchor(self._root_here, "root")

    def _host_sampling(self, sampled: bool | None) -> tuple[str, int]:
        """Trace state and flags of the host where the anchor's own are not known; without any span, the link's."""
        if self.root is not None:
            return self.root.trace_state, self.root.flags
        if self._eldest is not None:
            return self._eldest.trace_state, self._eldest.flags
        return "", 0 if sampled is False else FLAG_SAMPLED

    @cached_property
    def _eldest(self) -> HostSpan | AnchorSpan | None:
        spans: Iterable[HostSpan | AnchorSpan] = self._remembered.values() or self._held.values()
        return min(spans, key=_earlier, default=None)


def find(guest: Guest, index: AnchorIndex, refused: list[Refusal] | None = None) -> Anchor:
    """Where the guest hangs, by the order that this module's docstring gives. Always an answer.

    ``refused`` is given what came before it in that order and did not hold, and why.
    """
    tried: list[Refusal] = [] if refused is None else refused
    named = guest.link.span_id if guest.link is not None else None
    if named is not None:
        seen = index.named(named)
        if seen is not None:
            return seen
        if index.cut:
            return index.nowhere(guest)
        tried.append(Refusal("named", "not_in_host"))
    selected = index.selected(guest)
    if selected is not None:
        return selected
    tried.append(Refusal("selector", "no_match"))
    if index.root is not None:
        return index.root
    tried.append(Refusal("root", "absent"))
    return index.nowhere(guest)


class _Tree(Generic[_T]):
    """The best of every run of values, pairwise upwards, so that neither a search nor a choice walks them all."""

    def __init__(self, values: Sequence[_T], better: Callable[[_T, _T], _T]) -> None:
        """``better`` chooses one of two, the same in any order and grouping."""
        self._better = better
        self._levels = [values]
        while len(values) > 1:
            pairs = [better(values[at], values[at + 1]) for at in range(0, len(values) - 1, 2)]
            values = pairs if len(values) % 2 == 0 else [*pairs, values[-1]]
            self._levels.append(values)

    def last(self, end: int, holds: Callable[[_T], bool]) -> int:
        """The last place before ``end`` whose value holds; what holds for a value holds for a better one. There must
        be one."""
        level, at = 0, end - 1
        while not holds(self._levels[level][at]):
            # To the left, and up where that leaves a whole pair: all that stands under it is left of here.
            while at % 2 == 0:
                at //= 2
                level += 1
            at -= 1
            while at % 2 and level + 1 < len(self._levels):
                at //= 2
                level += 1
        while level:
            level -= 1
            right = min(2 * at + 1, len(self._levels[level]) - 1)
            at = right if holds(self._levels[level][right]) else 2 * at
        return at

    def best(self, start: int, end: int) -> _T:
        """The best value of those places; there must be one."""
        level = 0
        found = self._levels[0][start]
        while start < end:
            if start % 2:
                found = self._better(found, self._levels[level][start])
                start += 1
            if end % 2:
                end -= 1
                found = self._better(found, self._levels[level][end])
            start //= 2
            end //= 2
            level += 1
        return found


class _Candidates:
    """Anchor spans in order of their start, to choose one for a stretch of time without weighing each."""

    def __init__(self, anchors: Iterable[AnchorSpan]) -> None:
        # Of two that start together the smaller id comes later, where the search from the end finds it first.
        self._anchors = sorted(anchors, key=lambda anchor: anchor.span_id, reverse=True)
        self._anchors.sort(key=lambda anchor: anchor.start)
        self._starts = [anchor.start for anchor in self._anchors]
        self._ends = [max(anchor.start, anchor.end) for anchor in self._anchors]
        self._latest_end = list(accumulate(self._ends, max))
        self._by_end = _Tree(self._ends, max)
        self._by_id = _Tree(self._anchors, lambda one, other: min(one, other, key=lambda anchor: anchor.span_id))

    def __len__(self) -> int:
        return len(self._anchors)

    def best(self, start: UnixNano, end: UnixNano) -> AnchorSpan:
        """The preferred one for a guest of that time. There must be one."""
        begun = bisect_right(self._starts, start)
        if begun and self._latest_end[begun - 1] >= start:
            return self._anchors[self._by_end.last(begun, lambda latest: latest >= start)]
        during = bisect_right(self._starts, end)
        if during > begun:
            return self._by_id.best(begun, during)
        if begun:
            return self._anchors[begun - 1]
        return self._by_id.best(0, len(self._anchors))


def _preference(anchor: AnchorSpan, start: UnixNano, end: UnixNano) -> tuple[bool, int, int]:
    """The larger, the better; compares the best of several groups."""
    overlaps = anchor.start <= end and max(anchor.start, anchor.end) >= start
    since = anchor.start if anchor.start <= start else -1
    return overlaps, since, -int.from_bytes(anchor.span_id)


def _anchor_span(span: HostSpan) -> AnchorSpan:
    conversations: set[str] = set()
    for key in CONVERSATION_KEYS:
        value = span.attributes.get(key)
        if value is not None and value != "":
            conversations.update(value if isinstance(value, tuple) else (_text(value),))
    return AnchorSpan(
        span.span_id, span.start, span.end, span.trace_state, span.flags, span.envelope, frozenset(conversations)
    )


def _anchor(span: HostSpan | AnchorSpan, how: str) -> Anchor:
    return Anchor(span.span_id, how, span.trace_state, span.flags, span.envelope)


def _text(value: AttributeValue) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else str(value)


def _earlier(span: HostSpan | AnchorSpan) -> tuple[UnixNano, SpanId]:
    return span.start, span.span_id


def _whichever_came_first(span: HostSpan) -> tuple[UnixNano, UnixNano, str]:
    """Between two spans that claim one id: an order that does not depend on which of them came first."""
    return span.start, span.end, repr(span)
