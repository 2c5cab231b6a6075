"""A session's identity, its configuration and its conversation.

The server's word counts. What the client asks for with ``session.update`` stands only where the server is not heard at
all, so that a stream of which only one side is seen still has a model and a detector; but its tracing configuration,
which the server does not change, is read from either.
"""

from collections.abc import Mapping

from grafter.guests.json_values import count_of, float_of, list_of, mapping_of, text_of
from grafter.guests.realtime import requests, speech
from grafter.guests.realtime.records import LIVE, TRANSCRIPTION
from grafter.guests.realtime.session import Session
from grafter.guests.realtime.stored_event import StoredEvent


def created(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    session.begun = True
    _configured(session, event)


def updated(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    """``session.updated`` and ``session.closed``: what is left out stays as it was."""
    requests.answered(session, requests.UPDATE)
    _configured(session, event)


def requested(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    requests.record_request(session, stored, requests.UPDATE)
    if session.begun:
        _traced(session, mapping_of(event.get("session")))
    else:
        _configured(session, event)


def _configured(session: Session, event: Mapping[str, object]) -> None:
    given = mapping_of(event.get("session"))
    config = session.config
    config.model = text_of(given.get("model")) or config.model
    config.kind = text_of(given.get("type")) or config.kind
    expires = count_of(given.get("expires_at"))
    config.expires_at = config.expires_at if expires is None else expires
    most = count_of(given.get("max_output_tokens"))
    config.max_output_tokens = config.max_output_tokens if most is None else most
    config.instructions = text_of(given.get("instructions")) or config.instructions
    modalities = [word for word in map(text_of, list_of(given.get("output_modalities"))) if word is not None]
    config.modalities = modalities or config.modalities
    if "tools" in given:
        config.tools = _names(given.get("tools"))
    audio = mapping_of(given.get("audio"))
    _hears(session, mapping_of(audio.get("input")))
    output = mapping_of(audio.get("output"))
    config.voice = text_of(output.get("voice")) or config.voice
    given_format = mapping_of(output.get("format"))
    if text_of(given_format.get("type")) is not None:
        config.output_format = text_of(given_format.get("type"))
        config.output_rate = count_of(given_format.get("rate"))
    _delegates(session, given)
    config.agent = text_of(given.get("agent")) or config.agent
    idle = float_of(given.get("idle_timeout_s"))
    session.live.idle_timeout_s = session.live.idle_timeout_s if idle is None else idle
    _traced(session, given)


def _traced(session: Session, given: Mapping[str, object]) -> None:
    config, tracing = session.config, mapping_of(given.get("tracing"))
    # Once set it cannot be changed: OpenAI ignores a second one.
    config.workflow = config.workflow or text_of(tracing.get("workflow_name"))
    config.group = config.group or text_of(tracing.get("group_id"))
    config.metadata = {**mapping_of(tracing.get("metadata")), **config.metadata}


def conversation(session: Session, stored: StoredEvent, event: Mapping[str, object]) -> None:
    named = text_of(mapping_of(event.get("conversation")).get("id"))
    session.conversation = session.conversation or named


def _delegates(session: Session, given: Mapping[str, object]) -> None:
    """What only a session of the Live API is given: one format for both ways, and who does its work."""
    if "delegation" not in given and session.config.kind != LIVE:
        return
    config, live = session.config, session.live
    config.kind = LIVE
    both = text_of(mapping_of(mapping_of(given.get("audio")).get("format")).get("type"))
    config.input_format, config.output_format = both or config.input_format, both or config.output_format
    delegation = mapping_of(given.get("delegation"))
    live.target = text_of(delegation.get("type")) or live.target
    for target in ("responses", "decisions"):
        backend = mapping_of(delegation.get(target))
        live.backend = text_of(backend.get("model")) or live.backend
        if "tools" in backend:
            config.tools = _names(backend.get("tools"))


def _names(tools: object) -> list[str]:
    named = [mapping_of(tool) for tool in list_of(tools)]
    names = [
        text_of(tool.get("name")) or text_of(tool.get("server_label")) or text_of(tool.get("type")) for tool in named
    ]
    return [name for name in names if name is not None]


def _hears(session: Session, given: Mapping[str, object]) -> None:
    config = session.config
    config.input_format = text_of(mapping_of(given.get("format")).get("type")) or config.input_format
    if "turn_detection" in given:
        detection = mapping_of(given.get("turn_detection"))
        config.detection = (text_of(detection.get("type")) or config.detection) if detection else "none"
        creates = detection.get("create_response")
        answers = bool(detection) and creates is not False and config.kind != TRANSCRIPTION
        known, config.creates = config.creates, answers
        silence = count_of(detection.get("silence_duration_ms"))
        config.silence_ms = silence if silence is not None or config.detection != "server_vad" else config.silence_ms
        if known is None:
            speech.configured(session)
    if "transcription" in given:
        config.transcription = text_of(mapping_of(given.get("transcription")).get("model")) or ""
