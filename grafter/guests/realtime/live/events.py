"""What each event of the Live API does. Types that the Realtime API has too stand in its own table."""

from collections.abc import Callable, Mapping

from grafter.core import semconv
from grafter.guests.json_values import count_of
from grafter.guests.realtime import configuring, speech, tools
from grafter.guests.realtime.live import delegating, talking
from grafter.guests.realtime.live.allowed import (
    CLOSED,
    FIRST_TOKENS,
    INNER,
    INPUT_TRANSCRIPT,
    OUTPUT_AUDIO,
    OUTPUT_TRANSCRIPT,
)
from grafter.guests.realtime.notes import Note
from grafter.guests.realtime.session import Session

_Handler = Callable[[Session, Note, Mapping[str, object]], None]


def _happened(what: str) -> _Handler:
    """Something whose moment is all that is told of it, or nearly."""

    def handler(session: Session, note: Note, event: Mapping[str, object]) -> None:
        start = count_of(event.get("start_ms"))
        session.happened(note.at, semconv.EVENT_LIVE.format(what=what), {} if start is None else {"start_ms": start})

    return handler


HANDLERS: Mapping[str, _Handler] = {
    "decision.event": delegating.decided,
    "response.item.create": delegating.item_given,
    "session.start": configuring.configured,
    "session.started": talking.started,
    CLOSED: talking.closed,
    "session.usage.updated": talking.used,
    INPUT_TRANSCRIPT: talking.heard,
    OUTPUT_TRANSCRIPT: talking.spoke,
    OUTPUT_AUDIO: talking.sounded,
    "session.delegation.created": delegating.created,
    "session.instructions.appended": _happened("instructions_appended"),
    "session.thinking.appended": _happened("thinking_appended"),
    "session.commentary.appended": _happened("commentary_appended"),
    "session.input_audio.muted": _happened("input_muted"),
    "session.input_audio.unmuted": _happened("input_unmuted"),
    "session.output_audio.fixture.playing": _happened("fixture_playing"),
    "session.output_audio.fixture.played": _happened("fixture_played"),
    "transport.answered": _happened("answered"),
    "transport.dtmf.received": speech.key_pressed,
    "transport.dtmf.send": talking.key_sent,
    "transport.dtmf.sent": talking.key_sent,
    "transport.failed": talking.failed,
    "transport.ringing": _happened("ringing"),
    INNER + "error": delegating.error,
    INNER + "response.created": delegating.begun,
    INNER + "response.queued": delegating.going,
    INNER + "response.in_progress": delegating.going,
    INNER + "response.completed": delegating.ended,
    INNER + "response.failed": delegating.ended,
    INNER + "response.incomplete": delegating.ended,
    INNER + "response.output_item.added": delegating.item_added,
    INNER + "response.output_item.done": delegating.item_done,
    INNER + "response.mcp_call.in_progress": tools.mcp_running,
    INNER + "response.mcp_call.completed": tools.mcp_completed,
    INNER + "response.mcp_call.failed": tools.mcp_failed,
    INNER + "response.mcp_list_tools.in_progress": tools.list_running,
    INNER + "response.mcp_list_tools.completed": tools.list_completed,
    INNER + "response.mcp_list_tools.failed": tools.list_failed,
    **dict.fromkeys(FIRST_TOKENS, delegating.said),
}
