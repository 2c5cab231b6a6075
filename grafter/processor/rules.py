"""Traces that move under a call's host trace by ``processors.graft.rules``: where each belongs, and since when.

A trace that may move is held like any other, and looked at with each part: where it belongs, and whether its host has
heard of it, which waits for it as for every guest. It leaves after its host, whose memory has the span under which it
hangs and the decision that it shares. A trace whose host does not come leaves as it came, after the wait that a trace
has for its other half.
"""

import logging
from dataclasses import dataclass, replace

from grafter.core.lifecycle import Decision, Release, ReleaseReason, Wait, step_host
from grafter.core.memory_blobs import decode_trace
from grafter.core.model import Facts, Key, TraceId, UnixNano, moved_guest
from grafter.core.policy import SECOND, GraftPolicy
from grafter.core.rules import RuleSet, Values
from grafter.core.state import TraceState
from grafter.errors import UnavailableError
from grafter.guests.otlp.source import sign_of
from grafter.guests.sources import RULES
from grafter.otlp.rule_keys import RuleKeys
from grafter.processor.linking import Linking
from grafter.store.base import Store
from grafter.store.model import Claim
from grafter.tasks import in_thread_if

logger = logging.getLogger(__name__)

# Nothing wakes a trace when its host comes, or leaves: it is looked at again so often. A host that has come whole is
# held for ``after_root`` at least, and hears of it in that time.
_POLL = 5 * SECOND
# To look for values is to read all of a trace: done again when it has grown by a fourth, and before it leaves.
_GROWN = 1.25
_MAX_KNOWN = 10_000
_LARGE_BYTES = 1 << 20


class _UnreadableError(Exception):
    """The parts of one trace could not be read, whatever is the matter with the store."""


@dataclass(frozen=True, slots=True)
class Target:
    """The host trace under which a trace is to leave; it has left."""

    host: TraceId
    blob: bytes
    """Its memory."""


class RuleMoves:
    """Decides about claims of traces that may move."""

    def __init__(self, store: Store, policy: GraftPolicy, linking: Linking) -> None:
        self._store = store
        self._policy = policy
        self._linking = linking
        self._rules = RuleSet(policy.rules)
        self._keys = RuleKeys(self._rules)
        self._poll = max(1, min(_POLL, policy.waits.after_root // 2))
        # A trace whose parts come one upon the other tells of some.
        self._apart = policy.waits.after_root // 10
        self._read: dict[Key, tuple[int, int, Values]] = {}
        self._unreadable: set[Key] = set()
        """Those of which that was said."""
        self._targets: dict[Key, Target | None] = {}
        """Where the last attempt of a trace went; for attempts that have to be made again."""

    def concerns(self, claim: Claim) -> bool:
        """The trace may move, and nothing of it has left."""
        return bool(self._rules and int(claim.state.facts) & Facts.RULE and not claim.state.remembered)

    async def decide(
        self, claim: Claim, now: UnixNano, begun: Decision | None = None
    ) -> tuple[Decision, Target | None]:
        """As ``step_host``, but later while the host of the trace has not left; and under which it is to leave.

        ``begun``: what is decided of a trace of which an export was begun; it goes where it went. One whose parts
        cannot be read is looked at again, and holds up no other; past ``max`` the release reads it, or gives it up.
        """
        try:
            return await (self._decide(claim, now) if begun is None else self._again(claim, now, begun))
        except _UnreadableError as error:
            end = claim.state.first + self._policy.waits.max
            if claim.key not in self._unreadable:
                logger.warning("trace %s, which a rule may move, cannot be read yet: %s", claim.key.hex(), error)
                if len(self._unreadable) >= _MAX_KNOWN:
                    self._unreadable.clear()
                self._unreadable.add(claim.key)
            if now < end:
                return Wait(UnixNano(min(end, now + self._poll))), None
            return begun or Release(ReleaseReason.MAX, UnixNano(end)), None

    async def _decide(self, claim: Claim, now: UnixNano) -> tuple[Decision, Target | None]:
        state, target, own = claim.state, None, TraceId(claim.key)
        again = now + self._poll
        free = replace(state, facts=state.facts.without_rule())
        leaves = any(isinstance(step_host(one, now, self._policy, RULES), Release) for one in (state, free))
        host = await self._host(claim, now, exactly=leaves)
        if host is not None:
            known = await self._released(host, now)
            target = None if known is None or host == own else Target(host, known)
            held = None if target is not None else await self._store.peek(Key(host))
            if target is None and held is None:
                # It was forgotten, or what was noted of it was never stored.
                host = None
            elif held is not None and host != own:
                again = min(again, await self._sign(own, state, host, held, now))
        if host is not None:
            # Its other half has come, or is its own guests: no rule makes it wait any longer.
            state = free
        decision = step_host(state, now, self._policy, RULES)
        if host == own:
            return decision, None
        if isinstance(decision, Release) and decision.reason in (ReleaseReason.OVERSIZE, ReleaseReason.MAX):
            pass
        elif target is None and (host is not None or isinstance(decision, Wait)):
            # It may still come, or leave; and nothing is held for longer than ``max``.
            end = claim.state.first + self._policy.waits.max
            until = decision.until if isinstance(decision, Wait) else end
            decision = Wait(UnixNano(max(now + 1, min(until, again, end))))
        self._keep(claim.key, target)
        return decision, target

    async def _sign(self, own: TraceId, state: TraceState, host: TraceId, held: TraceState, now: UnixNano) -> int:
        """Sign to a host that is held what has come of the trace since the last sign; when to do so at the latest."""
        rooted = bool(int(state.facts) & Facts.ROOT)
        known = held.guests.get(moved_guest(own))
        if known is not None and known.top_level >= rooted:
            if known.last >= state.last:
                return now + self._poll
            if now < known.last + self._apart:
                return known.last + self._apart
        try:
            await self._store.append([sign_of(own, host, rooted=rooted)], now)
        except UnavailableError as error:
            # A full store takes nothing until something has left: what is due beside it must not wait for that.
            logger.debug("the host does not know of %s yet: %s", own.hex(), error)
        return now + self._poll

    async def _again(self, claim: Claim, now: UnixNano, begun: Decision) -> tuple[Decision, Target | None]:
        if claim.key in self._targets:
            return begun, self._targets[claim.key]
        host = await self._host(claim, now, exactly=True)
        known = None if host is None or host == TraceId(claim.key) else await self._released(host, now)
        return begun, None if host is None or known is None else Target(host, known)

    async def _host(self, claim: Claim, now: UnixNano, *, exactly: bool) -> TraceId | None:
        """``exactly``: by all that is held of the trace, and not only by what was read before."""
        values = await self._values(claim, exactly=exactly)
        noted = await self._linking.find(self._rules.note_ids(values), now)
        hosts = self._rules.hosts(TraceId(claim.key), values, noted)
        return next(iter(hosts)) if len(hosts) == 1 else None

    async def _values(self, claim: Claim, *, exactly: bool) -> Values:
        """Read once, however often the trace is looked at, unless something has come since; see _GROWN."""
        known = self._read.get(claim.key)
        if known is not None:
            up_to, size, values = known
            if up_to == claim.up_to or not (exactly or claim.state.bytes > size * _GROWN):
                return values
        try:
            (parts,) = await self._store.read([claim])
        except UnavailableError as error:
            raise _UnreadableError(str(error)) from error
        runs = [part.payload for part in parts if part.guest is None]
        values = await in_thread_if(claim.state.bytes > _LARGE_BYTES, self._keys.values, runs)
        if len(self._read) >= _MAX_KNOWN:
            self._read.clear()
        self._read[claim.key] = claim.up_to, claim.state.bytes, values
        return values

    async def _released(self, host: TraceId, now: UnixNano) -> bytes | None:
        (memory,) = await self._store.recall([Key(host)], now)
        return memory.blob if memory is not None and decode_trace(memory.blob) is not None else None

    def _keep(self, key: Key, target: Target | None) -> None:
        if len(self._targets) >= _MAX_KNOWN:
            self._targets.clear()
        self._targets[key] = target
