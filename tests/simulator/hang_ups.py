"""Calls in which the caller hangs up: one seed is one call, its truth, and what grafter made of it.

The same world as in other calls, cut where the caller hangs up: what would have been sent later never was. Read by a
tap that posts all of it, or leaves out sound or words, or by grafter's own recorder, which may come late, lose its
connection, have the store refuse what it heard, or die with its process; or by both. Of these calls only what the
caller waited in vain is judged; the other figures are judged in calls that are played to their end.
"""

import random
from dataclasses import dataclass

from tests.simulator.calls import scenes_for
from tests.simulator.endings import Endings, endings_for
from tests.simulator.judge import Verdict, judge
from tests.simulator.machine import parts_of, spans_of, spans_of_parts
from tests.simulator.observer import Posts, View, observe
from tests.simulator.recorders import Life, record_call
from tests.simulator.truth import Facts, Truth
from tests.simulator.unanswered_rules import NAME, unanswered
from tests.simulator.world import Record, Setup


@dataclass(slots=True)
class HungUp:
    """One call, who watched it, and what is true of it."""

    record: Record
    view: View
    life: Life | None
    """Of the recorder, where one listened."""
    posts: Posts
    parts: list[bytes]
    """What a recorder had stored."""
    truth: Truth

    @property
    def read_by(self) -> str:
        if self.life is None:
            return "a tap"
        return "both" if self.posts.body else "a recorder"

    def judged(self) -> list[Verdict]:
        spans = spans_of_parts(self.posts.key, self.parts) if self.life else spans_of(self.posts)
        return [verdict for verdict in judge(self.truth, spans) if verdict.what.startswith(NAME)]


def play_hang_up(seed: int, ending: str | None = None) -> Record:
    """Some scenes, then the caller hangs up in the middle of another."""
    rng = random.Random(seed)
    record = Record(seed, Setup.drawn(rng))
    party = Endings(rng, record)
    party.open_session()
    names = scenes_for(record.setup)
    for name in (rng.choice(names) for _ in range(rng.choice((0, 0, 1, 1, 2)))):
        record.kinds.append(name)
        getattr(party, name)()
    found = dict(endings_for(party))
    name, act = rng.choice(endings_for(party)) if ending is None else (ending, found[ending])
    record.kinds.append(name)
    cut_off(record, act())
    return record


def cut_off(record: Record, at: float) -> None:
    """The caller hangs up: nothing is sent any more."""
    record.hung_up = at
    for moment in record.moments:
        moment.seen = False
    for response in record.responses:
        for moment in response.moments:
            moment.seen = False
    record.moments = [moment for moment in record.moments if moment.time <= at]
    record.responses = [r for r in record.responses if r.created is None or r.created.time <= at]
    record.tools = [tool for tool in record.tools if tool.whole[0].time <= at]
    record.speeches = [speech for speech in record.speeches if speech.start < at]


def view_of(rng: random.Random) -> View:
    """A tap: most post everything, some leave out what is large or what is content."""
    view = View.drawn(rng)
    view.both, view.hung_up = True, None
    view.ended = rng.choice(("then",) * 7 + ("later", "later", "never"))
    view.sound, view.words = rng.choice(((True, True),) * 8 + ((False, True), (False, False), (True, False)))
    view.drains = rng.random() < 0.7
    return view


def beside(record: Record, recorded: Posts, parts: list[bytes], rng: random.Random) -> tuple[View, Posts, list[bytes]]:
    """The app posts what it sees of a call that is recorded, too, and when it ended."""
    view = view_of(rng)
    view.tick, view.ended = 0.001, "never"
    heard = {id(moment) for moment in recorded.seen}
    posts = observe(record, view)
    for moment in record.moments:
        moment.seen = moment.seen or id(moment) in heard
    posts.seen = sorted((m for m in record.moments if m.seen), key=lambda m: (m.at, m.time, m.order))
    assert record.hung_up is not None
    posts.over = record.hung_up, max(record.hung_up, posts.seen[-1].at)
    posts.gaps = recorded.gaps
    return view, posts, parts_of(posts) + parts


def hung_up(seed: int, ending: str | None = None) -> HungUp:
    """The call of this seed."""
    rng = random.Random(seed ^ 0x4A46)
    record = play_hang_up(seed, ending)
    if rng.random() < 0.4 and len(record.openings) == 1:
        life = Life.drawn(rng, record)
        view = View(both=False, tick=0.001, ended="never")
        tapped = rng.random() < 0.25
        if tapped:
            life.ending, life.posted = "posted", True
        posts, parts = record_call(record, view, life)
        if tapped:
            view, posts, parts = beside(record, posts, parts, rng)
    else:
        life, view, parts = None, view_of(rng), []
        posts = observe(record, view)
    truth = Truth(seed, ending=record.kinds[-1])
    unanswered(truth, Facts(record, view, posts))
    return HungUp(record, view, life, posts, parts, truth)
