"""The store's contract, in prose and types. Embedded and Redis keep the same promises.

A store holds *parts* under *keys* until the trace of that key is settled, and then a small *memory* of it.

Under which key a part is placed
    A host part is placed under its trace id. A guest part comes with the guest's own key; it is placed

    * under the host's key, when the guest's link is known (from this part or an earlier one of the guest, held or
      remembered) and the store was not opened with ``guests_apart``, and the host has not been released yet
      (a host of which nothing is known has not been released) or still holds parts of the guest, which came while
      it was being released: what is left of a guest stays together;
    * under the guest's key otherwise.

    When a part brings the link of a guest whose earlier parts are held under the guest's key, those are moved to the
    host's key in the same append (under the same condition). A link once known for a guest never changes.

What append promises
    When ``append`` returns, every part is stored: a process that dies at any later moment has not lost it. Parts of
    one call are stored together or not at all, as far as the caller can see: an error means that the caller must
    send again. A repeat does no harm: equal parts are told apart by the reader. Concurrent calls share one commit.

Due times and claims
    Each append sets the moment at which the key is *due*: the earliest at which it could be released, by the table of
    the waits that the store was opened with (``core.lifecycle.due_table``). ``claim`` hands a due key to one owner for
    ``lease``; when the lease ends without a settle or a postpone, the key is due again. A claim carries a token:
    whatever is done with a token that is no longer the key's own does nothing, and the answer is False.

    A claim covers the parts up to and including arrival number ``up_to``. Once an exporter's outcome stands for a
    key, each new claim of it covers the same parts until they are settled, so that no exporter gets a part twice
    because another one was slow.

Ends of a process
    Where the store outlives the process, a claim says in ``deaths`` how many processes ended while they were at work on
    its key, and is then handed out apart from all that is not in the same case. Of processes that share a store one has
    ended whose lease did and that is not heard of any more. A claim that is given back, whatever came of it, clears its
    key of that.

Outcomes
    ``record`` keeps INTENDED before bytes leave, and what became of them after. A claim tells what is known for each
    exporter: INTENDED alone means that a process died, or a peer fell silent, between the two: unknown.
    ``settle`` forgets the parts up to ``up_to`` and no later one, with their outcomes, and stores memories in the
    same commit. What came later stays held and is due at once.

Plain batches
    Nearly every trace is plain: due, whole, without a guest, never seen before. ``claim`` hands out many of those as
    one batch, with one token and one lease, so that what is done about them is done once: it is read, recorded,
    renewed and settled as a whole. When something else than success comes of it, ``split`` makes single claims of it,
    and so does the end of its lease; the intents that were stored for it stand for each of its keys then.

Backlogs
    What some exporters have and another one has not is no longer held for all of them: ``defer`` keeps what left of it
    as one batch of that exporter's *backlog*, as safe as parts are, and then the claims are settled. The order is
    intent, ``defer``, ``settle``: a process that dies in between leaves both, and an intent that marks the repeat.
    A batch belongs to one exporter by name, whoever else is configured; it is handed out by ``claim_deferred`` alone,
    the earliest first, and from then on it is a claim like any other: read, recorded, renewed, postponed, settled. So
    nothing that concerns one exporter is claimed, leased or looked at for another. It counts as bytes held, against
    the limit, and not as traces or spans held.

Memory
    An opaque blob a key, kept for ``remember``, and up to ``remember_limit`` keys and ``remember_bytes`` in all, the
    oldest going first. A memory of a key that has one takes its place, and is as old as it is itself.

Dedupe keys
    An id that something was dealt with under, such as a delivery, is *seen* until its time to live has passed. Its key
    is visible when ``append`` returns, and never before the parts that came with it are stored: a crash between the
    two leaves parts without a key, whose repeat does no harm. Keys outlive the process, and are bounded in number:
    past that the oldest go first.

Tasks
    Work that is to be done at a time (asking a peer for something), told apart by kind and name. What was put is there
    after a kill, and is handed to one owner at a time for ``lease``, like a claim. Whoever puts a task that is there
    already makes it due (at the earlier of both times); put with an empty blob it keeps the blob that it has, so that
    somebody may wake a task of which they know only the name. Put while it is owned, it is due again as soon as its
    owner gives it back or ends it: no wake is lost. Done twice must do no harm. Up to TASKS_LIMIT tasks of up to
    TASK_BYTES; past that ``put_tasks`` raises UnavailableError.

Calls
    What is known of a phone call, by call id, which is also its guest's: a row. The first value of a field stays, and a
    later one fills in what was left open; of two at once, over all processes, each field is one's. A row is there when
    ``put_calls`` returns, and for ``remember`` after the last one for that call; past ``remember_limit`` rows the
    oldest go first. It holds no phone number, only what ``core.calls`` makes of one. The link of a guest, where
    somebody else than the guest named it, is a field of such a row, under the id by which it was named.

Moments
    What ``keep_moment`` was given is known at the next opening, with the store's own clock where it has one: ``moment``
    is the later of both. Whoever goes on from there is never behind what the store has seen, whatever the wall clock
    of its machine says.

Dead letters
    What an exporter's peer refused for good, in a box that is bounded in bytes. What happens past that is a setting:
    either no more are taken, and whoever brings them keeps their traces, or the oldest go; the answer says which. A
    letter leaves by ``remove_dead_letters``, for one of those who ask at the same time.

Large envelopes
    An envelope of LARGE_ENVELOPE bytes or more is stored once for the parts of a request that share it (in a cluster
    once for each bucket), and is gone with the last of them. It counts in what is held, and in what is claimed
    together.

Time is an argument, in Unix nanoseconds. Due times and leases are data. Past ``max_bytes`` of live bytes ``append``
raises UnavailableError. Arrival numbers rise over the whole life of the store, restarts included.
"""

from collections.abc import Sequence
from typing import Protocol, overload

from grafter.core.calls import CallNote
from grafter.core.model import DedupeKey, Key, Part, UnixNano
from grafter.core.state import TraceState
from grafter.store.model import (
    Claim,
    Claims,
    DeadLetter,
    DeadLettersAdded,
    Memory,
    Outcome,
    Plain,
    PlainBatch,
    PlainLimits,
    PlainSettlement,
    Settlement,
    Stats,
    StoredPart,
    Task,
    TaskThen,
)


class TaskStore(Protocol):
    """The part of a store that keeps tasks. All methods raise UnavailableError when it cannot."""

    async def put_tasks(self, tasks: Sequence[Task], now: UnixNano, *, leaving: bool = False) -> None:
        """Add tasks, or wake those that are there. Durable when it returns. ``leaving``: a trace that leaves is settled
        only then, so they are taken also while the store is full, as what lets go of traces is."""
        ...

    async def find_task(self, kind: str, name: str) -> Task | None:
        """What is stored of a task now, whoever owns it; None where there is none. Its token is nobody's."""
        ...

    async def claim_tasks(self, kind: str, now: UnixNano, limit: int) -> Sequence[Task]:
        """Up to ``limit`` due tasks of a kind, earliest due first, each to this caller alone until its lease ends."""
        ...

    async def update_task(self, task: Task, then: TaskThen) -> bool:
        """Store its due time and blob, and keep it, give it back, or end it.

        What was put meanwhile is not ended but given back. False when it is no longer owned: nothing was changed.
        """
        ...

    async def renew_tasks(self, tasks: Sequence[Task], now: UnixNano) -> None:
        """Let the leases of these tasks run from ``now`` again."""
        ...


class CallStore(Protocol):
    """The part of a store that keeps what is known of calls. Its methods raise UnavailableError when it cannot."""

    async def put_calls(self, calls: Sequence[CallNote], now: UnixNano) -> None:
        """Add rows, or to those that are there what they leave open."""
        ...

    async def find_calls(self, call_ids: Sequence[str], now: UnixNano) -> Sequence[CallNote | None]:
        """What is known of these calls, where it has not been forgotten."""
        ...

    async def first_link(self, call_id: str, link: str, now: UnixNano) -> str:
        """The link of a row: the one that stands, else ``link``, which stands from now on; of many at once, over all
        processes, all get the same. A row that is not there is added. Like what lets go of a trace it works while the
        store is full, for a trace is about to leave that has to know."""
        ...


class HeldStore(Protocol):
    """The part of a store that says what is held, to whoever only asks."""

    async def peek(self, key: Key) -> TraceState | None:
        """What is known of a key, whoever owns it; None where nothing is held. Raises UnavailableError."""
        ...

    async def host_of(self, guest: Key) -> Key | None:
        """The host under whose key something of this guest is placed, by the guest's own key; None where its link is
        not known, or nothing of it is held. Raises UnavailableError."""
        ...

    async def recall(self, keys: Sequence[Key], now: UnixNano) -> Sequence[Memory | None]:
        """See Store."""
        ...

    def stats(self) -> Stats:
        """See Store."""
        ...


class MomentStore(Protocol):
    """The part of a store that knows how late it is."""

    moment: UnixNano
    """The latest that was known when the store was opened; later where what is held turns out to be from later."""

    async def keep_moment(self, now: UnixNano) -> None:
        """Have it known at the next opening. Raises UnavailableError."""
        ...


class Store(TaskStore, CallStore, HeldStore, MomentStore, Protocol):
    """See the module's docstring for every promise."""

    async def append(self, parts: Sequence[Part], now: UnixNano, dedupe_keys: Sequence[DedupeKey] = ()) -> None:
        """Store the parts of one request, of which there may be none, and after them its dedupe keys.

        Raises UnavailableError when full, failing or stopping; what was stored until then does no harm.
        """
        ...

    async def seen(self, ids: Sequence[str], now: UnixNano) -> Sequence[bool]:
        """Whether each of these ids is that of a dedupe key. Raises UnavailableError when the keys cannot be read."""
        ...

    async def claim(self, now: UnixNano, limit: int, plain: PlainLimits | None = None) -> Sequence[Claim | PlainBatch]:
        """Up to ``limit`` due keys, earliest due first, each to this caller alone until its lease ends.

        ``plain``: plain traces are not among those; the earliest of them come as one batch, which is the first of the
        answer. Behind a limit of either kind there may be more of both, for the next call.
        """
        ...

    @overload
    async def read(self, claims: PlainBatch) -> Sequence[Plain]: ...
    @overload
    async def read(self, claims: Sequence[Claim]) -> Sequence[Sequence[StoredPart]]: ...
    async def read(self, claims: Claims) -> Sequence[Plain] | Sequence[Sequence[StoredPart]]:
        """The parts that each claim covers, in order of arrival. Raises UnavailableError when they cannot be read."""
        ...

    async def record(self, claims: Claims, exporter: str, outcome: Outcome) -> Sequence[bool]:
        """Keep that bytes are about to leave (INTENDED), or what became of them. False where it is no longer owned.

        Of a plain batch there is one answer, and no outcome but INTENDED, of one exporter after another: what an
        exporter says is of single claims.
        """
        ...

    async def settle(self, settlements: Sequence[Settlement] | PlainSettlement, now: UnixNano) -> Sequence[bool]:
        """Forget and remember. False for a claim that is no longer owned: nothing was changed for it.

        Of a plain batch there is one answer: all of it was settled, or nothing was changed. After an UnavailableError
        the same may be asked again, with the same ``now``: what the first attempt did counts.
        """
        ...

    async def split(self, batch: PlainBatch) -> Sequence[Claim]:
        """Its keys as single claims, each with what the batch covers; none when the batch is no longer owned."""
        ...

    async def renew(self, claims: Claims, now: UnixNano) -> None:
        """Let the leases of these claims run from ``now`` again: their owner is still at work."""
        ...

    async def postpone(self, claims: Sequence[tuple[Claim, UnixNano]], *, untouched: bool = False) -> None:
        """Give the keys back; each is due again at the given time, or earlier if a new part says so. ``untouched``:
        nothing was tried, so what is known of ends of a process stays."""
        ...

    async def move(self, claim: Claim, host: Key, *, if_held: bool = False) -> bool:
        """File a guest key's parts under a host from now on (their link was found otherwise).

        False where it is not owned, an export of it was begun, or, with ``if_held``, no host part is held there: then
        nothing was changed.
        """
        ...

    async def defer(self, exporter: str, parts: Sequence[Part], now: UnixNano) -> None:
        """Keep host parts as one batch of an exporter's backlog; their keys mean nothing, and nobody reads their heads
        (``span_ids``) but their caller.

        What it is of is to be settled next, so the limit on live bytes does not refuse it. Raises UnavailableError:
        with DISK_FULL for its reason nothing was kept, else that is unknown.
        """
        ...

    async def claim_deferred(
        self, exporter: str, now: UnixNano, limit: int, *, postponed: bool = False
    ) -> Sequence[Claim]:
        """Up to ``limit`` batches of an exporter's backlog that nobody owns, of which none is postponed beyond now;
        with ``postponed`` these too, and those on which a process ended."""
        ...

    async def recall(self, keys: Sequence[Key], now: UnixNano) -> Sequence[Memory | None]:
        """The memories of these keys, where they have not been forgotten."""
        ...

    async def add_dead_letters(self, letters: Sequence[DeadLetter], *, together: bool = False) -> DeadLettersAdded:
        """Keep spans that were refused for good; ``together``: all of them or none.

        What the answer says is kept is as safe as the parts were: it is on the disk when this returns, if that is what
        the store promises for parts at any time.
        """
        ...

    async def dead_letters(self, limit: int, *, skip: int = 0, oldest: bool = False) -> Sequence[DeadLetter]:
        """The newest letters, or the ``oldest``, behind ``skip`` others."""
        ...

    async def remove_dead_letters(self, letters: Sequence[DeadLetter]) -> Sequence[bool]:
        """Forget letters that were read before. False where somebody did so already."""
        ...

    async def record_retry(self, letters: Sequence[DeadLetter], *, begun: bool) -> None:
        """Keep that letters are about to be sent again, or (not ``begun``) that they were not taken."""
        ...

    def stats(self) -> Stats:
        """What is held now; cheap enough for every scrape."""
        ...
