"""What an app has traced, in a form that a test can write down and compare whole."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Tracer, format_span_id, format_trace_id

from grafter_propagation import CallIds


@dataclass
class Spans:
    """An app's own tracer, and all that ended by it."""

    exporter: InMemorySpanExporter = field(default_factory=InMemorySpanExporter)
    provider: TracerProvider = field(
        default_factory=lambda: TracerProvider(id_generator=CallIds(), shutdown_on_exit=False)
    )

    def __post_init__(self) -> None:
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    @property
    def tracer(self) -> Tracer:
        return self.provider.get_tracer("app")

    @property
    def ended(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def named(self, name: str) -> ReadableSpan:
        (found,) = [span for span in self.ended if span.name == name]
        return found

    @contextmanager
    def span(self, name: str) -> Iterator[dict[str, str]]:
        """A span of the app's, current in the block; its ids as they stand in metadata."""
        with self.tracer.start_as_current_span(name) as span:
            context = span.get_span_context()
            yield {"trace_id": format_trace_id(context.trace_id), "span_id": format_span_id(context.span_id)}

    def text(self) -> str:
        """Every trace, two blanks a level, spans by their start; ``> name`` for a link, ``?`` for a parent that is not
        there."""
        known = {span.context.span_id: span for span in self.ended if span.context}
        spans = sorted(self.ended, key=lambda span: span.start_time or 0)
        lines: list[str] = []

        def walk(span: ReadableSpan, depth: int) -> None:
            lost = "? " if span.parent and span.parent.span_id not in known else ""
            links = [f" > {known[link.context.span_id].name}" for link in span.links if link.context.span_id in known]
            lines.append(f"{'  ' * depth}{lost}{span.name} [{span.kind.name.lower()}]{''.join(links)}")
            for child in spans:
                if child.parent and span.context and child.parent.span_id == span.context.span_id:
                    assert child.context is not None
                    assert child.context.trace_id == span.context.trace_id
                    walk(child, depth + 1)

        for span in spans:
            if span.parent is None or span.parent.span_id not in known:
                walk(span, 0)
        return "\n".join(lines)
