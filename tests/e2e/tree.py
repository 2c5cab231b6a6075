"""A trace as it came out, in a form that a test can write down and compare whole."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from textwrap import dedent

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

Value = str | bool | int | float | list["Value"] | None

ALWAYS_DIFFERENT = frozenset(
    {
        "openai.agents.trace.id",
        "openai.agents.span.id",
        "openai.agents.span.parent_id",
        "openai.agents.trace.url",
        "openai.agents.trace.metadata",
        "gen_ai.response.id",
        "server.port",
        "call.id",
        "traceparent",
        "grafter.duplicate_of",
        "grafter.parent.original",
        "grafter.caller_wait.pieces",
        "grafter.caller_wait.sentence",
        "grafter.greeting.pieces",
        "grafter.greeting.sentence",
        "grafter.app_ms",
        "grafter.openai_ms",
        "grafter.unknown_ms",
        "grafter.tool.network_ms",
        "grafter.tool.queue_ms",
        "grafter.tool.service_ms",
    }
)
"""Attributes whose values hold an id, a time or a port: they are compared on their own."""


@dataclass(frozen=True)
class SpanOf:
    """A span with the resource and scope that it came under."""

    span: Span
    resource: Resource
    scope: InstrumentationScope

    @property
    def service(self) -> str:
        return str(values(self.resource.attributes).get("service.name", ""))

    @property
    def attributes(self) -> dict[str, Value]:
        return values(self.span.attributes)


@dataclass(frozen=True)
class Node:
    """A span and what hangs under it; children in the order of their text, so that two runs compare."""

    name: str
    kind: str
    service: str
    error: str | None
    """The status message when the status is ERROR, else None."""
    attributes: dict[str, Value]
    events: tuple[str, ...]
    links: tuple[str, ...]
    """The name of each span that it links to, and the link's attributes."""
    children: tuple["Node", ...]

    def lines(self) -> Iterator[str]:
        """This node and those under it as text, two blanks a level, with every attribute that two runs share."""
        words = [self.name, f"[{self.service} {self.kind}]"]
        words += [f"{key}={self.attributes[key]}" for key in sorted(self.attributes.keys() - ALWAYS_DIFFERENT)]
        if self.error is not None:
            words.append(f"ERROR({self.error})")
        yield " ".join(words)
        yield from (f"  * {event}" for event in self.events)
        yield from (f"  > {link}" for link in self.links)
        for block in sorted([f"  {line}" for line in child.lines()] for child in self.children):
            yield from block

    def text(self) -> str:
        return "\n".join(self.lines())


def outline(text: str) -> str:
    """A tree written into a test, without its indentation."""
    return dedent(text).strip("\n")


def spans_in(tree: str) -> int:
    """How many spans a written tree has: its lines but those of events and links."""
    return sum(not line.lstrip().startswith(("* ", "> ")) for line in outline(tree).splitlines())


def tree_of(spans: Sequence[SpanOf]) -> Node:
    """The tree that the spans make. Fails on a repeated id, a second root, an unknown parent and a cycle."""
    by_id: dict[bytes, SpanOf] = {}
    for each in spans:
        assert each.span.span_id not in by_id, f"{each.span.name} came twice as {each.span.span_id.hex()}"
        by_id[each.span.span_id] = each
    roots = [each for each in spans if not each.span.parent_span_id]
    orphans = [each.span.name for each in spans if each.span.parent_span_id and each.span.parent_span_id not in by_id]
    assert orphans == [], f"no parent came for {orphans}"
    assert len(roots) == 1, f"roots: {[each.span.name for each in roots]} of {[each.span.name for each in spans]}"

    children: dict[bytes, list[SpanOf]] = {}
    for each in spans:
        children.setdefault(each.span.parent_span_id, []).append(each)
    reached: list[bytes] = []

    def node(each: SpanOf) -> Node:
        reached.append(each.span.span_id)
        return Node(
            name=each.span.name,
            kind=Span.SpanKind.Name(each.span.kind).removeprefix("SPAN_KIND_").lower(),
            service=each.service,
            error=each.span.status.message if each.span.status.code == Status.STATUS_CODE_ERROR else None,
            attributes=each.attributes,
            events=tuple(_words(event.name, event.attributes) for event in each.span.events),
            links=tuple(_words(by_id[link.span_id].span.name, link.attributes) for link in each.span.links),
            children=tuple(node(child) for child in children.get(each.span.span_id, [])),
        )

    root = node(roots[0])
    assert len(reached) == len(spans), "some spans hang on each other in a ring"
    return root


def values(attributes: Iterable[KeyValue]) -> dict[str, Value]:
    return {each.key: _value(each.value) for each in attributes}


def _value(value: AnyValue) -> Value:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return None if kind is None else getattr(value, kind)


def _words(name: str, attributes: Iterable[KeyValue]) -> str:
    # A recorded exception carries a stack with paths in it; its type says enough.
    shown = {key: value for key, value in values(attributes).items() if key != "exception.stacktrace"}
    return " ".join([name, *(f"{key}={shown[key]}" for key in sorted(shown))])
