"""Which sources of guests there are: a folder and a line each."""

from collections.abc import Mapping

from grafter.core.lifecycle import Rules
from grafter.core.model import Source
from grafter.guests.agents.source import AgentsSource
from grafter.guests.otlp.source import MovedTraces
from grafter.guests.realtime.source import RealtimeSource
from grafter.guests.sessions.source import SessionsSource
from grafter.guests.source import GuestSource

SOURCES: Mapping[Source, GuestSource] = {
    Source.SDK: AgentsSource(Source.SDK),
    Source.WEBHOOK: AgentsSource(Source.WEBHOOK),
    Source.SESSIONS: SessionsSource(),
    Source.REALTIME: RealtimeSource(),
    Source.OTLP: MovedTraces(),
}

RULES: Rules = {name: source.wholeness for name, source in SOURCES.items()}
"""What the lifecycle has to know of each."""


def source_of(name: Source) -> GuestSource:
    """The source of this name. What only a newer version knows, that shares the store, is read as items."""
    return SOURCES.get(name) or SOURCES[Source.SDK]
