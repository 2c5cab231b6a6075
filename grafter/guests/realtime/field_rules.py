"""What of an event's members may be stored: the rule of ``content``, for the objects of the Realtime and Live APIs.

An allow-list under every policy, since sessions hold keys (``client_secret``, an MCP server's ``authorization``) that
are neither content nor structure. A table names each member and the rule that keeps it: structure stays, content
stays where the policy lets it, what no table names is left out. Rules also bring what an older API called otherwise
under its present name, and applying them to what they gave changes nothing.
"""

import re
from collections.abc import Callable, Mapping

from grafter.core.policy import Content
from grafter.guests.attributes import ATTRIBUTE_BYTES, cut_text, fit_json
from grafter.guests.json_values import ARGUMENTS_DIGEST, count_of, digest, json_safe, number_of, numbers_within
from grafter.guests.media import without_media
from grafter.guests.realtime.records import TRANSCRIPTION

Rule = Callable[[object, Content], object]
Table = Mapping[str, Rule]

GONE = object()
"""What a rule answers when nothing stays."""

WORD_BYTES = 256
"""Of a name, a status, a model: what stands in many spans and is repeated in every event."""
LONGEST_ID = 1_000
MOST_MEMBERS = 64
"""Of a list: items of a response, tools of a session."""
METADATA_BYTES = 16_000
"""OpenAI takes 16 keys of 64 characters with values of 512; a trace's metadata has no such bound."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


def pick(value: object, table: Table, content: Content) -> dict[str, object]:
    """The members of an object that the table names, in the object's order; empty for what is no object."""
    kept: dict[str, object] = {}
    if isinstance(value, dict):
        for key, member in value.items():
            rule = table.get(key)
            if rule is not None:
                left = rule(member, content)
                if left is not GONE:
                    kept[key] = left
    return kept


def identity(value: object, _: Content) -> object:
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_ID:
        return GONE
    return value if value.isascii() else json_safe(value)


def word(value: object, _: Content) -> object:
    if not isinstance(value, str) or not value:
        return GONE
    return value if len(value) <= WORD_BYTES and value.isascii() else cut_text(str(json_safe(value)), WORD_BYTES)


def number(value: object, _: Content) -> object:
    found = number_of(value)
    return GONE if found is None else found


def byte_count(value: object, _: Content) -> object:
    """How many bytes there were of something that is not kept."""
    size = count_of(value)
    return GONE if size is None else size


def flag(value: object, _: Content) -> object:
    return value if isinstance(value, bool) else GONE


def amount(value: object, content: Content) -> object:
    """A number, or the word that stands for none (``inf``)."""
    return word(value, content) if isinstance(value, str) else number(value, content)


def text(value: object, content: Content) -> object:
    """What somebody wrote or spoke, a transcript, a prompt, an argument: content."""
    if content is Content.NONE or not isinstance(value, str):
        return GONE
    if not value.isascii() or len(value) > 128:
        cleaned = without_media(json_safe(value), pictures=content is Content.FULL)
        return cut_text(cleaned, ATTRIBUTE_BYTES) if isinstance(cleaned, str) else GONE
    return value


def counts(value: object, _: Content) -> object:
    """Numbers under any keys, such as a usage; its strings are null."""
    if not isinstance(value, dict):
        return GONE
    kept = numbers_within(value, 4)
    return kept if fit_json(kept, METADATA_BYTES)[1] <= METADATA_BYTES else GONE


def own(value: object, _: Content) -> object:
    """The app's own ids in metadata; they stay, as a trace's do."""
    if not isinstance(value, dict):
        return GONE
    kept = json_safe(value, 16)
    if fit_json(kept, METADATA_BYTES)[1] <= METADATA_BYTES:
        return kept
    # Too much of it must not cost the call its link, which is one short member of it.
    short = [(key, member) for key, member in value.items() if len(key) <= 64 and _is_short(member)]
    return json_safe(dict(short[:32]))


def _is_short(value: object) -> bool:
    return len(value) <= 128 if isinstance(value, str) else number_of(value) is not None


def inside(table: Table) -> Rule:
    """An object by a table of its own."""

    def rule(value: object, content: Content) -> object:
        return pick(value, table, content) if isinstance(value, dict) else GONE

    return rule


def each(rule: Rule) -> Rule:
    def several(value: object, content: Content) -> object:
        if not isinstance(value, list):
            return GONE
        kept = [rule(member, content) for member in value[:MOST_MEMBERS]]
        return [member for member in kept if member is not GONE]

    return several


words = each(word)


def or_null(rule: Rule) -> Rule:
    """Where null says something: no detection of turns, no conversation."""

    def nullable(value: object, content: Content) -> object:
        return None if value is None else rule(value, content)

    return nullable


def _part_type(value: object, content: Content) -> object:
    present = {"audio": "output_audio", "text": "output_text"}
    return present.get(value) or word(value, content) if isinstance(value, str) else GONE


def digested(value: object, _: Content) -> object:
    """A digest, as ``json_values.digest`` writes it."""
    return value if isinstance(value, str) and _DIGEST.fullmatch(value) else GONE


_PART: Table = {"type": _part_type, "text": text, "transcript": text}
PART = inside(_PART)

ERROR: Table = {
    "type": word,
    "code": amount,
    "param": word,
    "event_id": identity,
    "client_event_id": identity,
    "message": text,
}

_ITEM: Table = {
    "id": identity,
    "type": word,
    "status": word,
    "role": word,
    "name": word,
    "call_id": identity,
    "server_label": word,
    "approval_request_id": identity,
    "approve": flag,
    "answered": flag,
    "content": each(PART),
    "tools": each(inside({"name": word})),
    "error": inside({"type": word, "code": amount, "message": text}),
    "arguments": text,
    "output": text,
    "reason": text,
    ARGUMENTS_DIGEST: digested,
}


def item(value: object, content: Content) -> object:
    """A conversation item. The arguments of a call leave a digest, so that the call can be recognised, and an output
    leaves that there was one."""
    if not isinstance(value, dict):
        return GONE
    kept = pick(value, _ITEM, content)
    if value.get("output") is not None:
        kept["answered"] = True
    return with_digest(kept, value)


def with_digest(kept: dict[str, object], came: Mapping[str, object]) -> dict[str, object]:
    """``kept`` with the digest of the arguments that ``came`` had."""
    arguments = came.get("arguments")
    # An item that has only begun has "" for arguments: the digest of nothing would recognise any such call.
    if arguments not in (None, ""):
        kept[ARGUMENTS_DIGEST] = kept.get(ARGUMENTS_DIGEST) or digest(arguments)
    return kept


_FORMAT: Table = {"type": word, "rate": number}
_DETECTION: Table = {
    "type": word,
    "create_response": flag,
    "interrupt_response": flag,
    "prefix_padding_ms": number,
    "silence_duration_ms": number,
    "idle_timeout_ms": number,
    "threshold": number,
    "eagerness": word,
}
_AUDIO: Table = {
    "input": inside(
        {
            "format": inside(_FORMAT),
            "turn_detection": or_null(inside(_DETECTION)),
            "transcription": or_null(inside({"model": word, "language": word})),
        }
    ),
    "output": inside({"format": inside(_FORMAT), "voice": word, "speed": number}),
    "format": inside(_FORMAT),
}
_TOOLS = each(inside({"type": word, "name": word, "server_label": word}))
_SESSION: Table = {
    "id": identity,
    "type": word,
    "model": word,
    "expires_at": number,
    "output_modalities": words,
    "max_output_tokens": amount,
    "temperature": number,
    "audio": inside(_AUDIO),
    "instructions": text,
    "tools": _TOOLS,
    "tracing": inside({"workflow_name": word, "group_id": word, "metadata": own}),
    "prompt": inside({"id": identity, "version": word}),
    "reasoning": inside({"effort": word}),
    "agent": word,
    "idle_timeout_s": number,
    "delegation": inside(
        {"type": word, "responses": inside({"model": word, "tools": _TOOLS}), "decisions": inside({"model": word})}
    ),
}


def session(value: object, content: Content) -> object:
    """A session's configuration, in the form of today's API."""
    if not isinstance(value, dict):
        return GONE
    return pick(_present_session(value), _SESSION, content)


def _whose(value: object, _: Content) -> object:
    return value if value in ("auto", "none") else GONE


_RESPONSE: Table = {
    "id": identity,
    "status": word,
    "status_details": inside({"type": word, "reason": word, "error": inside(ERROR)}),
    "conversation_id": or_null(identity),
    "conversation": _whose,
    "model": word,
    "metadata": own,
    "output_modalities": words,
    "max_output_tokens": amount,
    "temperature": number,
    "audio": inside(_AUDIO),
    "usage": counts,
    "output": each(item),
    "instructions": text,
}


def response(value: object, content: Content) -> object:
    """A response as the server describes it, or as the client asked for it."""
    if not isinstance(value, dict):
        return GONE
    return pick(_present_response(value), _RESPONSE, content)


def _present_session(old: Mapping[str, object]) -> Mapping[str, object]:
    """A session of the beta API, its members where today's API has them."""
    moved = _present_response(old)
    if old.get("object") == "realtime.transcription_session" and "type" not in old:
        moved = {**moved, "type": TRANSCRIPTION}
    given = {
        key: moved[name]
        for name, key in (
            ("input_audio_format", "format"),
            ("turn_detection", "turn_detection"),
            ("input_audio_transcription", "transcription"),
        )
        if name in moved
    }
    if not given:
        return moved
    if isinstance(given.get("format"), str):
        given["format"] = {"type": given["format"]}
    return {**moved, "audio": _joined(moved.get("audio"), "input", given)}


def _present_response(old: Mapping[str, object]) -> Mapping[str, object]:
    renamed = {new: old[name] for name, new in _RENAMED if name in old and new not in old}
    made: dict[str, object] = {}
    if isinstance(old.get("voice"), str):
        made["voice"] = old["voice"]
    if isinstance(old.get("output_audio_format"), str):
        made["format"] = {"type": old["output_audio_format"]}
    if made:
        renamed["audio"] = _joined(old.get("audio"), "output", made)
    return {**old, **renamed} if renamed else old


_RENAMED = (("modalities", "output_modalities"), ("max_response_output_tokens", "max_output_tokens"))


def _joined(audio: object, side: str, more: Mapping[str, object]) -> dict[str, object]:
    groups: dict[str, object] = dict(audio) if isinstance(audio, dict) else {}
    present = groups.get(side)
    groups[side] = {**more, **present} if isinstance(present, dict) else dict(more)
    return groups


RESPONSE_EVENT = "response.event"
INNER = "response.event/"
"""Before the type of the event that a ``response.event`` of the Live API holds."""
_UNNAMED = "odd"


def unwrapped(event: Mapping[str, object]) -> Mapping[str, object]:
    """The event that a ``response.event`` holds, with the id and the delegation of the outer one; any other as it is.

    The Responses API numbers its events and gives them no ids, so nothing is covered by that.
    """
    if event.get("type") != RESPONSE_EVENT:
        return event
    inner = event.get("event")
    found: dict[str, object] = dict(inner) if isinstance(inner, dict) else {}
    kind = found.get("type")
    outer = {key: event[key] for key in ("event_id", "delegation_id") if event.get(key) is not None}
    return {**found, **outer, "type": INNER + (kind if isinstance(kind, str) and kind else _UNNAMED)}


def responses_item(value: object, content: Content) -> object:
    """An item of the Responses API. What a custom tool is called with has another name than a function's arguments."""
    if isinstance(value, dict) and value.get("type") == "custom_tool_call" and "input" in value:
        value = {**{key: member for key, member in value.items() if key != "input"}, "arguments": value["input"]}
    return item(value, content)


responses_response = inside(
    {
        "id": identity,
        "status": word,
        "model": word,
        "previous_response_id": identity,
        "metadata": own,
        "max_output_tokens": amount,
        "temperature": number,
        "usage": counts,
        "error": inside(ERROR),
        "incomplete_details": inside({"reason": word}),
    }
)
"""A response of the Responses API, as a Live session shows it."""
