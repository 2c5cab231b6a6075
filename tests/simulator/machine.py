"""The one place that knows how grafter is asked: posts in, plain spans out. No clock, store or network is in it."""

from collections.abc import Sequence

from grafter.core.model import UnixNano
from grafter.core.policy import GraftPolicy
from grafter.guests.realtime.intake import read_posts
from grafter.guests.realtime.spans import map_realtime
from tests.simulator.judge import Span
from tests.simulator.observer import Posts
from tests.simulator.unanswered_rules import session_name
from tests.simulator.world import T0

_LATER = UnixNano((T0 + 86_000) * 10**9)
"""The arrival of every post: no time in a call is later."""
_POLICY = GraftPolicy()


def spans_of(posts: Posts) -> list[Span]:
    """What grafter makes of a call that was posted whole."""
    return spans_of_parts(posts.key, parts_of(posts))


def parts_of(posts: Posts) -> list[bytes]:
    """What is stored of what was posted."""
    bodies = [body for body in (posts.body, posts.end) if body]
    parts = [part for body in bodies for part in read_posts(body, True, _POLICY, _LATER).parts]
    return [part.payload for part in parts]


def spans_of_parts(key: str, payloads: Sequence[bytes]) -> list[Span]:
    """What grafter makes of a call whose parts are stored."""
    spans = []
    for number, mapped in enumerate(map_realtime(key, payloads, _POLICY, None, final=True), 1):
        for span in mapped.guest.spans:
            attributes = dict(span.attributes)
            events = tuple((event.name, event.time, dict(event.attributes)) for event in span.events)
            name = str(attributes.get("grafter.guest.span_id"))
            name = session_name(number) if name == "session" else name
            spans.append(Span(name, span.name, span.start, span.end, attributes, events))
    return spans
