"""What can happen in a call that nobody interrupts, one scene a method.

Each scene begins when all is quiet and ends so. Its name is the kind under which its figures are counted.
"""

from tests.simulator.parties import Parties
from tests.simulator.world import Event, Response, Speech


class Scenes(Parties):
    """The scenes of one call."""

    def utter(self, **kwargs: str) -> Speech:
        """The caller says something now."""
        return self.speak(self.now, self.rng.uniform(400, 2500), **kwargs)

    def close(self, response: Response, end: float, status: str = "completed", reason: str | None = None) -> None:
        self.model.finish(response, end + self.rng.uniform(1, 6), status, reason)
        self.settle(response)

    # Answers.

    def plain(self, kind: str = "plain answer", stop: str = "sent") -> None:
        response = self.answer(self.utter(stop=stop), kind)
        self.close(response, self.sound(response))

    def stop_repeated(self) -> None:
        self.plain("stop repeated", "repeated")

    def stop_left_out(self) -> None:
        self.plain("stop left out", "left_out")

    def never_stops(self) -> None:
        """A speech that the detector never ends, then another one, which is answered."""
        first = self.utter(stop="never", kind="speech without a stop")
        self.now = first.end + self.rng.uniform(1500, 6000)
        first.next_start = (second := self.utter()).started
        response = self.answer(second, "after a speech without a stop")
        self.close(response, self.sound(response))

    def text_only(self) -> None:
        response = self.answer(self.utter(), "text only")
        self.close(response, self.model.write(response, self.first_token(response)))

    def incomplete(self) -> None:
        response = self.answer(self.utter(), "incomplete answer")
        self.close(response, self.sound(response), "incomplete", "max_output_tokens")

    def greeting(self) -> None:
        """The app asks though nobody spoke: at the beginning, or after a while of silence."""
        self.now += self.rng.choice((0.0, self.rng.uniform(3000, 60000)))
        response = self.asked(self.ask(self.now), "asked by the app alone")
        response.answers_unsure = not self.heard
        self.close(response, self.sound(response))

    def idle(self) -> None:
        """Nobody speaks, the detector's timeout commits the silence, and OpenAI begins by itself."""
        at = self.now + self.rng.uniform(3000, 8000)
        item = self.wire.name("item_s")
        end = int(at - self.base)
        timeout = self.wire.server(
            at,
            "input_audio_buffer.timeout_triggered",
            item_id=item,
            audio_start_ms=max(0, end - 5000),
            audio_end_ms=end,
        )
        self.wire.server(at + 0.5, "input_audio_buffer.committed", item_id=item, previous_item_id=None)
        self.record.never.add(item)
        response = self.model.begin(at + self.rng.uniform(1, 25), "idle timeout")
        response.cause, response.word = timeout, "idle_timeout"
        response.answers_unsure = not self.heard
        self.close(response, self.sound(response))

    def failed(self) -> None:
        """The model fails before a token; the app asks again."""
        first = self.answer(self.utter(), "failed")
        assert first.created is not None
        reason = self.rng.choice(("server_error", "rate_limit_exceeded"))
        done = self.model.finish(first, first.created.time + self.rng.uniform(30, 900), "failed", reason)
        again = self.ask(self.wire.arrival(done.time) + self.rng.uniform(5, 3000))
        response = self.asked(again, "asked again after a failure")
        response.answers, response.answers_unsure = first.answers, True
        self.close(response, self.sound(response))

    # Tools.

    def tools(self) -> None:
        count = self.rng.choice((1, 1, 2, 3))
        self.tool_turn("several tools" if count > 1 else "tool", count)

    def tools_twice(self) -> None:
        self.tool_turn("tool after tool", 1, chain=2)

    def filler(self) -> None:
        self.tool_turn("spoken before the tool", 1, filler=True)

    def output_refused(self) -> None:
        self.tool_turn("output refused", 1, again=self.rng.uniform(100, 900))

    def tool_turn(
        self, kind: str, count: int, *, filler: bool = False, chain: int = 1, again: float | None = None
    ) -> None:
        response = self.answer(self.utter(), kind)
        for _ in range(chain):
            at, index = self.first_token(response), 0
            if filler:
                at = self.model.say(response, at, self.rng.uniform(500, 1200)) + self.rng.uniform(10, 150)
                index = 1
                self.mark_heard(response)
            for number in range(count):
                tool = self.model.call(response, at, index + number)
                tool.kind = kind
                at = tool.whole[-1].time + self.rng.uniform(5, 40)
            self.model.finish(response, at)
            over = self.quiet_at(response) if filler else 0.0
            response = self.follow(response, list(response.tools), kind, again=again)
        at = self.first_token(response)
        if filler:
            # The app's player goes on with the second answer when the first is over.
            assert response.created is not None
            at = max(at, over + self.rng.uniform(50, 300))
        self.close(response, self.model.say(response, at, self.rng.uniform(600, 4000)))

    def tool_without_output(self) -> None:
        """A transfer, a note: the app answers nothing, and the caller speaks on."""
        response = self.answer(self.utter(), "tool without output")
        at = self.first_token(response)
        tool = self.model.call(response, at)
        tool.kind = "tool without output"
        self.close(response, tool.whole[-1].time)

    def half_a_call(self) -> None:
        """The arguments run into the limit: the item stays incomplete, and nothing was asked for."""
        response = self.answer(self.utter(), "incomplete function call")
        at = self.first_token(response)
        item = self.begin_call(response, at)
        self.end_half(response, item, at + 30, "incomplete", "max_output_tokens")
        self.settle(response)

    def cut_call(self) -> None:
        """The caller speaks on while the arguments come: cancelled, and no tool was asked for."""
        first = self.answer(self.utter(), "function call cut")
        assert first.created is not None
        at = self.first_token(first, self.rng.uniform(100, 400))
        item = self.begin_call(first, at)
        second = self.speak(self.wire.arrival(at) + 10, self.rng.uniform(400, 2000))
        assert second.started is not None
        self.end_half(first, item, second.started.time + self.rng.uniform(0.5, 2), "cancelled", "turn_detected")
        response = self.answer(second, "after a cancelled answer")
        self.close(response, self.sound(response))

    def begin_call(self, response: Response, at: float) -> Event:
        """The first token of a function call."""
        item, call_id = self.wire.name("item_f"), self.wire.name("call")
        body = {"id": item, "type": "function_call", "name": "book", "call_id": call_id, "arguments": ""}
        where = {"response_id": response.id, "output_index": 0}
        self.wire.server(at - 1, "response.output_item.added", item={**body, "status": "in_progress"}, **where)
        delta = self.wire.server(
            at, "response.function_call_arguments.delta", item_id=item, call_id=call_id, delta="{", **where
        )
        response.first_delta = delta if delta.seen else None
        return body

    def end_half(self, response: Response, body: Event, at: float, status: str, reason: str) -> None:
        """``response.function_call_arguments.done`` is "also emitted when a Response is interrupted, incomplete, or
        cancelled"; that the item is incomplete says ``response.output_item.done``."""
        half, where = [], {"response_id": response.id, "output_index": 0}
        if self.rng.random() < 0.6:
            named = {"item_id": body["id"], "call_id": body["call_id"], "name": body["name"], "arguments": '{"da'}
            half.append(self.wire.server(at - 0.2, "response.function_call_arguments.done", **named, **where))
        body = {**body, "status": "incomplete", "arguments": '{"da'}
        half.append(self.wire.server(at, "response.output_item.done", item=body, **where))
        self.record.halves.append((body["call_id"], half))
        done = self.model.finish(response, at + 1, status, reason)
        done.event["response"]["output"] = [body]

    def speech_in_tool(self) -> None:
        """The caller speaks on while the tool runs, and is answered; the tool's output, and what the app asks after it,
        come later."""
        first = self.answer(self.utter(), "tool")
        tool = self.model.call(first, self.first_token(first))
        tool.kind = "tool that outlasts an answer"
        done = self.model.finish(first, tool.whole[-1].time + 5)
        self.now = self.wire.arrival(done.time) + self.rng.uniform(100, 1500)
        response = self.answer(self.utter(), "answered while a tool runs")
        end = self.sound(response)
        self.hand_back(tool, self.now + self.rng.uniform(50, 6000))
        assert tool.output is not None
        self.close(response, end)
        self.now = max(self.now, tool.output.time) + self.rng.uniform(5, 50)
        last = self.asked(self.ask(self.now), "after a tool that outlasted an answer")
        last.answers_unsure = True
        self.close(last, self.sound(last))

    def mcp(self) -> None:
        """A tool that OpenAI's server runs within the response."""
        response = self.answer(self.utter(), "mcp tool")
        response.mcp = True
        tool = self.model.call(response, self.first_token(response), mcp=True)
        tool.kind = "mcp tool"
        end = self.model.run_mcp(response, tool, tool.whole[-1].time + self.rng.uniform(1, 30), 0)
        self.close(response, self.model.say(response, end + self.rng.uniform(50, 600), self.rng.uniform(600, 3000), 1))

    # Requests that come to nothing.

    def refused(self) -> None:
        """The app asks though a response runs; the error names the request, or does not."""
        response = self.answer(self.utter(), "create refused")
        assert response.created is not None
        end = self.sound(response, latency=self.rng.uniform(250, 1200))
        ask = self.ask(response.created.time - self.setup.up + self.rng.uniform(5, 200))
        self.wire.refuse(ask, "conversation_already_has_active_response")
        self.close(response, end)

    def overtaken(self) -> None:
        """The app asks, and takes it back at once."""
        ask = self.ask(self.now)
        cancel = self.wire.client(self.now + self.rng.uniform(2, 30), "response.cancel")
        if self.rng.random() < 0.5:
            response = self.model.begin(ask.time + self.setup.up + 1, "create overtaken by a cancel")
            response.cause, response.word, response.answers_unsure = ask, "response.create", not self.heard
            self.model.finish(response, cancel.time + self.setup.up + 2, "cancelled", "client_cancelled")
            self.settle(response)
        else:
            self.wire.refuse(cancel, "response_cancel_not_active")
            self.now = self.wire.arrival(cancel.time + self.setup.up) + self.rng.uniform(500, 2500)
        self.plain("after a create that was taken back")

    def update(self) -> None:
        """``session.update``: accepted, with another silence, or refused and without effect."""
        setup, rng = self.setup, self.rng
        other = rng.choice([s for s in (200, 350, 500, 800, 1200) if s != setup.silence])
        detection = {"type": "server_vad", "silence_duration_ms": other}
        detection |= {"create_response": setup.create, "interrupt_response": setup.interrupt}
        session: Event = {"type": "realtime", "audio": {"input": {"turn_detection": detection}}}
        if setup.beta:
            session = {"turn_detection": detection}
        request = self.wire.client(self.now, "session.update", session=session)
        if rng.random() < 0.5:
            setup.silence = other
            self.wire.server(request.time + setup.up + 2, "session.updated", session=self.session_object())
        else:
            self.wire.refuse(request, "invalid_value", "session.audio.input.turn_detection")
        self.now = self.wire.arrival(request.time + setup.up + 8) + rng.uniform(50, 500)
        self.plain("after a session.update")

    def out_of_band(self) -> None:
        """A second response beside the conversation, while the first runs."""
        response = self.answer(self.utter(), "plain answer")
        assert response.created is not None
        metadata = {"topic": self.wire.name("topic")}
        after = self.wire.arrival(response.created.time) + self.rng.uniform(1, 100)
        ask = self.ask(after, conversation="none", metadata=metadata, output_modalities=["text"])
        beside = self.asked(ask, "out of band", beside=True, metadata=metadata)
        beside.out_of_band = True
        end = self.model.write(beside, self.first_token(beside))
        done = self.model.finish(beside, end)
        done.event["response"] |= {"conversation_id": None, "metadata": metadata}
        self.now = self.wire.arrival(done.time)
        self.close(response, self.sound(response))

    def history(self) -> None:
        """The app creates items of its own: an older conversation, or examples; none of them ran here."""
        call_id, at = self.wire.name("call_h"), self.now
        items: list[Event] = [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "words"}]},
            {"type": "function_call", "call_id": call_id, "name": "find", "arguments": "{}"},
            {"type": "function_call_output", "call_id": call_id, "output": "ok"},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "words"}]},
            {"type": "mcp_call", "name": "find", "server_label": "crm", "arguments": "{}", "output": "ok"},
        ]
        self.record.never.add(call_id)
        for item in items[: self.rng.randint(2, 5)]:
            item["id"] = self.wire.name("item_h")
            self.record.never.add(item["id"])
            self.wire.client(at, "conversation.item.create", item=item)
            self.wire.item_added(at + self.setup.up + 1, item)
            at += self.rng.uniform(0, 10)
        self.now = self.wire.arrival(at + self.setup.up) + self.rng.uniform(20, 3000)
