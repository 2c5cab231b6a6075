"""Blobs of memories at little cost: the resource that all memories of a service share is taken out of a blob, and what
tail sampling decided about the trace put into it, without reading all of it; and those of plain traces are made without
the resource from the start."""

import json
import struct
from functools import lru_cache
from hashlib import blake2b

from grafter.core.lifecycle import ReleaseReason
from grafter.core.memory import HOST_SPAN_IDS_LIMIT, ID_BYTES, RESOURCE_LIMIT
from grafter.core.memory_blobs import (
    BY_DIGEST,
    GUEST_HEAD,
    GUEST_KIND,
    HAS_ENVELOPE,
    HAS_ROOT,
    NOT_A_BLOB,
    REASONS,
    TRACE_HEAD,
    TRACE_KIND,
    VERSION,
    json_bytes,
)
from grafter.core.model import UnixNano
from grafter.core.sampling.policy import SamplingDecision

_DIGEST = 16
# A shorter one takes no more room than what it would take to share it.
_SHARED_FROM = 64


class PlainMemories:
    """The memories of traces that left together as they came, in their order: what ``taken_apart`` leaves of what
    ``encode_trace`` makes of them."""

    def __init__(self, reason: ReleaseReason, released_at: UnixNano) -> None:
        self._reason = REASONS[reason]
        self._at = released_at
        self._known: dict[bytes, tuple[int, bytes, bytes]] = {}
        """By resource: the flags of a blob, what stands in it for the resource, and the digest."""
        self.blobs: list[bytes] = []
        self.digests: list[bytes] = []
        """Of the resource of each; empty where the blob has all of it."""
        self.resources: dict[bytes, bytes] = {}
        """By digest."""

    def add(self, root: bytes, flags: int, trace_state: bytes, resource: bytes, span_ids: bytes) -> None:
        """One trace with a root (8 bytes), whose resource and trace state these are."""
        present, stands, digest = self._known.get(resource) or self._share(resource)
        if len(span_ids) > HOST_SPAN_IDS_LIMIT * ID_BYTES:
            span_ids = span_ids[: HOST_SPAN_IDS_LIMIT * ID_BYTES]
        reason = self._reason
        head = TRACE_HEAD.pack(
            TRACE_KIND,
            VERSION,
            present,
            len(reason),
            self._at,
            root,
            flags,
            len(trace_state),
            len(stands),
            0,
            len(span_ids),
            0,
        )
        self.blobs.append(b"".join((head, reason, trace_state, stands, span_ids)))
        self.digests.append(digest)

    def _share(self, resource: bytes) -> tuple[int, bytes, bytes]:
        if len(resource) > RESOURCE_LIMIT:
            known = HAS_ROOT, b"", b""
        elif len(resource) < _SHARED_FROM:
            known = HAS_ROOT | HAS_ENVELOPE, resource, b""
        else:
            digest = _digest(resource)
            self.resources[digest] = resource
            known = HAS_ROOT | BY_DIGEST, digest, digest
        self._known[resource] = known
        return known

    def whole(self, at: int) -> bytes:
        """One of them with its resource in it."""
        digest = self.digests[at]
        return put_together(self.blobs[at], self.resources[digest]) if digest else self.blobs[at]


def taken_apart(blob: bytes) -> tuple[bytes, bytes, bytes]:
    """A blob without its root's resource, the digest by which ``put_together`` finds that, and the resource.

    For a store, which has one resource for all the memories of a service. Digest and resource are empty where the blob
    stays as it is.
    """
    if not _says(blob, HAS_ENVELOPE):
        return blob, b"", b""
    start, end = _resource_in(blob)
    if end - start < _SHARED_FROM or end > len(blob):
        return blob, b"", b""
    resource = blob[start:end]
    digest = _digest(resource)
    return _with_resource(blob, blob[2] ^ HAS_ENVELOPE | BY_DIGEST, digest), digest, resource


def digest_in(blob: bytes) -> bytes:
    """The digest of the resource that a blob was parted from; empty where it has all of its own."""
    if not _says(blob, BY_DIGEST):
        return b""
    start, end = _resource_in(blob)
    return blob[start:end]


def put_together(blob: bytes, resource: bytes | None) -> bytes:
    """What ``taken_apart`` was given; ``resource`` None: it is lost, and the blob is as if no span had had one."""
    has = 0 if resource is None else HAS_ENVELOPE
    return _with_resource(blob, blob[2] & ~BY_DIGEST | has, resource or b"")


def _says(blob: bytes, flag: int) -> bool:
    """It is a host's blob of this version, and has this flag."""
    return len(blob) >= TRACE_HEAD.size and blob[0] == TRACE_KIND and blob[1] == VERSION and bool(blob[2] & flag)


def _with_resource(blob: bytes, flags: int, stands: bytes) -> bytes:
    """A host's blob with these flags, and with this in the place of the root's resource."""
    start, end = _resource_in(blob)
    length = len(stands).to_bytes(4, "big")
    return b"".join((blob[:2], bytes((flags,)), blob[3:28], length, blob[32:start], stands, blob[end:]))


def _resource_in(blob: bytes) -> tuple[int, int]:
    """Where the root's resource stands in a host's blob (TRACE_HEAD)."""
    start = TRACE_HEAD.size + blob[3] + int.from_bytes(blob[24:28], "big")
    return start, start + int.from_bytes(blob[28:32], "big")


@lru_cache(256)
def _digest(resource: bytes) -> bytes:
    return blake2b(resource, digest_size=_DIGEST).digest()


_DECISION = "sampled"
"""Key in the JSON of either blob; a reader that does not know it leaves it aside."""
_HEADS = {TRACE_KIND: TRACE_HEAD, GUEST_KIND: GUEST_HEAD}


def with_decision(blob: bytes, decision: SamplingDecision) -> bytes:
    """The blob of a host or of a guest, with what tail sampling decided about its trace.

    Raises ValueError for what is no blob of this version.
    """
    head, fields, more = _opened(blob)
    try:
        written = json_bytes(json.loads(more) | _decision_values(decision)) if more else _decision_alone(decision)
    except RecursionError:
        # See _guest_values: metadata nested as deep as that is nobody's.
        return blob
    return b"".join((head.pack(*fields[:-1], len(written)), blob[head.size : len(blob) - len(more)], written))


@lru_cache(1000)
def _decision_alone(decision: SamplingDecision) -> bytes:
    """The JSON of a trace that has no anchors: nearly every trace, and few are decided in different ways."""
    return json_bytes({"envelopes": [], "anchors": []} | _decision_values(decision))


def _decision_values(decision: SamplingDecision) -> dict[str, object]:
    return {_DECISION: [decision.policy, decision.kept, decision.one_of, decision.upstream]}


def decision_of(blob: bytes) -> SamplingDecision | None:
    """What ``with_decision`` put there; None where nobody has decided, or the blob cannot be read. Never raises."""
    try:
        _, _, more = _opened(blob)
        if not more:
            return None
        policy, kept, one_of, upstream = json.loads(more)[_DECISION]
        return SamplingDecision(str(policy), bool(kept), int(one_of), int(upstream))
    except NOT_A_BLOB:
        return None


def _opened(blob: bytes) -> tuple[struct.Struct, tuple[int, ...], bytes]:
    """The layout of a blob's head, its fields, and the JSON at its end. Raises ValueError for what is no such blob."""
    if len(blob) < 2 or blob[0] not in _HEADS or blob[1] != VERSION:
        raise ValueError("no blob of this version")
    head = _HEADS[blob[0]]
    fields = head.unpack_from(blob)
    return head, fields, blob[len(blob) - fields[-1] :]
