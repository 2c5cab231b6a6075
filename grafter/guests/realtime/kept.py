"""What of an event may be stored: a table of the event types that say something, and what of each stays.

Half of what a socket carries is sound, and most of the rest says again what a later event says whole; so each type
has the few members that the state machine reads. Content is kept where the policy lets it. Audio never is: of a delta
there stays how many bytes it had.
"""

import re
from collections.abc import Mapping

from grafter.core.policy import Content
from grafter.guests.attributes import fit_json
from grafter.guests.json_values import ARGUMENTS_DIGEST, count_of, json_safe
from grafter.guests.media import decoded_size, without_text
from grafter.guests.realtime import allowed
from grafter.guests.realtime.allowed import GONE, Rule, Table, flag, identity, number, or_null, own, said, word
from grafter.guests.realtime.live import allowed as live
from grafter.guests.realtime.notes import ALIVE, ENDED, METADATA, SIP, STARTED, Side

AUDIO_DELTA = "response.output_audio.delta"
AUDIO_DELTAS = frozenset({AUDIO_DELTA, "response.audio.delta"})
"""Types whose ``delta`` is sound, as either API calls them."""

PRESENT_NAMES: Mapping[str, str] = {
    "response.audio.delta": AUDIO_DELTA,
    "response.audio.done": "response.output_audio.done",
    "response.audio_transcript.delta": "response.output_audio_transcript.delta",
    "response.audio_transcript.done": "response.output_audio_transcript.done",
    "response.text.delta": "response.output_text.delta",
    "response.text.done": "response.output_text.done",
    "transcription_session.created": "session.created",
    "transcription_session.update": "session.update",
    "transcription_session.updated": "session.updated",
}
"""The beta API's names, and what today's API calls the same."""

UNREAD = live.UNREAD | frozenset(
    {
        "conversation.item.input_audio_transcription.delta",
        "conversation.item.input_audio_transcription.segment",
        "conversation.item.delete",
        "conversation.item.deleted",
        "conversation.item.retrieve",
        "conversation.item.retrieved",
        "input_audio_buffer.append",
        "input_audio_buffer.clear",
        "output_audio_buffer.clear",
        "response.content_part.done",
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.output_text.done",
    }
)
"""Types of which nothing is of use: another event says the same, or they change nothing that a span tells."""

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
    event = live.unwrapped(event)
    kind = present_name(event.get("type"))
    if side is Side.GRAFTER:
        table = _GRAFTER.get(kind)
        return None if table is None else {"type": kind, **allowed.pick(event, table, content)}
    if kind in UNREAD:
        return None
    table = _TABLES.get(kind)
    if table is None:
        return _unknown(kind, event)
    found: dict[str, object] = {"type": kind}
    for key, member in event.items():
        rule = table.get(key)
        if rule is not None:
            left = rule(member, content)
            if left is not GONE:
                found[key] = left
    if kind == AUDIO_DELTA and "delta_bytes" not in found and isinstance(event.get("delta"), str):
        found["delta_bytes"] = decoded_size(str(event["delta"]))
    if "arguments" in table and "arguments" in event:
        allowed.with_digest(found, event)
    return found


def present_name(kind: object) -> str:
    """The name that today's API has for an event type; ``odd`` for what is no name."""
    if not isinstance(kind, str):
        return ODD
    if kind in _TABLES or kind in UNREAD:
        return kind
    name = PRESENT_NAMES.get(kind, kind)
    return name if _TYPE.fullmatch(name) else ODD


def _unknown(kind: str, event: Mapping[str, object]) -> dict[str, object]:
    found: dict[str, object] = {"type": kind}
    event_id = identity(event.get("event_id"), Content.NONE)
    if event_id is not GONE:
        found["event_id"] = event_id
    if len(event) > allowed.MOST_MEMBERS:
        return found
    rest = {key: member for key, member in event.items() if key not in ("type", "event_id")}
    numbers = json_safe(without_text(rest, 4), 6)
    if isinstance(numbers, dict) and fit_json(numbers, _UNKNOWN_BYTES)[1] <= _UNKNOWN_BYTES:
        found.update(numbers)
    return found


def _bytes(value: object, _: Content) -> object:
    size = count_of(value)
    return GONE if size is None else size


def _table(**rules: Rule) -> Table:
    return {"event_id": identity, **rules}


_BARE = _table()
_ITEM_ID = _table(item_id=identity)
_RESPONSE_ID = _table(response_id=identity)
_OF_ITEM = _table(item_id=identity, response_id=identity)
_WITH_ITEM = _table(item=allowed.item, response_id=identity)
_SESSION = _table(session=allowed.session)
_RESPONSE = _table(response=allowed.response)
_TRUNCATION = _table(item_id=identity, audio_end_ms=number)
_ARGUMENTS: Table = {
    **_table(item_id=identity, response_id=identity, call_id=identity, name=word, arguments=said),
    ARGUMENTS_DIGEST: allowed.digested,
}

_TABLES: Mapping[str, Table] = {
    **live.TABLES,
    "conversation.created": _table(conversation=allowed.inside({"id": identity})),
    "conversation.item.added": _WITH_ITEM,
    "conversation.item.create": _WITH_ITEM,
    "conversation.item.created": _WITH_ITEM,
    "conversation.item.done": _WITH_ITEM,
    "conversation.item.input_audio_transcription.completed": _table(
        item_id=identity, transcript=said, usage=allowed.counts
    ),
    "conversation.item.input_audio_transcription.failed": _table(item_id=identity, error=allowed.inside(allowed.ERROR)),
    "conversation.item.truncate": _TRUNCATION,
    "conversation.item.truncated": _TRUNCATION,
    "error": _table(error=allowed.inside(allowed.ERROR)),
    "input_audio_buffer.cleared": _BARE,
    "input_audio_buffer.commit": _BARE,
    "input_audio_buffer.committed": _ITEM_ID,
    "input_audio_buffer.dtmf_event_received": _table(event=said, received_at=number),
    "input_audio_buffer.speech_started": _table(item_id=identity, audio_start_ms=number),
    "input_audio_buffer.speech_stopped": _table(item_id=identity, audio_end_ms=number),
    "input_audio_buffer.timeout_triggered": _table(item_id=identity, audio_start_ms=number, audio_end_ms=number),
    "mcp_list_tools.completed": _ITEM_ID,
    "mcp_list_tools.failed": _ITEM_ID,
    "mcp_list_tools.in_progress": _ITEM_ID,
    "output_audio_buffer.cleared": _RESPONSE_ID,
    "output_audio_buffer.started": _RESPONSE_ID,
    "output_audio_buffer.stopped": _RESPONSE_ID,
    "rate_limits.updated": _table(
        rate_limits=allowed.each(
            allowed.inside({"name": word, "limit": number, "remaining": number, "reset_seconds": number})
        )
    ),
    "response.cancel": _RESPONSE_ID,
    "response.content_part.added": _table(item_id=identity, response_id=identity, part=allowed.PART),
    "response.create": _RESPONSE,
    "response.created": _RESPONSE,
    "response.done": _RESPONSE,
    "response.function_call_arguments.delta": _table(item_id=identity, response_id=identity, call_id=identity),
    "response.function_call_arguments.done": _ARGUMENTS,
    "response.mcp_call.completed": _OF_ITEM,
    "response.mcp_call.failed": _OF_ITEM,
    "response.mcp_call.in_progress": _OF_ITEM,
    "response.mcp_call_arguments.delta": _OF_ITEM,
    "response.mcp_call_arguments.done": _ARGUMENTS,
    AUDIO_DELTA: _table(item_id=identity, response_id=identity, delta_bytes=_bytes, beside=flag),
    "response.output_audio_transcript.delta": _OF_ITEM,
    "response.output_item.added": _WITH_ITEM,
    "response.output_item.done": _WITH_ITEM,
    "response.output_text.delta": _OF_ITEM,
    "session.created": _SESSION,
    "session.update": _SESSION,
    "session.updated": _SESSION,
}
KNOWN = frozenset(_TABLES)
"""Types that the state machine reads, under today's names."""

FOLDED = live.FOLDED | frozenset(kind for kind in _TABLES if kind.endswith(".delta") and kind not in live.TABLES)
"""Types of which only the first and the last of a run say anything."""

_GRAFTER: Mapping[str, Table] = {
    METADATA: {
        "metadata": own,
        "origin": word,
        "clock": allowed.inside({"ahead_ms": number, "offset_ms": number}),
    },
    SIP: {"traceparent": or_null(word)},
    STARTED: {},
    ALIVE: {},
    ENDED: {"by": word, "untimed": flag},
}
"""Notes of grafter's own; from any other side such a name means nothing."""
