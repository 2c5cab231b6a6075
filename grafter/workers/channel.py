"""The protocol between a worker and its parent, over a socket pair that nobody else can open.

The parent begins with a Start, then asks with a line ``ASK`` or ends with a line ``STOP``. The worker sends a Report, a
line of JSON, as the answer to each question, and by itself when it is ready or could not start. The end of the stream
is the end of whoever held the other side.
"""

import pickle
import socket
from dataclasses import asdict, dataclass, field
from typing import Any

import orjson

from grafter.components import Config
from grafter.health import Phase
from grafter.telemetry import BacklogHeld, DeadLettersHeld, Held, HeldFor

ASK = b"ask\n"
STOP = b"stop\n"

_LENGTH = 8


@dataclass(frozen=True, slots=True)
class Start:
    """What a worker needs to know."""

    number: int
    """Of the worker, from 0; the one that takes the place of a dead worker has the same."""
    metrics: str
    """The directory in which the workers count."""
    replica: bytes
    """By which the store knows it; that too is the same for the one that takes its place."""
    config: Config
    """Without a port left to choose."""

    def to_bytes(self) -> bytes:
        # Pickled, since printed configs leave the secrets out. Only this process's own child ever reads it.
        data = pickle.dumps((self.number, self.metrics, self.replica, self.config))
        return len(data).to_bytes(_LENGTH, "big") + data


def receive_start(channel: socket.socket) -> Start:
    """Wait for the Start. Raises EOFError when the parent went away before it was whole."""
    length = int.from_bytes(_receive(channel, _LENGTH), "big")
    return Start(*pickle.loads(_receive(channel, length)))


def _receive(channel: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        piece = channel.recv(length - len(data))
        if not piece:
            raise EOFError("the parent went away")
        data += piece
    return bytes(data)


@dataclass(frozen=True, slots=True)
class Report:
    """How a worker is now."""

    phase: Phase = Phase.STARTING
    takes_parts: bool = True
    """Whether the store takes parts from it."""
    errors: dict[str, str] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    """By receiver; empty until it is ready."""
    held: Held | None = None
    """What the store holds, for this worker and in all; None until it is ready."""
    error: str = ""
    """Why it could not start, for people."""

    def to_line(self) -> bytes:
        return orjson.dumps(asdict(self)) + b"\n"


def read_report(line: bytes) -> Report:
    """The report of a line."""
    fields: dict[str, Any] = orjson.loads(line)
    held = fields["held"]
    if held is not None:
        replicas = [HeldFor(**one) for one in held["replicas"]]
        letters = [DeadLettersHeld(**one) for one in held["letters"]]
        backlogs = [BacklogHeld(**one) for one in held["backlogs"]]
        held = Held(**{**held, "replicas": replicas, "letters": letters, "backlogs": backlogs})
    return Report(**{**fields, "phase": Phase(fields["phase"]), "held": held})
