"""What the session itself is told: its identity, its configuration, its conversation.

The server's word is the last on any setting; the client's ``session.update`` counts until the server answers it, so
that a stream of which only one side is seen still has a model and a detector.
"""

from collections.abc import Mapping

from grafter.guests.json_values import count_of, list_of, mapping_of, text_of
from grafter.guests.realtime.notes import Note
from grafter.guests.realtime.records import LIVE
from grafter.guests.realtime.session import Session


def created(session: Session, note: Note, event: Mapping[str, object]) -> None:
    session.told = True
    configured(session, note, event)


def configured(session: Session, note: Note, event: Mapping[str, object]) -> None:
    """``session.updated`` and ``session.update``: what is left out stays as it was."""
    told = mapping_of(event.get("session"))
    config = session.config
    config.model = text_of(told.get("model")) or config.model
    config.kind = text_of(told.get("type")) or config.kind
    expires = count_of(told.get("expires_at"))
    config.expires_at = config.expires_at if expires is None else expires
    most = count_of(told.get("max_output_tokens"))
    config.max_output_tokens = config.max_output_tokens if most is None else most
    config.instructions = text_of(told.get("instructions")) or config.instructions
    modalities = [word for word in map(text_of, list_of(told.get("output_modalities"))) if word is not None]
    config.modalities = modalities or config.modalities
    if "tools" in told:
        config.tools = _names(told.get("tools"))
    audio = mapping_of(told.get("audio"))
    _hears(session, mapping_of(audio.get("input")))
    output = mapping_of(audio.get("output"))
    config.voice = text_of(output.get("voice")) or config.voice
    config.output_format = text_of(mapping_of(output.get("format")).get("type")) or config.output_format
    _delegates(session, told)
    tracing = mapping_of(told.get("tracing"))
    # Once set it cannot be changed: OpenAI ignores a second one.
    config.workflow = config.workflow or text_of(tracing.get("workflow_name"))
    config.group = config.group or text_of(tracing.get("group_id"))
    config.metadata = {**mapping_of(tracing.get("metadata")), **config.metadata}


def conversation(session: Session, note: Note, event: Mapping[str, object]) -> None:
    named = text_of(mapping_of(event.get("conversation")).get("id"))
    session.conversation = session.conversation or named


def _delegates(session: Session, told: Mapping[str, object]) -> None:
    """What only a session of the Live API is told: one format for both ways, and who does its work."""
    if "delegation" not in told and session.config.kind != LIVE:
        return
    config, live = session.config, session.live
    config.kind = LIVE
    both = text_of(mapping_of(mapping_of(told.get("audio")).get("format")).get("type"))
    config.input_format, config.output_format = both or config.input_format, both or config.output_format
    delegation = mapping_of(told.get("delegation"))
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


def _hears(session: Session, told: Mapping[str, object]) -> None:
    config = session.config
    config.input_format = text_of(mapping_of(told.get("format")).get("type")) or config.input_format
    if "turn_detection" in told:
        detection = mapping_of(told.get("turn_detection"))
        config.detection = (text_of(detection.get("type")) or config.detection) if detection else "none"
        silence = count_of(detection.get("silence_duration_ms"))
        config.silence_ms = silence if silence is not None or config.detection != "server_vad" else config.silence_ms
    if "transcription" in told:
        config.transcription = text_of(mapping_of(told.get("transcription")).get("model")) or ""
