"""What the caller has heard, by Twilio's own word: marks in a Media Stream.

Twilio plays what it is sent later than it is sent, and drops what waits when it is told to. Behind each piece of audio
goes a mark; Twilio sends it back once that piece has been played:

    playout = TwilioPlayout(tap)          # tap: the call's RealtimeTap

    playout.received(message)             # every message of Twilio's
    if mark := playout.mark(event):       # after the audio of each response.output_audio.delta has been sent
        await twilio.send_text(mark)
    await twilio.send_text(playout.clear())   # when the caller interrupts

grafter then says of an interruption how much of the answer had been played. A mark that comes back because the rest was
dropped says nothing, and is told to nobody.

Source: Twilio Media Streams, "WebSocket messages": ``start``, ``mark`` and ``clear``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from grafter_propagation.realtime_events import seen

if TYPE_CHECKING:
    from grafter_propagation.realtime import RealtimeTap

logger = logging.getLogger("grafter_propagation")

PLAYED: Final = "grafter.audio.played"
_NAME: Final = "grafter"
_MOST_ITEMS: Final = 64


class TwilioPlayout:
    """One Media Stream. No method raises into the app; each takes a message as text or as a mapping."""

    def __init__(self, tap: RealtimeTap) -> None:
        self.stream = ""
        """Its ``streamSid``, once Twilio's ``start`` has come."""
        self._tap = tap
        self._turn = 0
        self._sent: dict[str, int] = {}

    def mark(self, event: object) -> str | None:
        """The message that follows the audio of an event of OpenAI's; None for an event without audio, and before
        Twilio's ``start``."""
        try:
            one = seen(event, "server", 0)
            if one is None or not one.audio_of or not isinstance(one.event, Mapping) or not self.stream:
                return None
            size = one.event.get("delta_bytes")
            if not isinstance(size, int) or not size:
                return None
            item = one.audio_of
            self._sent[item] = self._sent.get(item, 0) + size
            if len(self._sent) > _MOST_ITEMS:
                del self._sent[next(iter(self._sent))]
            name = f"{_NAME}:{self._turn}:{self._sent[item]}:{item}"
            return json.dumps({"event": "mark", "streamSid": self.stream, "mark": {"name": name}})
        except Exception:  # the app's call goes on without its figures
            logger.warning("a mark could not be made", exc_info=True)
            return None

    def clear(self) -> str:
        """The message that drops what Twilio has not played yet. What it sends back for that is no word on what was
        heard."""
        self._turn += 1
        return json.dumps({"event": "clear", "streamSid": self.stream})

    def received(self, message: str | bytes | Mapping[str, Any]) -> bool:
        """Whether it was a mark of these, which the app need not look at."""
        try:
            read = message if isinstance(message, Mapping) else _read(message)
            event = read.get("event")
            if event == "start":
                self.stream = str(read.get("streamSid") or read["start"]["streamSid"])
            if event != "mark":
                return False
            own, _, rest = str(read["mark"]["name"]).partition(":")
            if own != _NAME:
                return False
            turn, size, item = rest.split(":", 2)
            if int(turn) == self._turn:
                self._tap.client({"type": PLAYED, "item_id": item, "played_bytes": int(size)})
            return True
        except Exception:  # noqa: BLE001  # a peer may send anything
            return False


def _read(message: str | bytes) -> Mapping[str, Any]:
    """Few of Twilio's messages are worth a decoder: nearly all are the caller's audio."""
    text = message if isinstance(message, str) else bytes(message).decode("utf-8", "replace")
    if '"media"' in text[:200]:
        return {}
    read = json.loads(text)
    return read if isinstance(read, dict) else {}
