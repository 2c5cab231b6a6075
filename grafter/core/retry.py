"""How long to wait after a failure: the one backoff, for whatever is asked again."""

from dataclasses import dataclass

# The interval has reached its maximum by then, for any multiplier that is worth the name; more would overflow.
_MOST_STEPS = 64


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The waits between attempts, in seconds; names and defaults are those of the Collector's ``retry_on_failure``.

    There is no time after which something is given up: that is for whoever holds it.
    """

    initial_interval: float = 5.0
    max_interval: float = 30.0
    multiplier: float = 1.5
    randomization_factor: float = 0.5
    """A wait is up to this share longer or shorter, by chance, so that many do not come back in step."""
    # A peer that asks for days is answered with hours: its clock or its proxy may be wrong.
    max_hint: float = 3600.0
    """The longest that a peer's own wish (Retry-After, RetryInfo) is obeyed."""
    enabled: bool = True
    """False: a blip is not tried again at once; what failed waits for its next turn."""

    def wait(self, failures: int, chance: float, hint: float = 0.0) -> float:
        """Seconds until the next attempt after this many failures in a row, at least one.

        ``chance`` is from 0 up to 1. What the peer asks for (``hint``) wins when it is longer.
        """
        steps = min(max(failures, 1) - 1, _MOST_STEPS)
        interval: float = min(self.initial_interval * self.multiplier**steps, self.max_interval)
        return max(self.jittered(interval, chance), min(hint, self.max_hint))

    def jittered(self, seconds: float, chance: float) -> float:
        """A time, longer or shorter by chance."""
        return seconds * (1 + self.randomization_factor * (2 * chance - 1))
