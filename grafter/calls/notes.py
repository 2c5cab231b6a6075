"""What an announced call says, and what an app posts of one, as records. Pure."""

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

from grafter.calls.ids import call_id, distinct, openai_id
from grafter.calls.model import CallId, CallRecord, Origin
from grafter.core.calls import CallNote


def of_note(note: CallNote, ids: Sequence[CallId] = (), origin: Origin = Origin.WEBHOOK) -> CallRecord:
    """Its ``traceparent`` is left out: whoever calls wrote it, and could lay the call into another's trace."""
    own = openai_id(note.call_id) or call_id("", note.call_id)
    known = distinct([*ids, *([] if own is None else [own])])
    record = CallRecord("", origin, note.at, known, caller=note.caller, callee=note.callee, start=note.at)
    return named(record, note.call_id)


def named(record: CallRecord, what: str = "") -> CallRecord:
    """With a name made of its content: the same content, whenever it comes, has the same name."""
    content = (record.ids, record.traces, record.caller, record.callee, record.outcome, record.end, record.recording)
    start = record.start if record.start != record.at else None
    digest = sha256(repr((what, start, content)).encode()).hexdigest()[:32]
    return replace(record, name=f"{record.origin.value}:{digest}")
