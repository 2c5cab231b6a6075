"""Traces that move under a call's host trace by ``processors.graft.rules``: where each belongs, and since when.

A trace that may move is held like any other. When it is due, and not before, it is looked where it belongs; it leaves
after its host, whose memory has the span under which it hangs and the decision that it shares. A trace whose host does
not come leaves as it came, after the wait that a trace has for its other half.
"""

import asyncio
from dataclasses import dataclass, replace

from grafter.core.lifecycle import Decision, Release, ReleaseReason, Wait, step_host
from grafter.core.memory_blobs import decode_trace
from grafter.core.model import Facts, Key, TraceId, UnixNano
from grafter.core.policy import SECOND, GraftPolicy
from grafter.core.rules import RuleSet, Values
from grafter.guests.sources import RULES
from grafter.otlp.rule_keys import RuleKeys
from grafter.processor.linking import Linking
from grafter.store.base import Store
from grafter.store.model import Claim

# Nothing wakes a trace when its host comes, or leaves: it is looked at again so often.
_POLL = 5 * SECOND
_MAX_KNOWN = 10_000
_LARGE_BYTES = 1 << 20


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
        self._read: dict[Key, tuple[int, Values]] = {}
        self._targets: dict[Key, Target | None] = {}
        """Where the last attempt of a trace went; for attempts that have to be made again."""

    def concerns(self, claim: Claim) -> bool:
        """The trace may move, and nothing of it has left."""
        return bool(self._rules and int(claim.state.facts) & Facts.RULE and not claim.state.remembered)

    async def decide(self, claim: Claim, now: UnixNano) -> tuple[Decision, Target | None]:
        """As ``step_host``, but later while the host of the trace has not left; and under which it is to leave."""
        state, target, own = claim.state, None, TraceId(claim.key)
        host = await self._host(claim, now)
        if host is not None:
            known = await self._released(host, now)
            target = None if known is None or host == own else Target(host, known)
            if target is None and await self._store.peek(Key(host)) is None:
                # It was forgotten, or what was noted of it was never stored.
                host = None
        if host is not None:
            # Its other half has come, or is its own guests: no rule makes it wait any longer.
            state = replace(state, facts=state.facts.without_rule())
        decision = step_host(state, now, self._policy, RULES)
        if host == own:
            return decision, None
        if isinstance(decision, Release) and decision.reason in (ReleaseReason.OVERSIZE, ReleaseReason.MAX):
            pass
        elif target is None and (host is not None or isinstance(decision, Wait)):
            # It may still come, or leave; and nothing is held for longer than ``max``.
            end = claim.state.first + self._policy.waits.max
            until = decision.until if isinstance(decision, Wait) else end
            decision = Wait(UnixNano(max(now + 1, min(until, now + _POLL, end))))
        self._keep(claim.key, target)
        return decision, target

    async def again(self, claim: Claim, now: UnixNano) -> Target | None:
        """Where a trace went of which an export was begun."""
        if claim.key in self._targets:
            return self._targets[claim.key]
        host = await self._host(claim, now)
        known = None if host is None or host == TraceId(claim.key) else await self._released(host, now)
        return None if host is None or known is None else Target(host, known)

    async def _host(self, claim: Claim, now: UnixNano) -> TraceId | None:
        values = await self._values(claim)
        noted = await self._linking.find(self._rules.asked(values), now)
        hosts = self._rules.hosts(TraceId(claim.key), values, noted)
        return next(iter(hosts)) if len(hosts) == 1 else None

    async def _values(self, claim: Claim) -> Values:
        """Read once, however often the trace is looked at, unless something has come since."""
        known = self._read.get(claim.key)
        if known is not None and known[0] == claim.up_to:
            return known[1]
        (parts,) = await self._store.read([claim])
        runs = [part.payload for part in parts if part.guest is None]
        large = claim.state.bytes > _LARGE_BYTES
        values = await asyncio.to_thread(self._keys.values, runs) if large else self._keys.values(runs)
        if len(self._read) >= _MAX_KNOWN:
            self._read.clear()
        self._read[claim.key] = claim.up_to, values
        return values

    async def _released(self, host: TraceId, now: UnixNano) -> bytes | None:
        (memory,) = await self._store.recall([Key(host)], now)
        return memory.blob if memory is not None and decode_trace(memory.blob) is not None else None

    def _keep(self, key: Key, target: Target | None) -> None:
        if len(self._targets) >= _MAX_KNOWN:
            self._targets.clear()
        self._targets[key] = target
