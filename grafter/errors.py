"""The two errors that a caller can act on.

Everything else that goes wrong is either a value (one odd item in a batch) or a bug (builtin exceptions).
Messages name the thing, what was found and what was expected, and never hold a payload: it may be a user's prompt.
"""


class RejectedError(Exception):
    """This input will be refused again however often it is sent; the sender should not retry."""

    def __init__(self, message: str, *, reason: str = "invalid") -> None:
        super().__init__(message)
        self.reason = reason
        """A short constant, used as a metric label."""


class TooLargeError(RejectedError):
    """The input is over a size limit, before or after decompression (HTTP 413, RESOURCE_EXHAUSTED)."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="too_large")


class UnavailableError(Exception):
    """This input may be taken later; the sender keeps it and tries again."""

    def __init__(self, message: str, *, retry_after: float = 1.0, reason: str = "unavailable") -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds after which a new attempt makes sense."""
        self.reason = reason
