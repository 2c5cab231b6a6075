"""Which attributes name a call, and whose id a text is.

Sources: Twilio (CallSid: CA and 32 hex digits), RFC 3261 (Call-ID), LiveKit agents (``lk.sip.*``, ``lk.room_sid``,
earlier ``sip.*``), Pipecat (``conversation.id``), openai-python (``rtc_…``, ``live_…``, ``sess_…``).
"""

import re
from collections.abc import Collection, Iterable, Iterator

from grafter.calls.model import RUNNING, CallId

ID_KEYS = (
    "call.id",
    "call.sid",
    "call_sid",
    "CallSid",
    "twilio.call_sid",
    "sip_call_id",
    "SipCallId",
    "sip.call_id",
    "lk.sip.callID",
    "lk.sip.callIDFull",
    "lk.room_sid",
    "sip.callID",
    "sip.callIDFull",
    "sip.twilio.callSid",
    "conversation.id",
)
"""Attributes whose value is an id of the call, unless the config names others; of host spans, and of OpenAI's
metadata."""
CALLER_KEYS = ("call.from", "from", "From", "lk.pii.sip.phoneNumber", "lk.sip.phoneNumber", "sip.phoneNumber")
CALLEE_KEYS = ("call.to", "to", "To", "lk.pii.sip.trunkPhoneNumber", "lk.sip.trunkPhoneNumber", "sip.trunkPhoneNumber")
OUTCOME_KEYS = ("call.outcome", "call.status", "CallStatus", "outcome")
RECORDING_KEYS = ("call.recording_url", "RecordingUrl", "RecordingSid")

GUEST_KEYS = (
    "grafter.guest.trace_id",
    "openai.agents.trace.id",
    "gen_ai.conversation.id",
    "gen_ai.realtime_session.id",
    "openai.call_id",
)
"""Attributes whose value is an id of the call where it looks like one of OpenAI's."""

_KINDS = {
    "sip_call_id": "sip",
    "SipCallId": "sip",
    "sip.call_id": "sip",
    "lk.sip.callID": "livekit_call",
    "lk.sip.callIDFull": "sip",
    "sip.callID": "livekit_call",
    "sip.callIDFull": "sip",
    "lk.room_sid": "livekit_room",
    "conversation.id": "pipecat",
}
_SHAPES = (
    ("twilio", re.compile(r"CA[0-9a-f]{32}", re.IGNORECASE)),
    ("openai_realtime", re.compile(r"rtc_[\w.-]+")),
    ("openai_live", re.compile(r"live_[\w.-]+")),
    ("openai_session", re.compile(r"a?sess_[\w.-]+")),
    ("openai_trace", re.compile(r"trace_[\w.-]+")),
    ("livekit_room", re.compile(r"RM_\w+")),
    ("livekit_call", re.compile(r"SCL_\w+")),
)
_SYSTEM = re.compile(r"[^\W\d][\w.-]{0,39}")
_RECORDING_SID = re.compile(r"RE[0-9a-f]{32}")
OPENAI_KINDS = frozenset({"openai_realtime", "openai_live", "openai_session", "openai_trace"})
SINGLE_KINDS = frozenset({"twilio", "sip", "openai_realtime", "openai_live", "livekit_call", "pipecat"})
"""Kinds of which one leg has one id: two different ones say two legs."""
LONGEST_ID = 256
LONGEST_OUTCOME = 40
# "1" or "inbound" is what somebody counts with, not what names a call.
_SHORTEST_ID = 6
_NUMBER = re.compile(r"(?:tel:|sips?:)?\+[\d\s().-]{6,}(?:@.*)?|tel:.*", re.IGNORECASE)


def call_id(key: str, value: str, id_keys: Collection[str] = ID_KEYS) -> CallId | None:
    """The id that an attribute of this key names; None for what names no one call, or is a phone number. A key that is
    none of ``id_keys``, those of the config, names the system that the id is of."""
    value = value.strip()
    if not _SHORTEST_ID <= len(value) <= LONGEST_ID or not value.isprintable() or _NUMBER.fullmatch(value):
        return None
    kind = _shape(value) or _KINDS.get(key, "app")
    # Those say that it is a call's id, and not whose.
    named = kind == "app" and key not in id_keys and _SYSTEM.fullmatch(key) is not None
    return CallId(kind, value, key if named else "")


def openai_id(value: str) -> CallId | None:
    """The id where it looks like one of OpenAI's."""
    value = value.strip()
    shape = _shape(value) if len(value) <= LONGEST_ID else ""
    return CallId(shape, value) if shape in OPENAI_KINDS else None


_STILL_RUNS = frozenset({"queued", "initiated", "ringing", "in-progress", "answered", "active", "inbound", RUNNING})


def outcome_of(word: str) -> str:
    """How a call ended, by a carrier's or an app's word; empty for one that says that it runs, and what is no word."""
    word = word.strip()
    if not word or len(word) > LONGEST_OUTCOME or not word.isprintable():
        return ""
    return "" if word.lower() in _STILL_RUNS else word


def recording_ids(recording: str | None) -> Iterator[str]:
    """By which a recording is known: as it was said, and Twilio's id within an address."""
    if recording and len(recording) <= LONGEST_ID and recording.isprintable():
        yield recording
        if (sid := _RECORDING_SID.search(recording)) is not None and sid[0] != recording:
            yield sid[0]


def distinct(ids: Iterable[CallId]) -> tuple[CallId, ...]:
    """Each once, in order; with its system where one of them says it."""
    found: dict[CallId, CallId] = {}
    for one in ids:
        known = found.setdefault(one, one)
        if one.system and (not known.system or one.system < known.system):
            found[one] = one
    return tuple(sorted(found.values()))


def _shape(value: str) -> str:
    return next((kind for kind, shape in _SHAPES if shape.fullmatch(value)), "")
