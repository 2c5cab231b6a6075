"""How each framework shows the raw events of its Realtime sessions. None of them is imported: an object is known by
what it can do, so that an app carries only the framework that it uses.
"""

from __future__ import annotations

import functools
from typing import Any, Protocol


class Tap(Protocol):
    """What events are shown to."""

    def server(self, event: object) -> None: ...

    def client(self, event: object) -> None: ...


def attached(tap: Tap, to: Any) -> bool:
    """Let ``tap`` hear a session; False for what is none."""
    model = getattr(to, "model", None)
    if hasattr(model, "add_listener"):
        return attached(tap, model)
    if hasattr(to, "add_listener"):
        to.add_listener(tap)
        _hear_agents_client(tap, to)
        return True
    if hasattr(to, "realtime_model") and hasattr(to, "on"):
        to.on("openai_server_event_received", tap.server)
        to.on("openai_client_event_queued", tap.client)
        return True
    if hasattr(to, "capabilities") and callable(getattr(to, "session", None)):
        _hear_livekit_sessions(tap, to)
        return True
    return False


def _hear_agents_client(tap: Tap, model: Any) -> None:
    """openai-agents has no public place that shows what it sends: the socket that its model opens is listened to.

    A model that opens none, or a release that opens it elsewhere, leaves the server's events, which say the same a
    moment later: the server confirms every item, truncation and session change.
    """
    connect = getattr(model, "_create_websocket_connection", None)
    if connect is None or getattr(connect, "heard_by", None) is tap:
        return

    @functools.wraps(connect)
    async def connected(*args: Any, **options: Any) -> Any:
        socket = await connect(*args, **options)
        send = socket.send

        @functools.wraps(send)
        async def sending(message: Any, *args: Any, **options: Any) -> Any:
            tap.client(message)
            return await send(message, *args, **options)

        socket.send = sending
        return socket

    connected.heard_by = tap  # type: ignore[attr-defined]
    model._create_websocket_connection = connected


def _hear_livekit_sessions(tap: Tap, model: Any) -> None:
    """LiveKit makes a session for every agent that takes over, and its first events come before an app could ask."""
    make = model.session
    if getattr(make, "heard_by", None) is tap:
        return

    @functools.wraps(make)
    def session(*args: Any, **options: Any) -> Any:
        made = make(*args, **options)
        attached(tap, made)
        return made

    session.heard_by = tap  # type: ignore[attr-defined]
    model.session = session
