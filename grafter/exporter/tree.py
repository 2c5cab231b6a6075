"""An export request as text that a person can read: one tree a trace. Pure: bytes in, text out."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from grafter.otlp.to_json import trace_request_to_json

Verbosity = Literal["basic", "normal", "detailed"]

GUEST_MARK = "◆"

# What the normal tree shows beside name and time, as far as a span has it: enough to tell one call, turn or tool from
# the next, and nothing that could hold what somebody said.
_KEY_ATTRIBUTES = (
    "call.id",
    "gen_ai.agent.name",
    "gen_ai.request.model",
    "gen_ai.tool.name",
    "gen_ai.tool.call.id",
    "gen_ai.usage.input_tokens",
    "gen_ai.usage.output_tokens",
    "http.request.method",
    "http.response.status_code",
    "error.type",
    "grafter.turn.first_token_ms",
    "grafter.caller_wait_ms",
    "grafter.unanswered_ms",
    "grafter.app_ms",
    "grafter.openai_ms",
    "grafter.unknown_ms",
    "grafter.response.status_reason",
    "grafter.ended_by",
    "grafter.link",
    "grafter.anchor",
    "grafter.parent.missing",
    "grafter.synthetic",
    "grafter.resend",
)

# Beyond this depth a line no longer moves to the right but says how deep it is: a chain of ten thousand spans would
# otherwise be a picture of 150 MB.
_MAX_INDENT = 40
_NAME_LENGTH = 120
_SHORT_VALUE = 80
_LONG_VALUE = 1000

_KEY_EVENTS = {"gen_ai.audio.barge_in": "audio.elapsed_ms"}
"""Span events that are worth a word in the tree, and the attribute that goes with them."""

_ERROR = 2


@dataclass(slots=True)
class _Node:
    raw: dict[str, Any]
    service: str
    guest: bool
    span_id: str
    parent_id: str
    start: int
    end: int
    parent: "_Node | None" = None
    children: list["_Node"] = field(default_factory=list)
    note: str = ""
    seen: bool = False


def render(request: bytes, verbosity: Verbosity = "normal") -> str:
    """The traces of a serialised ExportTraceServiceRequest, earliest first; each line ends with a line break.

    ``basic`` is a line a trace, ``normal`` the tree with durations, services and a few attributes, ``detailed`` adds
    all attributes, events and links. Siblings stand in the order of their start. Spans that grafter grafted carry
    GUEST_MARK. A span whose parent is not in the request, or whose parents form a cycle, stands at the left and says
    so. Control characters never reach the text. Raises RejectedError when the bytes are no such request.
    """
    traces: dict[str, list[_Node]] = {}
    for trace_id, node in _nodes(orjson.loads(trace_request_to_json(request))):
        traces.setdefault(trace_id, []).append(node)
    lines: list[str] = []
    for trace_id, nodes in sorted(traces.items(), key=lambda item: min(node.start for node in item[1])):
        tops = _hang(nodes)
        lines.append(_header(trace_id, nodes, tops))
        if verbosity != "basic":
            lines += _tree(tops, verbosity == "detailed")
    return "".join(f"{line}\n" for line in lines)


def _nodes(document: dict[str, Any]) -> Iterator[tuple[str, _Node]]:
    for resource_spans in document.get("resourceSpans", ()):
        service = ""
        for attribute in resource_spans.get("resource", {}).get("attributes", ()):
            if attribute.get("key") == "service.name":
                service = _value(attribute.get("value", {}))
        for scope_spans in resource_spans.get("scopeSpans", ()):
            guest = scope_spans.get("scope", {}).get("name") == "grafter"
            for span in scope_spans.get("spans", ()):
                parent = span.get("parentSpanId", "")
                yield (
                    span.get("traceId", ""),
                    _Node(
                        raw=span,
                        service=service,
                        guest=guest,
                        span_id=span.get("spanId", ""),
                        parent_id=parent if parent.strip("0") else "",
                        start=int(span.get("startTimeUnixNano", 0)),
                        end=int(span.get("endTimeUnixNano", 0)),
                    ),
                )


def _hang(nodes: list[_Node]) -> list[_Node]:
    """Give every node its children, in order; the nodes that stand at the left, so that each node is seen once."""
    nodes.sort(key=lambda node: node.start)
    by_id: dict[str, _Node] = {}
    for node in nodes:
        if by_id.setdefault(node.span_id, node) is not node:
            node.note = "the same id again"
    tops: list[_Node] = []
    for node in nodes:
        node.parent = by_id.get(node.parent_id) if node.parent_id else None
        if node.parent is not None:
            node.parent.children.append(node)
            continue
        if node.parent_id:
            node.note = f"parent {node.parent_id} is not here"
        tops.append(node)
    for node in tops:
        _see(node)
    for node in nodes:
        if not node.seen:
            start = _on_cycle(node)
            start.note = "its parents form a cycle"
            start.parent = None
            tops.append(start)
            _see(start)
    tops.sort(key=lambda node: node.start)
    return tops


def _see(top: _Node) -> None:
    """Mark all that hangs below, and cut what would lead back to what is marked already."""
    top.seen = True
    stack = [top]
    while stack:
        node = stack.pop()
        node.children = [child for child in node.children if not child.seen]
        for child in node.children:
            child.seen = True
        stack += node.children


def _on_cycle(node: _Node) -> _Node:
    """The earliest span of the cycle that a node without a top above it hangs on."""
    passed: set[int] = set()
    while id(node) not in passed:
        passed.add(id(node))
        assert node.parent is not None
        node = node.parent
    cycle, at = [node], node.parent
    while at is not None and at is not node:
        cycle.append(at)
        at = at.parent
    return min(cycle, key=lambda one: one.start)


def _header(trace_id: str, nodes: list[_Node], tops: list[_Node]) -> str:
    services = list(dict.fromkeys(node.service for node in nodes if node.service))
    guests = sum(node.guest for node in nodes)
    errors = sum(_failed(node) for node in nodes)
    first = min(node.start for node in nodes)
    words = [f"trace {trace_id}", _count(len(nodes), "span"), _milliseconds(max(n.end for n in nodes) - first)]
    if guests:
        words.insert(2, f"{GUEST_MARK} {guests} grafted")
    if errors:
        words.append(_count(errors, "error"))
    words.append(_clean(tops[0].raw.get("name", ""), _NAME_LENGTH))
    words.append(", ".join(_clean(service, _SHORT_VALUE) for service in services))
    return "  ".join(word for word in words if word)


def _tree(tops: list[_Node], detailed: bool) -> Iterator[str]:
    # Each entry: the node, what stands before its line, what stands before its children's lines, its depth.
    stack = [(node, "", "", 0) for node in reversed(tops)]
    while stack:
        node, before, below, depth = stack.pop()
        yield before + _line(node, depth, detailed)
        if detailed:
            bar = below + ("│  " if node.children else "   ")
            for text in _details(node):
                yield bar + text
        for at, child in enumerate(reversed(node.children)):
            if depth >= _MAX_INDENT:
                stack.append((child, below, below, depth + 1))
            elif at == 0:
                stack.append((child, below + "└─ ", below + "   ", depth + 1))
            else:
                stack.append((child, below + "├─ ", below + "│  ", depth + 1))


def _line(node: _Node, depth: int, detailed: bool) -> str:
    name = _clean(node.raw.get("name", ""), _NAME_LENGTH) or "(no name)"
    words = [f"{GUEST_MARK} {name}" if node.guest else name, _milliseconds(node.end - node.start)]
    if depth > _MAX_INDENT:
        words.insert(0, f"({depth} deep)")
    if node.parent is None or node.parent.service != node.service:
        words.append(f"[{_clean(node.service, _SHORT_VALUE) or 'no service name'}]")
    if _failed(node):
        message = _clean(node.raw["status"].get("message", ""), _SHORT_VALUE)
        words.append(f"ERROR: {message}" if message else "ERROR")
    if not detailed:
        found = {a.get("key"): a.get("value", {}) for a in node.raw.get("attributes", ())}
        words += [f"{key}={_clean(_value(found[key]), _SHORT_VALUE)}" for key in _KEY_ATTRIBUTES if key in found]
        words += [_event(event) for event in node.raw.get("events", ()) if event.get("name") in _KEY_EVENTS]
    if node.note:
        words.append(f"({node.note})")
    return "  ".join(words)


def _event(event: dict[str, Any]) -> str:
    key = _KEY_EVENTS[event["name"]]
    shown = [
        _clean(_value(a.get("value", {})), _SHORT_VALUE) for a in event.get("attributes", ()) if a.get("key") == key
    ]
    return f"{event['name']}({key}={shown[0]})" if shown else event["name"]


def _details(node: _Node) -> Iterator[str]:
    yield f"span {node.span_id}  kind {node.raw.get('kind', 0)}"
    yield from _attributes(node.raw)
    for event in node.raw.get("events", ()):
        after = _milliseconds(int(event.get("timeUnixNano", 0)) - node.start)
        yield f"event {_clean(event.get('name', ''), _NAME_LENGTH)} at +{after}"
        yield from (f"   {text}" for text in _attributes(event))
    for link in node.raw.get("links", ()):
        yield f"link to trace {link.get('traceId', '')} span {link.get('spanId', '')}"
        yield from (f"   {text}" for text in _attributes(link))


def _attributes(of: dict[str, Any]) -> Iterator[str]:
    for attribute in of.get("attributes", ()):
        key = _clean(attribute.get("key", ""), _NAME_LENGTH)
        yield f"{key} = {_clean(_value(attribute.get('value', {})), _LONG_VALUE)}"


def _failed(node: _Node) -> bool:
    return bool(node.raw.get("status", {}).get("code") == _ERROR)


def _value(value: dict[str, Any]) -> str:
    """An AnyValue as text: scalars plainly, the rest as JSON."""
    for kind, inner in value.items():
        if kind == "boolValue":
            return "true" if inner else "false"
        if kind in ("arrayValue", "kvlistValue"):
            return orjson.dumps(inner.get("values", [])).decode()
        return str(inner)
    return ""


def _milliseconds(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e6:,.1f} ms"


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def _clean(text: str, length: int) -> str:
    """One line without control characters: what a caller said or a peer sent must not steer a terminal."""
    if len(text) > length:
        text = text[:length] + "…"
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
