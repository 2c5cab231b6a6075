"""Sound, pictures and text inside JSON: found, and replaced by their kind and size, or by nothing.

Audio is never kept. Pictures and files are kept only where everything is. They hide in many forms: a data URL as a
value or in the middle of a text, base64 under a key of an object that says what it is, and such an object printed
into a string (a tool's result).
"""

import re
from collections.abc import Mapping

import orjson

from grafter.core.policy import Content
from grafter.guests.json_values import MAX_DEPTH, count_of, structure, text_of

_DATA_URL = re.compile(
    r"data:([a-zA-Z]{1,20}/[\w.+-]{1,100})((?:;[\w=.+-]{1,100}){0,8});base64,([A-Za-z0-9+/_-]*={0,2})"
)
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]+={0,2}")
_LONG_RUN = re.compile(r"[A-Za-z0-9+/_-]{1024,}={0,2}")

_AUDIO_KEYS = frozenset({"audio", "input_audio", "output_audio"})
_AUDIO_FORMATS = frozenset(
    {"aac", "flac", "g711_alaw", "g711_ulaw", "m4a", "mp3", "ogg", "opus", "pcm", "pcm16", "wav", "webm"}
)
_PICTURE_TYPES = frozenset(
    {
        "base64",
        "blob",
        "computer_screenshot",
        "document",
        "file",
        "image",
        "image_generation_call",
        "input_file",
        "input_image",
        "resource",
        "video",
    }
)
_TYPE_KEYS = ("type", "mime_type", "mimeType", "media_type", "mediaType", "format")
_BLOB_KEYS = frozenset({"audio", "b64_json", "blob", "bytes", "data", "file_data", "partial_image_b64", "result"})
_ALWAYS_BLOBS = frozenset({"b64_json", "file_data", "partial_image_b64"})
# Below this a string under such a key is a word ("audio": "on"), not sound.
_SHORTEST_BLOB = 32


def audio_summary(value: object) -> dict[str, object]:
    """What stays of the audio of a speech or transcription span: its format and its bytes, base64 undone."""
    if isinstance(value, str):
        return {"bytes": decoded_size(value)}
    summary: dict[str, object] = {}
    if isinstance(value, dict):
        kind = text_of(value.get("format"))
        data = value.get("data")
        size = decoded_size(data) if isinstance(data, str) else count_of(value.get("bytes"))
        if kind is not None and len(kind) <= _SHORTEST_BLOB:
            summary["format"] = kind
        if size is not None:
            summary["bytes"] = size
    return summary


def decoded_size(base64: str) -> int:
    """Bytes that a base64 text stands for, without undoing it."""
    return len(base64.strip().rstrip("=")) * 3 // 4


def without_media(value: object, *, pictures: bool, hint: str = "", depth: int = MAX_DEPTH) -> object:
    """A copy of a JSON value without audio, and without pictures and files unless ``pictures`` says to keep them.

    ``hint`` is the key that the value stands under. What is replaced leaves ``bytes`` (and a data URL its ``type``);
    what lies deeper than ``depth`` becomes null.
    """
    if isinstance(value, str):
        return _text(value, pictures, hint, depth)
    if not isinstance(value, dict | list):
        return value
    if depth <= 0:
        return None
    if isinstance(value, list):
        return [without_media(member, pictures=pictures, hint=hint, depth=depth - 1) for member in value]
    kept: dict[str, object] = {}
    media = _is_audio(value, hint) or (not pictures and _is_picture(value))
    for key, member in value.items():
        blob = (media and key in _BLOB_KEYS) or (not pictures and key in _ALWAYS_BLOBS)
        if blob and isinstance(member, str) and _is_base64(member):
            kept["bytes"] = decoded_size(member)
        else:
            kept[key] = without_media(member, pictures=pictures, hint=key, depth=depth - 1)
    return kept


def allowed(value: object, content: Content) -> object:
    """What of a value without a known form may be stored under this policy."""
    if content is Content.NONE:
        return without_text(value)
    return without_media(value, pictures=content is Content.FULL)


def without_text(value: object, depth: int = MAX_DEPTH) -> object:
    """A copy whose strings are null: what numbers and booleans there are, under which keys."""
    if isinstance(value, str):
        return None
    if not isinstance(value, dict | list):
        return value
    if depth <= 0:
        return None
    if isinstance(value, list):
        return [without_text(member, depth - 1) for member in value]
    return {key: without_text(member, depth - 1) for key, member in value.items()}


def _text(text: str, pictures: bool, hint: str, depth: int) -> object:
    if hint in _AUDIO_KEYS and _is_base64(text):
        return {"bytes": decoded_size(text)}
    if "base64," in text:
        whole = _DATA_URL.fullmatch(text.strip())
        if whole is not None:
            kind = whole[1].lower()
            return text if pictures and not _heard(kind) else {"type": kind, "bytes": decoded_size(whole[3])}
        text = _DATA_URL.sub(lambda found: _mention(found, pictures), text)
    if len(text) > 4 * _SHORTEST_BLOB and ("audio" in text or (not pictures and "data" in text)):
        return _printed(text, pictures, depth)
    return text


def _printed(text: str, pictures: bool, depth: int) -> str:
    """A string that may be a printed object with a blob in it."""
    value = structure(text)
    if not isinstance(value, str):
        kept = without_media(value, pictures=pictures, depth=depth)
        return text if kept == value else orjson.dumps(kept).decode()
    # Too long to be read, or cut in the middle: what can be nothing but base64 goes all the same.
    return _LONG_RUN.sub(lambda run: f"[{decoded_size(run[0])} bytes]", text)


def _mention(found: re.Match[str], pictures: bool) -> str:
    kind = found[1].lower()
    return found[0] if pictures and not _heard(kind) else f"[{kind}, {decoded_size(found[3])} bytes]"


def _is_audio(value: Mapping[str, object], hint: str) -> bool:
    if hint in _AUDIO_KEYS:
        return True
    for key in _TYPE_KEYS:
        kind = value.get(key)
        if isinstance(kind, str) and (kind in _AUDIO_KEYS or kind.lower() in _AUDIO_FORMATS or _heard(kind.lower())):
            return True
    return False


def _is_picture(value: Mapping[str, object]) -> bool:
    for key in _TYPE_KEYS:
        kind = value.get(key)
        if isinstance(kind, str) and (kind in _PICTURE_TYPES or "/" in kind):
            return True
    return False


def _heard(kind: str) -> bool:
    return kind.startswith("audio/")


def _is_base64(text: str) -> bool:
    stripped = text.strip()
    return (
        len(stripped) >= _SHORTEST_BLOB and _BASE64.fullmatch(stripped.replace("\n", "").replace("\r", "")) is not None
    )
