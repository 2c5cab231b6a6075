"""Which notes were taken already: the digests of the last thousand or so.

A repeat comes soon: a post that is sent again, two readers of one socket. So the memory has an end, and what comes
again after it meets spans whose ids are taken.
"""

from base64 import b64decode, b64encode


class Seen:
    """A set that forgets its oldest members."""

    BYTES = 8
    MOST = 1_024

    def __init__(self) -> None:
        self._digests: dict[bytes, None] = {}

    def add(self, digest: bytes) -> bool:
        """Whether it is new."""
        if digest in self._digests:
            return False
        self._digests[digest] = None
        if len(self._digests) > self.MOST:
            del self._digests[next(iter(self._digests))]
        return True

    def state(self) -> str:
        return b64encode(b"".join(self._digests)).decode()

    @classmethod
    def restored(cls, state: object) -> "Seen":
        """What ``state`` wrote; an empty one from anything else."""
        seen = cls()
        try:
            raw = b64decode(state) if isinstance(state, str) else b""
        except ValueError:
            raw = b""
        for at in range(0, len(raw), cls.BYTES):
            seen.add(raw[at : at + cls.BYTES])
        return seen
