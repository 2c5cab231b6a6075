"""Reads back the parts of what is claimed, with the envelopes that are stored apart from them.

Who owns what is nothing to it: what a claim covers is read as it stands, and what has gone meanwhile, since the claim's
lease had ended, is an error.
"""

from collections.abc import Mapping, Sequence

from grafter.core.model import Envelope, Key
from grafter.errors import UnavailableError
from grafter.store import records
from grafter.store.model import Claim, Plain, PlainBatch, StoredPart
from grafter.store.records import RecordError
from grafter.store.redis.connection import Command
from grafter.store.redis.engine import Engine
from grafter.store.redis.layout import ELEMENT, GUEST, SHARED, SHARED_VERSION, VERSION, bucket_of, reference_in

_ROOT = 1


class PartReader:
    """Over an engine. Methods raise UnavailableError where parts cannot be read."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def read_plain(self, batch: PlainBatch) -> Sequence[Plain]:
        """See Store.read."""
        lists = await self._lists(batch.keys, batch.ends)
        for key, parts, end in zip(batch.keys, lists, batch.ends, strict=True):
            if len(parts) != end:
                raise UnavailableError(f"parts of {key.hex()} are gone", reason="store_down")
        envelope_of = self._engine.reader.envelope
        large: Mapping[bytes, Envelope] | None = None
        found: list[Plain] = []
        unpack, before = ELEMENT.unpack_from, ELEMENT.size
        # Parts that follow one another mostly share theirs, and to compare is cheaper than to look up.
        last_version, last, shared = None, b"", Envelope(b"", b"")
        for parts in lists:
            payloads, envelopes, ids, root = [], [], [], -1
            for i, data in enumerate(parts):
                version, facts, more, _, envelope, head, _, _ = unpack(data)
                if facts & GUEST:
                    # Its lease has ended, another replica has sent it, and this came late.
                    raise UnavailableError("the parts of a batch are gone", reason="store_down")
                begin = before + more
                middle = begin + envelope
                end = middle + head
                raw = data[begin:middle]
                if raw != last or version != last_version:
                    if version == VERSION:
                        shared = envelope_of(raw)
                    elif version == SHARED_VERSION:
                        large = await self._large(lists) if large is None else large
                        shared = large[raw]
                    else:
                        raise UnavailableError("parts were written by a newer version", reason="store_down")
                    last_version, last = version, raw
                envelopes.append(shared)
                ids.append(data[middle:end])
                payloads.append(data[end:])
                if root < 0 and facts & _ROOT:
                    root = i
            found.append((payloads, envelopes, ids, max(root, 0)))
        return found

    async def read(self, claims: Sequence[Claim]) -> Sequence[list[StoredPart] | RecordError]:
        """The parts that each claim covers, in order of arrival; the error where a newer version wrote some of them."""
        part = self._engine.reader.part
        found: list[list[StoredPart] | RecordError] = []
        lists = await self._lists([claim.key for claim in claims])
        large = await self._large(lists)
        for claim, parts in zip(claims, lists, strict=True):
            try:
                covered = [data for data in parts if int.from_bytes(data[16:24], "little") <= claim.up_to]
                found.append([part(data, large) for data in covered])
            except RecordError as error:
                found.append(error)
        return found

    async def _large(self, lists: Sequence[Sequence[bytes]]) -> Mapping[bytes, Envelope]:
        """The envelopes that these parts only refer to. Raises UnavailableError where one is not there."""
        references = {
            reference for parts in lists for data in parts if data[1] & SHARED and (reference := reference_in(data))
        }
        if not references:
            return {}
        tags = self._engine.layout.tags
        wanted = sorted(references)
        commands: list[tuple[int, Command]] = [
            (one[0], ("HGET", tags[one[0]] + b"r:" + one[1:], "b")) for one in wanted
        ]
        blobs = await self._engine.commands(commands)
        if None in blobs:
            raise UnavailableError("an envelope of held parts is gone", reason="store_down")
        # In a cluster there are several copies.
        known: dict[bytes, Envelope] = {}
        for one, blob in zip(wanted, blobs, strict=True):
            if one[1:] not in known:
                known[one[1:]] = records.decode_envelope(blob)
        return {one: known[one[1:]] for one in wanted}

    async def _lists(self, keys: Sequence[Key], ends: Sequence[int] | None = None) -> list[list[bytes]]:
        of = self._engine.layout.parts
        counts = ends if ends is not None else [0] * len(keys)
        buckets = map(bucket_of, keys)
        return await self._engine.commands(
            [(bucket, of(bucket, key, count)) for bucket, key, count in zip(buckets, keys, counts, strict=True)]
        )
