"""The Lua texts, each with what is common to all and the settings of this store before it."""

from collections.abc import Iterable, Sequence
from hashlib import sha1
from importlib.resources import files
from struct import pack

from grafter.core.lifecycle import DueRow, due_table
from grafter.core.policy import Waits
from grafter.store.redis.framing import Words, command, word

Argument = bytes | int
Item = tuple[int, Sequence[Argument] | Words]
"""A bucket, and the arguments of a script for one key in it."""

NAMES = (
    "append",
    "link_guests",
    "guest",
    "claim",
    "lease",
    "batch",
    "settle",
    "read_totals",
    "forget",
    "add_dead_letters",
    "remove_dead_letters",
    "task",
    "first_link",
    "register_replica",
)
_WITH = {
    "settle": ("leaving", "memories", "totals"),
    "guest": ("leaving",),
    "lease": ("leaving",),
    "read_totals": ("memories", "totals"),
    "forget": ("memories", "totals"),
    "append": ("place_guest",),
    "add_dead_letters": ("dead_letters",),
    "remove_dead_letters": ("dead_letters",),
}
"""What stands before a text, behind what is common to all."""

_EVALSHA = word(b"EVALSHA")
RUBBISH_MS = 7 * 24 * 3600 * 1000
"""What nobody has touched for this long is nobody's any more. Replicas that live touch what they hold."""


class Scripts:
    """One text and one hash a script; the same for all replicas with the same settings."""

    def __init__(self, prefix: bytes, waits: Waits, *, apart: bool, max_trace_bytes: int, version: str) -> None:
        head = "\n".join(
            (
                f"-- grafter {version}",
                f"local P = {_quoted(prefix)}",
                f"local APART = {'true' if apart else 'false'}",
                f"local MAX_TRACE = {int(max_trace_bytes):d}",
                f"local REMEMBER = {int(waits.remember):d}",
                # A number would be written out anew in each command.
                f'local TTL = "{RUBBISH_MS}"',
                f"local MEMORY_TTL = {int(waits.remember) // 1_000_000 + 60_000:d}",
                f"local DUE_TABLE = {_quoted(packed(due_table(waits)))}",
                "",
            )
        )
        folder = files("grafter.store.redis") / "lua"
        common = (folder / "common.lua").read_text("utf-8")
        self.texts: dict[str, bytes] = {}
        self.hashes: dict[str, bytes] = {}
        for name in NAMES:
            own = (folder / f"{name}.lua").read_text("utf-8")
            more = [(folder / f"{one}.lua").read_text("utf-8") for one in _WITH.get(name, ())]
            text = "".join((head, common, *more, own)).encode()
            self.texts[name] = text
            # Redis names a script by its SHA-1.
            self.hashes[name] = sha1(text, usedforsecurity=False).hexdigest().encode()

    @property
    def loading(self) -> Sequence[tuple[str | bytes, ...]]:
        """The commands that give a server all of them."""
        return [("SCRIPT", "LOAD", text) for text in self.texts.values()]

    def command(self, name: str, keys: Sequence[bytes], arguments: Iterable[Words]) -> bytes:
        """The command that runs a script; ``keys`` are words already."""
        return command(Words(3 + len(keys), (_EVALSHA, word(self.hashes[name]), word(len(keys)), *keys)), arguments)


def packed(table: Iterable[DueRow]) -> bytes:
    """The due table as the scripts read it: for each kind of key three doubles, quiet, longest, and 1 where plain."""
    return b"".join([pack("<3d", *row) for row in table])


def _quoted(raw: bytes) -> str:
    return '"' + "".join(f"\\{byte:03d}" for byte in raw) + '"'
