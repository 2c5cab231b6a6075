"""What of an event may be stored: the members that its row of the table names, each by its rule.

Half of what a socket carries is audio, and most of the rest repeats what a later event says whole; so each type
keeps the few members that the state machine reads. Content is kept where the policy lets it. Audio never is: of a
delta there stays how many bytes it had.
"""

import re
from collections.abc import Mapping

from grafter.core.policy import Content
from grafter.guests.attributes import fit_json
from grafter.guests.json_values import numbers_within
from grafter.guests.media import decoded_size
from grafter.guests.realtime import field_rules
from grafter.guests.realtime.event_types import AUDIO_DELTA, EVENT_TYPES, PRESENT_NAMES
from grafter.guests.realtime.field_rules import (
    GONE,
    Table,
    flag,
    identity,
    inside,
    number,
    or_null,
    own,
    unwrapped,
    word,
)
from grafter.guests.realtime.stored_event import ALIVE, ENDED, METADATA, SIP, STARTED, Side

_UNKNOWN_BYTES = 1_000
_TYPE = re.compile(r"[A-Za-z0-9_.:/-]{1,100}")
ODD = "odd"
"""The type of an event that has none that could be a name."""


def kept(event: Mapping[str, object], side: Side, content: Content) -> dict[str, object] | None:
    """A copy of an event with what may be stored of it, under today's names; None when nothing is of use.

    With Content.NONE there is no content in it. An event of unknown type keeps its numbers and flags, bounded, and no
    string but its id. Applied to its own result it changes nothing. Never raises for a JSON object, and what it gives
    can be written as JSON.
    """
    event = unwrapped(event)
    kind = present_name(event.get("type"))
    if side is Side.GRAFTER:
        table = _GRAFTER.get(kind)
        return None if table is None else {"type": kind, **field_rules.pick(event, table, content)}
    row = EVENT_TYPES.get(kind)
    if row is None:
        return _unknown(kind, event)
    table = row.fields
    if table is None:
        return None
    found = {"type": kind, **field_rules.pick(event, table, content)}
    delta = event.get("delta")
    # Some senders leave the audio out by leaving its text empty: nothing is known of its size then.
    if kind == AUDIO_DELTA and "delta_bytes" not in found and isinstance(delta, str) and delta:
        found["delta_bytes"] = decoded_size(delta)
    if "arguments" in table and "arguments" in event:
        field_rules.with_digest(found, event)
    return found


def present_name(kind: object) -> str:
    """The name that today's API has for an event type; ``odd`` for what is no name."""
    if not isinstance(kind, str):
        return ODD
    if kind in EVENT_TYPES:
        return kind
    name = PRESENT_NAMES.get(kind, kind)
    return name if _TYPE.fullmatch(name) else ODD


def _unknown(kind: str, event: Mapping[str, object]) -> dict[str, object]:
    found: dict[str, object] = {"type": kind}
    event_id = identity(event.get("event_id"), Content.NONE)
    if event_id is not GONE:
        found["event_id"] = event_id
    if len(event) > field_rules.MOST_MEMBERS:
        return found
    rest = {key: member for key, member in event.items() if key not in ("type", "event_id")}
    numbers = numbers_within(rest, 4)
    if isinstance(numbers, dict) and fit_json(numbers, _UNKNOWN_BYTES)[1] <= _UNKNOWN_BYTES:
        found.update(numbers)
    return found


_GRAFTER: Mapping[str, Table] = {
    METADATA: {
        "metadata": own,
        "origin": word,
        "clock": inside({"ahead_ms": number, "offset_ms": number}),
    },
    SIP: {"traceparent": or_null(word)},
    STARTED: {},
    ALIVE: {},
    ENDED: {"by": word, "untimed": flag, "deaf_until": number, "recorder": flag},
}
"""Notes of grafter's own; from any other side such a name means nothing."""
