"""A guest's items, in whatever order and pieces they came, to spans in OpenTelemetry's words.

The result is a function of what came, not of how: spans are told apart by their ids, sorted by start and id, and only
trace objects (of which the later wins) know an order of arrival. Each span keeps what the SDK called it, and whatever
no attribute says stands in ``openai.agents.extra``: nothing that came is lost but what the content rule takes.

What a span of each type says stands in ``run_spans`` and ``model_spans``; here is what all have in common.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from grafter.core import semconv
from grafter.core.link import from_openai_trace_id
from grafter.core.model import (
    STATUS_ERROR,
    STATUS_UNSET,
    Guest,
    GuestSpan,
    Source,
    SpanLink,
    UnixNano,
    guest_span_id,
)
from grafter.core.policy import Content, GraftPolicy
from grafter.guests import trace_object as trace_objects
from grafter.guests.agents import model_spans, run_spans
from grafter.guests.agents.content import clean
from grafter.guests.agents.errors import KIND_KEY, error_kind, error_of
from grafter.guests.agents.intake import TRACE, parent_of, read_payload, span_type
from grafter.guests.attributes import ATTRIBUTE_BYTES, NAME_BYTES, Json, SpanDraft, bounded, cut_text
from grafter.guests.json_values import (
    canonical,
    count_of,
    in_order,
    mapping_of,
    moment,
    span_times,
    text_of,
    usable_id,
)
from grafter.guests.source import Mapped
from grafter.guests.trace_object import TraceObject
from grafter.guests.usage import call_usage

TRACE_URL = "https://platform.openai.com/logs/trace?trace_id="
"""Where OpenAI's dashboard shows a trace."""

_MAPPERS: Mapping[str, Callable[[SpanDraft], object]] = {**run_spans.MAPPERS, **model_spans.MAPPERS}
_MODEL_CALLS = frozenset({"generation", "response"})
_OF_PROVIDER = _MODEL_CALLS | {"transcription", "speech"}
"""Kinds whose free text in an error is the provider's account of it."""
_ITEM_KEYS = frozenset(
    {"object", "id", "trace_id", "parent_id", "started_at", "ended_at", "span_data", "error", "metadata"}
)


@dataclass(slots=True)
class _Node:
    """A span item, its times read and its place known by the guest's own ids."""

    identity: str
    parent: str | None
    kind: str
    """The SDK's own type: the type of the data, ``task`` or ``turn``."""
    item: Mapping[str, object]
    start: UnixNano
    end: UnixNano
    odd_time: bool
    agent: str | None = None
    """The agent that it ran for, where one is known."""
    links: tuple[SpanLink, ...] = ()
    calls_agent: bool = False
    usage: Mapping[str, object] | None = None
    """Of a model call, what its turn says that it used."""


def map_guest(
    guest_trace_id: str,
    source: Source,
    payloads: Sequence[bytes],
    policy: GraftPolicy,
    earlier: Mapping[str, object] | None = None,
) -> Mapped:
    """Map the parts of one guest, given as payloads in order of arrival.

    ``earlier`` is the ``head`` of an earlier release of this guest, for spans that come without their trace object.
    A span id that comes more than once gives one span, whichever copy comes first. Parents are hashed and not
    resolved: that some never come, or form a circle, is seen where the spans are hung. Never raises for what a
    payload holds.
    """
    head = trace_objects.remembered(earlier)
    items: dict[str, Mapping[str, object]] = {}
    repeated = odd = 0
    for payload in payloads:
        try:
            entries = read_payload(payload)
        except ValueError:
            odd += 1
            continue
        for entry in entries:
            # What was stored under a wider rule, before a restart with a narrower one, may not leave either.
            item = clean(entry, policy.content)
            identity = usable_id(item.get("id"))
            if identity is None:
                odd += 1
            elif item.get("object") == TRACE:
                head = head.merged(item, policy.trace_id_keys)
            elif identity in items:
                repeated += 1
                items[identity] = _first(items[identity], item)
            else:
                items[identity] = item
    nodes = _nodes(items)
    _find_agents(nodes)
    _hand_down_usage(nodes)
    _link_handoffs(guest_trace_id, nodes)
    guest = Guest(
        trace_id=guest_trace_id,
        source=source,
        spans=tuple(_span(guest_trace_id, node, head, policy) for node in nodes.values()),
        link=head.link,
        conversation_ids=frozenset() if head.group_id is None else frozenset({head.group_id}),
        measured_in_app=source is Source.SDK,
    )
    # A random id of OpenAI's has the form of a trace id too: it names its host only where there is one.
    weak = from_openai_trace_id(guest_trace_id) if head.link is None else None
    return Mapped(guest=guest, repeated=repeated, odd=odd, head=trace_objects.memory(head), weak=weak)


def _first(one: Mapping[str, object], other: Mapping[str, object]) -> Mapping[str, object]:
    """Of two items with one id the same in any order of arrival: the smaller as JSON, should they differ at all."""
    return one if one == other or canonical(one) <= canonical(other) else other


def _nodes(items: Mapping[str, Mapping[str, object]]) -> dict[str, _Node]:
    """The spans by their guest ids, sorted by start, then id."""
    starts = [moment(item.get("started_at")) for item in items.values()]
    # A span that has no time at all stands where its guest begins rather than in 1970.
    begin = UnixNano(max(min((start for start in starts if start is not None), default=0), 0))
    nodes = []
    for (identity, item), started in zip(items.items(), starts, strict=True):
        start, end, odd_time = span_times(started, moment(item.get("ended_at")), begin)
        nodes.append(_Node(identity, parent_of(item), _kind(item), item, start, end, odd_time))
    nodes.sort(key=lambda node: (node.start, node.identity))
    return {node.identity: node for node in nodes}


def _kind(item: Mapping[str, object]) -> str:
    kind = span_type(item)
    if kind == "custom":
        own = mapping_of(mapping_of(item.get("span_data")).get("data")).get("sdk_span_type")
        return own if isinstance(own, str) and own in ("task", "turn") else kind
    return kind


def _find_agents(nodes: Mapping[str, _Node]) -> None:
    """Find the agent that each span ran for: itself, or the nearest above; and the tools that call agents."""
    known: dict[str, str | None] = {}
    for node in nodes.values():
        path: list[str] = []
        found: str | None = None
        step: _Node | None = node
        # Each span is walked once: the way up ends at what is known, at the top, or where a circle closes.
        while step is not None:
            if step.identity in known:
                found = known[step.identity]
                break
            path.append(step.identity)
            known[step.identity] = None
            found = _own_agent(step)
            if found is not None:
                break
            step = nodes.get(step.parent) if step.parent is not None else None
        for identity in path:
            known[identity] = found
        parent = nodes.get(node.parent) if node.parent is not None else None
        if parent is not None and parent.kind == "function" and node.kind in ("agent", "task"):
            parent.calls_agent = True
    for node in nodes.values():
        node.agent = known[node.identity]


def _own_agent(node: _Node) -> str | None:
    if node.kind not in ("agent", "turn"):
        return None
    data = mapping_of(node.item.get("span_data"))
    if node.kind == "agent":
        return text_of(data.get("name"))
    return text_of(mapping_of(data.get("data")).get("agent_name"))


def _hand_down_usage(nodes: Mapping[str, _Node]) -> None:
    """Give each turn's usage to its model call: JavaScript's SDK states it on turns and tasks only.

    A turn is one model call. Where two stand under it, of which one was tried again, nobody knows whose it is.
    """
    calls: dict[str, list[_Node]] = {}
    for node in nodes.values():
        if node.parent is not None and node.kind in _MODEL_CALLS:
            calls.setdefault(node.parent, []).append(node)
    for identity, (call, *others) in calls.items():
        turn = nodes.get(identity)
        if turn is None or turn.kind != "turn" or others:
            continue
        usage = mapping_of(mapping_of(mapping_of(turn.item.get("span_data")).get("data")).get("usage"))
        # A call that failed used nothing that anybody counted.
        call.usage = usage if any(map(count_of, usage.values())) else None


def _link_handoffs(guest_trace_id: str, nodes: Mapping[str, _Node]) -> None:
    """Link the span of the agent that took over to the handoff that it came by.

    The SDK starts the next agent beside the one that handed over, so it is looked for there first (several runs may
    share a trace and the names of their agents), and only then anywhere; always the first that starts after it.
    """
    beside: dict[tuple[str, str | None], list[_Node]] = {}
    anywhere: dict[str, list[_Node]] = {}
    for node in nodes.values():
        name = _own_agent(node) if node.kind == "agent" else None
        if name is not None:
            beside.setdefault((name, node.parent), []).append(node)
            anywhere.setdefault(name, []).append(node)
    for node in nodes.values():
        target = text_of(mapping_of(node.item.get("span_data")).get("to_agent")) if node.kind == "handoff" else None
        if target is None:
            continue
        giver = _agent_above(node, nodes)
        siblings = beside.get((target, giver.parent), []) if giver is not None else []
        next_agent = _next(siblings, node) or _next(anywhere.get(target, []), node)
        if next_agent is not None:
            link = SpanLink(guest_span_id(guest_trace_id, node.identity), ((semconv.AGENTS_LINK, "handoff"),))
            next_agent.links = (*next_agent.links, link)


def _agent_above(node: _Node, nodes: Mapping[str, _Node]) -> _Node | None:
    seen = {node.identity}
    step: _Node | None = node
    while step is not None and step.parent is not None and step.parent not in seen:
        seen.add(step.parent)
        step = nodes.get(step.parent)
        if step is not None and step.kind == "agent":
            return step
    return None


def _next(agents: Sequence[_Node], handoff: _Node) -> _Node | None:
    """The first agent that starts when the handoff has; JavaScript's milliseconds make some start together."""
    place = bisect_left(agents, handoff.start, key=lambda node: node.start)
    return agents[place] if place < len(agents) else None


def _span(guest_trace_id: str, node: _Node, head: TraceObject, policy: GraftPolicy) -> GuestSpan:
    item = node.item
    data = item.get("span_data")
    draft = SpanDraft(
        rest=dict(data) if isinstance(data, Mapping) else {} if data is None else {"value": data},
        content=policy.content is not Content.NONE,
        start=node.start,
    )
    mapper = _MAPPERS.get(span_type(item))
    if mapper is None:
        run_spans.unknown(draft, span_type(item))
    else:
        draft.rest.pop("type", None)
        mapper(draft)
    if node.usage is not None and semconv.GEN_AI_USAGE_INPUT_TOKENS not in draft.attributes:
        for name, count in call_usage(node.usage)[0].items():
            draft.put(name, count)
    if semconv.GEN_AI_AGENT_NAME not in draft.attributes and node.agent is not None:
        draft.put(semconv.GEN_AI_AGENT_NAME, cut_text(node.agent, NAME_BYTES))
    if node.calls_agent:
        draft.put(semconv.AGENTS_TOOL_IS_AGENT, True)
    draft.put(semconv.GEN_AI_CONVERSATION_ID, head.group_id)
    error = error_of(item.get("error"))
    if error is not None:
        _fail(draft, error, node.kind)
    _identify(draft, guest_trace_id, node)
    if node.parent is None:
        draft.put(semconv.AGENTS_TRACE_URL, TRACE_URL + guest_trace_id)
        draft.attributes.update(trace_objects.introduction(head, policy.metadata_keys))
    _keep_rest(draft, node, head, error)
    if node.odd_time:
        draft.put(semconv.GRAFTER_ODD_TIME, True)
    if node.end < node.start:
        draft.put(semconv.GRAFTER_TIME_ODD, True)
    return GuestSpan(
        span_id=guest_span_id(guest_trace_id, node.identity),
        parent=None if node.parent is None else guest_span_id(guest_trace_id, node.parent),
        parent_name=node.parent or "",
        name=cut_text(draft.name, NAME_BYTES),
        kind=draft.kind,
        start=node.start,
        end=node.end,
        attributes=bounded(draft.attributes),
        status_code=STATUS_UNSET if error is None else STATUS_ERROR,
        status_message="" if error is None else cut_text(text_of(error.get("message")) or "", ATTRIBUTE_BYTES),
        links=node.links,
        tool_calls=draft.tool_calls,
    )


def _fail(draft: SpanDraft, error: Mapping[str, object], kind: str) -> None:
    draft.put(semconv.ERROR_TYPE, error_kind(error, model_call=kind in _OF_PROVIDER))
    data = error.get("data")
    if data is not None:
        draft.put_content(semconv.AGENTS_ERROR_DATA, Json(data))


def _identify(draft: SpanDraft, guest_trace_id: str, node: _Node) -> None:
    draft.put(semconv.AGENTS_TRACE_ID, guest_trace_id)
    draft.put(semconv.AGENTS_SPAN_ID, node.identity)
    draft.put(semconv.AGENTS_SPAN_PARENT_ID, node.parent)
    draft.put(semconv.AGENTS_SPAN_TYPE, node.kind or None)
    metadata = node.item.get("metadata")
    if metadata is not None and metadata != {}:
        draft.put(semconv.AGENTS_METADATA, Json(in_order(metadata)))


def _keep_rest(draft: SpanDraft, node: _Node, head: TraceObject, error: Mapping[str, object] | None) -> None:
    """Whatever came and was not read, by where it stood."""
    extra: dict[str, object] = {}
    if draft.rest:
        extra["span_data"] = dict(draft.rest)
    span = {key: value for key, value in node.item.items() if key not in _ITEM_KEYS}
    if span:
        extra["span"] = span
    read = ("message", "data", KIND_KEY) if error is None or text_of(error.get("message")) else ("data", KIND_KEY)
    unread = {key: value for key, value in (error or {}).items() if key not in read and value is not None}
    if unread:
        extra["error"] = unread
    if head.extra and node.parent is None:
        extra["trace"] = dict(head.extra)
    if extra:
        draft.put(semconv.AGENTS_EXTRA, Json(in_order(extra)))
