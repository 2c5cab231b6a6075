"""The one place that knows how grafter is asked: posts in, plain spans out. No clock, store or network is in it."""

from grafter.core.model import UnixNano
from grafter.core.policy import GraftPolicy
from grafter.guests.realtime.intake import read_posts
from grafter.guests.realtime.spans import map_realtime
from tests.simulator.judge import Span
from tests.simulator.observer import Posts
from tests.simulator.world import T0

_LATER = UnixNano((T0 + 86_000) * 10**9)
"""The arrival of every post: no time in a call is later."""
_POLICY = GraftPolicy()


def spans_of(posts: Posts) -> list[Span]:
    """What grafter makes of a call that was posted whole."""
    parts = read_posts(posts.body, True, _POLICY, _LATER).parts
    spans = []
    for mapped in map_realtime(posts.key, [part.payload for part in parts], _POLICY, None, final=True):
        for span in mapped.guest.spans:
            attributes = dict(span.attributes)
            events = tuple((event.name, event.time, dict(event.attributes)) for event in span.events)
            name = str(attributes.get("grafter.guest.span_id"))
            spans.append(Span(name, span.name, span.start, span.end, attributes, events))
    return spans
