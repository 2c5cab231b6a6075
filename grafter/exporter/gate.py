"""Whether a peer is worth a request just now.

Traces are safe in the store, so that a peer in trouble is not tried by every batch: after a failure the gate is shut
until the backoff's next moment, then one request, the *probe*, goes through alone. The probe's success opens the gate,
its failure shuts it for longer. What the peer asks for by itself wins when it is longer.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from grafter.consumer import Outage
from grafter.core.retry import RetryPolicy
from grafter.exporter.answer import Later

logger = logging.getLogger(__name__)

# A wrong key or address is mended by a person; a minute is soon enough to see it, and no peer minds.
FAULT_SECONDS = 60.0
# Asked of those who come while the probe is on its way: about when its answer is known.
PROBE_SECONDS = 1.0


@dataclass(slots=True)
class Ticket:
    """Leave to send; given back by ``Gate.leave``."""

    probe: bool


class Gate:
    def __init__(
        self,
        name: str,
        policy: RetryPolicy,
        clock: Callable[[], float],
        random: Callable[[], float],
        turned: Callable[[bool], None] = lambda _up: None,
    ) -> None:
        """``turned`` gets False when the peer goes down, and True when it is back."""
        self.name = name
        self._turned = turned
        self._policy = policy
        self._clock = clock
        self._random = random
        self.down_since: float | None = None
        """On the clock; None while the peer is up."""
        self.last_error = ""
        """What the last failure said; it stays until a success."""
        self._fault = False
        self._failures = 0
        self._next = 0.0
        self._probing = False

    def wait(self) -> float:
        """Seconds until a request may go; 0 means now."""
        if self.down_since is None:
            return 0.0
        left = self._next - self._clock()
        if left > 0:
            return left
        return PROBE_SECONDS if self._probing else 0.0

    def enter(self) -> Ticket | None:
        """Leave to send now, or None; see ``wait``."""
        if self.down_since is None:
            return Ticket(probe=False)
        if self.wait() > 0:
            return None
        self._probing = True
        return Ticket(probe=True)

    def leave(self, ticket: Ticket) -> None:
        """The ticket's holder is done; a probe that was abandoned leaves its place to the next."""
        if ticket.probe:
            self._probing = False
            ticket.probe = False

    def succeed(self, ticket: Ticket) -> None:
        """The peer answered, with yes or with a no that is about the request."""
        # An answer to what was sent before the gate shut says nothing about the peer as it is now; only a probe does.
        # Otherwise a peer that refuses every other request would be hammered, and fill the log.
        if not ticket.probe or self.down_since is None:
            return
        logger.info("%s: the peer is back after %.0f s", self.name, self._clock() - self.down_since)
        self.leave(ticket)
        self.down_since = None
        self.last_error = ""
        self._turned(True)
        self._fault = False
        self._failures = 0

    def fail(self, ticket: Ticket, answer: Later) -> float:
        """The peer did not take it; seconds until the next try."""
        now = self._clock()
        hint = answer.retry_after or 0.0
        self.last_error = answer.reason
        if self.down_since is not None and not ticket.probe:
            # One of several that were on their way: the first has shut the gate already.
            self._next = max(self._next, now + min(hint, self._policy.max_hint))
            return max(self._next - now, 0.0)
        self._failures += 1
        wait = self._policy.wait(self._failures, self._random(), hint)
        self._next = now + max(wait, FAULT_SECONDS if answer.fault else 0.0)
        if self.down_since is None or answer.fault != self._fault:
            level = logging.ERROR if answer.fault else logging.WARNING
            logger.log(level, "%s: the peer takes nothing now, traces stay held: %s", self.name, answer.reason)
        self._fault = answer.fault
        if self.down_since is None:
            self.down_since = now
            self._turned(False)
        self.leave(ticket)
        return self._next - now

    def outage(self) -> Outage | None:
        """Since when the peer takes nothing, and why; None while it is up."""
        return None if self.down_since is None else Outage(self._clock() - self.down_since, self.last_error)
