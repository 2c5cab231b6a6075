"""Both ends of the socket: events as OpenAI documents them, and how a response of the model comes out in them.

The order within a response is the documented one: ``response.created``, ``rate_limits.updated`` ("at the beginning of a
Response"), for each item ``response.output_item.added`` and ``conversation.item.added``, its parts and deltas, the
``done`` of each, then ``response.done`` ("always emitted, no matter the final state"). With media beside the socket
``output_audio_buffer.started`` follows ``response.content_part.added``, ``stopped`` follows ``response.done``.
"""

import random
from typing import Any

from tests.simulator.world import ECHOED, Event, Moment, Record, Response, Setup, Side, Tool

BETA = {
    "response.output_audio.delta": "response.audio.delta",
    "response.output_audio.done": "response.audio.done",
    "response.output_audio_transcript.delta": "response.audio_transcript.delta",
    "response.output_audio_transcript.done": "response.audio_transcript.done",
    "response.output_text.delta": "response.text.delta",
    "response.output_text.done": "response.text.done",
    "conversation.item.added": "conversation.item.created",
}
"""What the beta API calls the same events; it has no ``conversation.item.done``."""


class Wire:
    """The socket of one session after another, and the names on it."""

    def __init__(self, rng: random.Random, record: Record) -> None:
        self.rng = rng
        self.record = record
        self.setup: Setup = record.setup
        self.session = 1
        self._order = 0
        self._names: dict[str, int] = {}
        self._numbers: dict[int, int] = {}

    def name(self, prefix: str) -> str:
        """An id that this call does not have yet."""
        number = self._names[prefix] = self._names.get(prefix, 0) + 1
        return f"{prefix}_{number}"

    def server(self, time: float, type_: str, **fields: Any) -> Moment:
        """An event that the server sends at ``time``; it takes until ``arrival(time)``, at most, to the observer."""
        if self.setup.echoes and type_ in ECHOED:
            self._send(time + self.rng.uniform(30, 300), "server", self._numbered(type_, fields))
        return self._send(time, "server", self._numbered(type_, fields))

    def _numbered(self, type_: str, fields: dict[str, Any]) -> Event:
        return {"type": type_, "event_id": self.name("event"), **fields}

    def client(self, time: float, type_: str, **fields: Any) -> Moment:
        """An event that the app sends, and the observer sees, at ``time``."""
        event: Event = {"type": type_, **fields}
        if self.setup.client_ids:
            self._numbers[self.session] = number = self._numbers.get(self.session, 0) + 1
            event["event_id"] = f"client_{number}"
        return self._send(time, "client", event)

    def refuse(self, asked: Moment, code: str, param: str | None = None) -> Moment:
        """The error that a request gets: it names the request's ``event_id`` "if applicable"."""
        error = {
            "type": "invalid_request_error",
            "code": code,
            "message": "refused",
            "param": param,
            "event_id": asked.event.get("event_id"),
        }
        return self.server(asked.time + self.setup.up + self.rng.uniform(0, 4), "error", error=error)

    def arrival(self, time: float) -> float:
        """When the app has certainly got what the server sent at ``time``."""
        return time + self.setup.down + self.setup.jitter

    def _send(self, time: float, side: Side, event: Event) -> Moment:
        type_ = event["type"]
        moment = Moment(time, self._order, side, event)
        self._order += 1
        if side == "server":
            if type_ in self.setup.left_out or (self.setup.beta and type_ == "conversation.item.done"):
                return moment
            if self.setup.beta:
                event["type"] = BETA.get(type_, type_)
        self.record.moments.append(moment)
        moment.seen = True
        return moment

    def item_added(self, time: float, item: Event) -> Moment:
        """The server's word that an item is in the conversation, and whole."""
        added = self.server(time, "conversation.item.added", item=item, previous_item_id=None)
        whole = self.server(time + 0.2, "conversation.item.done", item=item, previous_item_id=None)
        return added if added.seen else whole


class Answering:
    """OpenAI's model: makes responses, each a stream of events that may be cut."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.rng = wire.rng
        self.setup = wire.setup

    @property
    def conversation(self) -> str:
        """The session's default conversation."""
        return f"conv_{self.wire.session}"

    def begin(self, time: float, kind: str, *, beside: bool = False, **extra: Any) -> Response:
        """``response.created``, sent at ``time``; ``beside``: out of band, it writes to no conversation."""
        response = Response(self.wire.name("resp"), self.wire.session, kind)
        body: Event = {"id": response.id, "object": "realtime.response", "status": "in_progress", "usage": None}
        body |= {"status_details": None, "output": [], "metadata": extra.get("metadata")}
        body["conversation_id"] = None if beside else self.conversation
        response.created = self.wire.server(time, "response.created", response=body)
        limits = [{"name": "requests", "limit": 1000, "remaining": 999, "reset_seconds": 60.0}]
        self.wire.server(time + 0.3, "rate_limits.updated", rate_limits=limits)
        self.wire.record.responses.append(response)
        return response

    def say(self, response: Response, time: float, audio_ms: float, index: int = 0) -> float:
        """A spoken message whose first token comes at ``time``; gives when its item is whole.

        Audio comes faster than it is played: three to eight times.
        """
        item = response.item = self.wire.name("item_a")
        self._open(response, time - self.rng.uniform(0, 8), item, index, "audio")
        put = response.moments.append
        at, parts = time, self.rng.randint(2, 5)
        where = {"response_id": response.id, "item_id": item, "output_index": index, "content_index": 0}
        word = self.wire.server(at, "response.output_audio_transcript.delta", delta="word", **where)
        put(word)
        if word.seen and response.first_delta is None:
            response.first_delta = word
        at += self.rng.uniform(0, 30)
        left, pace = int(audio_ms * self.setup.bytes_per_ms), self.rng.uniform(3, 8)
        started_at = at
        for part in range(parts):
            size = left if part == parts - 1 else int(audio_ms * self.setup.bytes_per_ms / parts)
            left -= size
            if self.setup.deltas:
                delta = self.wire.server(at, "response.output_audio.delta", delta_bytes=size, **where)
                put(delta)
                response.first_audio = response.first_audio or delta
                response.first_delta = response.first_delta or delta
            at += size / self.setup.bytes_per_ms / pace
        response.audio_ms = audio_ms
        if self.setup.mediated:
            started_at += self.rng.uniform(5, 60)
            response.started = self.wire.server(started_at, "output_audio_buffer.started", response_id=response.id)
            put(response.started)
            response.sounding = started_at
        else:
            response.sounding = self.wire.arrival(started_at) + self.setup.buffer
        response.silent_at = response.sounding + audio_ms
        put(self.wire.server(at, "response.output_audio.done", **where))
        put(self.wire.server(at + 0.1, "response.output_audio_transcript.done", transcript="words", **where))
        self._close(response, at + 0.3, item, index, {"type": "output_audio", "transcript": "words"})
        return at + 0.5

    def write(self, response: Response, time: float, index: int = 0) -> float:
        """A message of text alone."""
        item = self.wire.name("item_t")
        self._open(response, time - self.rng.uniform(0, 8), item, index, "text")
        where = {"response_id": response.id, "item_id": item, "output_index": index, "content_index": 0}
        for part in range(self.rng.randint(1, 3)):
            delta = self.wire.server(time + part * 20, "response.output_text.delta", delta="word", **where)
            response.first_delta = response.first_delta or delta
            response.moments.append(delta)
        response.moments.append(self.wire.server(time + 70, "response.output_text.done", text="words", **where))
        self._close(response, time + 71, item, index, {"type": "output_text", "text": "words"})
        return time + 72

    def call(self, response: Response, time: float, index: int = 0, *, mcp: bool = False) -> Tool:
        """A function call, or a call of a server's own MCP tool, whose first token comes at ``time``."""
        word = "mcp_call" if mcp else "function_call"
        tool = Tool(
            self.wire.name("call"), self.rng.choice(("find", "book", "transfer")), self.wire.name("item_f"), mcp
        )
        item: Event = {"id": tool.item, "type": word, "name": tool.name, "arguments": ""}
        item |= {"server_label": "crm"} if mcp else {"call_id": tool.call_id, "status": "in_progress"}
        where = {"response_id": response.id, "item_id": tool.item, "output_index": index}
        put = response.moments.append
        put(
            self.wire.server(
                time - 0.5, "response.output_item.added", response_id=response.id, output_index=index, item=item
            )
        )
        put(self.wire.server(time - 0.4, "conversation.item.added", item=item, previous_item_id=None))
        at, named = time, {} if mcp else {"call_id": tool.call_id}
        for _ in range(self.rng.randint(1, 4)):
            delta = self.wire.server(at, f"response.{word}_arguments.delta", delta="{", **named, **where)
            put(delta)
            if delta.seen and response.first_delta is None:
                response.first_delta = delta
            at += self.rng.uniform(1, 30)
        if not mcp:
            named["name"] = tool.name
        whole = self.wire.server(at, f"response.{word}_arguments.done", arguments="{}", **named, **where)
        put(whole)
        tool.whole.append(whole)
        response.tools.append(tool)
        self.wire.record.tools.append(tool)
        if not mcp:
            self._item_whole(response, tool, at + self.rng.uniform(0.1, 1.5), item, index)
        return tool

    def run_mcp(self, response: Response, tool: Tool, time: float, index: int) -> float:
        """The server runs the tool itself; gives when its item is whole."""
        where = {"item_id": tool.item, "output_index": index}
        tool.running = self.wire.server(time, "response.mcp_call.in_progress", **where)
        response.moments.append(tool.running)
        time += self.rng.uniform(30, 2500)
        tool.output = self.wire.server(time, "response.mcp_call.completed", **where)
        response.moments.append(tool.output)
        item = {"id": tool.item, "type": "mcp_call", "name": tool.name, "server_label": "crm", "output": "ok"}
        self._item_whole(response, tool, time + 0.5, item, index)
        return time + 1

    def _item_whole(self, response: Response, tool: Tool, time: float, item: Event, index: int) -> None:
        item = {**item, "arguments": "{}"} | ({} if tool.mcp else {"status": "completed"})
        done = self.wire.server(
            time, "response.output_item.done", response_id=response.id, output_index=index, item=item
        )
        response.moments.append(done)
        if not tool.mcp:
            tool.whole.append(done)
        response.moments.append(
            self.wire.server(time + 0.1, "conversation.item.done", item=item, previous_item_id=None)
        )

    def finish(self, response: Response, time: float, status: str = "completed", reason: str | None = None) -> Moment:
        """``response.done``. A response that failed or stayed incomplete says why."""
        details: Event | None = None if status == "completed" else {"type": status, "reason": reason}
        if status == "failed":
            details = {"type": "failed", "error": {"type": reason, "code": None}}
        output: list[Event] = []
        if response.item:
            content = [{"type": "output_audio", "transcript": "words"}]
            ended = "completed" if status == "completed" else "incomplete"
            output.append(_message(response.item, ended, content))
        for tool in response.tools:
            one: Event = {"id": tool.item, "type": "function_call", "name": tool.name, "arguments": "{}"}
            one |= {"status": "completed", "call_id": tool.call_id}
            if tool.mcp:
                one = {"id": tool.item, "type": "mcp_call", "name": tool.name, "arguments": "{}", "server_label": "crm"}
            output.append(one)
        usage = {"total_tokens": 30, "input_tokens": 10, "output_tokens": 20}
        body: Event = {"id": response.id, "object": "realtime.response", "status": status, "status_details": details}
        body |= {"output": output, "usage": usage, "conversation_id": self.conversation}
        response.done = self.wire.server(time, "response.done", response=body)
        response.moments.append(response.done)
        if response.started is not None and response.ended is None:
            end = max(response.silent_at, time + 1)
            response.ended = self.wire.server(end, "output_audio_buffer.stopped", response_id=response.id)
            response.moments.append(response.ended)
        return response.done

    def cut(self, response: Response, time: float, reason: str) -> None:
        """End a response that still runs: what it would have sent after ``time`` is never sent.

        ``response.output_audio.done``, ``response.output_item.done`` and ``response.done`` are "also emitted when a
        Response is interrupted, incomplete, or cancelled".
        """
        self.drop(response, time)
        if response.item:
            where = {"response_id": response.id, "item_id": response.item, "output_index": 0, "content_index": 0}
            self.wire.server(time + 0.2, "response.output_audio.done", **where)
            item = _message(response.item, "incomplete", [{"type": "output_audio", "transcript": "words"}])
            self.wire.server(
                time + 0.4, "response.output_item.done", response_id=response.id, output_index=0, item=item
            )
        self.finish(response, time + 0.6, "cancelled", reason)

    def drop(self, response: Response, time: float) -> None:
        """Take back what would have been sent after ``time``; with ``sounding`` later than that, nothing was heard."""
        gone = {id(m) for m in response.moments if m.time > time}
        self.wire.record.moments = [m for m in self.wire.record.moments if id(m) not in gone]
        for name in ("first_delta", "first_audio", "started", "ended", "done"):
            if (moment := getattr(response, name)) is not None and id(moment) in gone:
                setattr(response, name, None)
        for moment in response.moments:
            moment.seen = moment.seen and id(moment) not in gone
        response.moments = [m for m in response.moments if id(m) not in gone]
        for tool in list(response.tools):
            if any(id(m) in gone for m in tool.whole):
                response.tools.remove(tool)
                self.wire.record.tools.remove(tool)
                self.wire.record.never |= {tool.call_id, tool.item}

    def _open(self, response: Response, time: float, item: str, index: int, part: str) -> None:
        of: Event = {"response_id": response.id, "output_index": index}
        body, send = _message(item, "in_progress", []), self.wire.server
        response.moments.append(send(time, "response.output_item.added", item=body, **of))
        if not response.out_of_band:  # What is out of band is in no conversation.
            response.moments.append(send(time + 0.1, "conversation.item.added", item=body, previous_item_id=None))
        of |= {"item_id": item, "content_index": 0}
        response.moments.append(send(time + 0.2, "response.content_part.added", part={"type": part}, **of))

    def _close(self, response: Response, time: float, item: str, index: int, content: Event) -> None:
        of: Event = {"response_id": response.id, "output_index": index}
        body, send = _message(item, "completed", [content]), self.wire.server
        part = {"type": "audio" if content["type"] == "output_audio" else "text"}
        inside = {"item_id": item, "content_index": 0}
        response.moments.append(send(time, "response.content_part.done", part=part, **of, **inside))
        response.moments.append(send(time + 0.1, "response.output_item.done", item=body, **of))
        if not response.out_of_band:
            response.moments.append(send(time + 0.2, "conversation.item.done", item=body, previous_item_id=None))


def _message(item: str, status: str, content: list[Event]) -> Event:
    return {"id": item, "type": "message", "role": "assistant", "status": status, "content": content}
