"""The key of the index of numbers, which can be changed without the numbers.

What a source says of a number is its keyed hash under the store's secret (``core.calls``): 16 bytes. In the calls'
database that hash stands encrypted under a key of the config: one block of AES, so equal numbers stay equal and can be
found. A new key decrypts nothing but hashes, and whoever has a copy of the database needs both secrets to try numbers.
Source: FIPS 197; one block alone is what the mode ECB is right for.
"""

from dataclasses import dataclass, field, replace
from hashlib import sha256

from grafter.calls.model import CallRecord
from grafter.core.calls import Phone

FEWEST_CHARACTERS = 16


@dataclass(frozen=True, slots=True)
class NumberKeys:
    """The key that is written with, and the one before it; an empty one encrypts nothing."""

    current: str = field(default="", repr=False)
    old: str = field(default="", repr=False)

    @property
    def id(self) -> str:
        """By which a record says under which key it is; empty for none."""
        return _id(self.current)

    @property
    def old_id(self) -> str:
        return _id(self.old)

    def kept(self, digest: str) -> str:
        """As a hash is written."""
        return _crypt(self.current, digest, encrypt=True)

    def forms(self, digest: str) -> tuple[str, ...]:
        """As it may stand there until all is written anew."""
        keys = dict.fromkeys((self.current, self.old, "") if self.current or self.old else ("",))
        return tuple(_crypt(key, digest, encrypt=True) for key in keys)

    def again(self, digest: str) -> str:
        """A hash that stands under the old key, under the new one."""
        return self.kept(_crypt(self.old, digest, encrypt=False))

    def opened(self, record: CallRecord) -> CallRecord:
        """As its source said it; one under a key that nobody has stays as it stands."""
        if not record.number_key:
            return record
        key = {self.old_id: self.old, self.id: self.current}.get(record.number_key)
        return record if key is None else _changed(record, key, "", encrypt=False)

    def closed(self, record: CallRecord) -> CallRecord:
        return record if record.number_key else _changed(record, self.current, self.id, encrypt=True)


def _changed(record: CallRecord, key: str, key_id: str, *, encrypt: bool) -> CallRecord:
    sides = [
        None if phone is None else Phone(_crypt(key, phone.hash, encrypt=encrypt), phone.last_four)
        for phone in (record.caller, record.callee)
    ]
    if sides == [None, None] or not key:
        return record
    return replace(record, caller=sides[0], callee=sides[1], number_key=key_id)


def _id(key: str) -> str:
    return sha256(b"key of numbers\0" + key.encode()).hexdigest()[:16] if key else ""


def _crypt(key: str, digest: str, *, encrypt: bool) -> str:
    if not key:
        return digest
    # Only who has a key needs the library.
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    cipher = Cipher(algorithms.AES(sha256(key.encode()).digest()), modes.ECB())
    work = cipher.encryptor() if encrypt else cipher.decryptor()
    return (work.update(bytes.fromhex(digest)) + work.finalize()).hex()
