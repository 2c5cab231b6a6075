"""Calls drawn from scenes: the same seed is the same call."""

import random
from collections.abc import Callable

from tests.simulator.interruptions import Interruptions
from tests.simulator.world import Moment, Record, Setup


def scenes_for(setup: Setup) -> list[str]:
    """The names of the scenes that can happen in a call of this kind."""
    names = ["plain"] * 4 + ["tools"] * 3 + ["barge_in"] * 3 + ["text_only", "incomplete", "greeting", "failed"]
    names += ["tools_twice", "filler", "output_refused", "tool_without_output", "half_a_call", "mcp", "refused"]
    names += ["overtaken", "out_of_band", "history", "program_cut"]
    if setup.detector != "none":
        names += (
            ["never_stops", "back_channel", "mhm_then_barge_in"]
            if not setup.interrupt and not setup.create
            else ["never_stops"]
        )
        if setup.interrupt:
            names += ["false_end", "cut_call"]
        if setup.create:
            names.append("speech_in_tool")
        if setup.detector == "server_vad":
            names.append("stop_repeated")
            names += ["idle"] if setup.create and setup.announced == "whole" else []
            names += ["update"] if setup.announced == "whole" else []
        if "input_audio_buffer.committed" not in setup.left_out:
            names.append("stop_left_out")
        if not setup.mediated:
            names.append("late_truncate")
    return names


def play(seed: int, scenes: list[str] | None = None, setup: Setup | None = None) -> Record:
    """One call: a few scenes, perhaps a second session. The same seed is the same call."""
    rng = random.Random(seed)
    record = Record(seed, setup or Setup.drawn(rng))
    party = Interruptions(rng, record)
    party.open_session()
    names = scenes_for(record.setup)
    wanted = scenes if scenes is not None else [rng.choice(names) for _ in range(rng.randint(1, 5))]
    if scenes is None and rng.random() < 0.3:
        wanted.insert(0, "greeting")
    again = rng.randint(1, len(wanted)) if scenes is None and rng.random() < 0.1 else None
    for number, name in enumerate(wanted):
        if number == again:
            reconnect(party)
        record.kinds.append(name)
        scene: Callable[[], None] = getattr(party, name)
        scene()
    end_open_things(record)
    return record


def reconnect(party: Interruptions) -> None:
    """The socket is lost; the app opens another session under the same key and restores what was spoken."""
    party.now += party.rng.uniform(500, 5000)
    party.wire.session += 1
    party.heard = True
    party.open_session()
    party.history()


def end_open_things(record: Record) -> None:
    """A tool without an output is drawn no longer than until the next response begins, a speech without a stop than
    until the next one; nothing is drawn past the begin of another session."""
    for tool in record.tools:
        nexts = [r.created for r in record.responses if r.created is not None] + record.openings
        tool.until = _first_after(tool.whole[-1], nexts)
    for speech in record.speeches:
        if speech.started is not None and speech.next_start is None:
            speech.next_start = _first_after(speech.started, record.openings)


def _first_after(moment: Moment, nexts: list[Moment]) -> Moment | None:
    return min((m for m in nexts if m.time > moment.time), key=lambda m: m.time, default=None)
