"""``extensions.calls``: the call map."""

import re
from base64 import b64decode
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from difflib import get_close_matches
from enum import StrEnum
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated

from phonenumbers import SUPPORTED_REGIONS
from pydantic import AfterValidator, BeforeValidator, PlainSerializer, SecretStr

from grafter.calls.columns import FIELDS, ROW_IDS, WHOLE_NUMBERS
from grafter.calls.ids import CALLEE_KEYS, CALLER_KEYS, ID_KEYS, OUTCOME_KEYS, RECORDING_KEYS
from grafter.calls.number_keys import FEWEST_CHARACTERS
from grafter.config.model import (
    REDACTED,
    Component,
    Count,
    FilledSecret,
    Model,
    PositiveDuration,
    Secret,
    Word,
    text,
)
from grafter.config.problems import Finding
from grafter.config.units import Duration, Url

if TYPE_CHECKING:
    from grafter.calls.following import Follower
    from grafter.calls.sql_map import SqlCallMap
    from grafter.store.base import TaskStore
    from grafter.telemetry import Metrics

_URL = re.compile(r"sqlite:///(?!:memory:)[^?]+|(?:postgres|postgresql|postgresql\+psycopg)://[^\s/]*/\S+")
_PASSWORD = re.compile(r"(?<=://)([^@/]*):[^@]*@")
_QUERY_PASSWORD = re.compile(r"(?<=[?&]password=)[^&]*")


def _database_url(url: str) -> str:
    if not _URL.fullmatch(url):
        raise ValueError("is no URL of a database, expected sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME")
    return url


def _without_password(url: str) -> str:
    return _QUERY_PASSWORD.sub(REDACTED, _PASSWORD.sub(rf"\1:{REDACTED}@", url))


def _country(region: str) -> str:
    if region and region.upper() not in SUPPORTED_REGIONS:
        raise ValueError("is no country: two letters are, such as DE or US")
    return region.upper()


DatabaseUrl = Annotated[
    str, BeforeValidator(text), AfterValidator(_database_url), PlainSerializer(_without_password, return_type=str)
]
Region = Annotated[str, BeforeValidator(text), AfterValidator(_country)]


class PhoneKeeping(StrEnum):
    """How phone numbers are kept."""

    HMAC = "hmac"
    PLAIN = "plain"


class CallKeysConfig(Model):
    """Attributes of the app's spans, and keys of OpenAI's metadata, that say something of a call."""

    ids: tuple[Word, ...] = ID_KEYS
    """Their values are ids of the call; a trace with one of these is a call's."""
    caller: tuple[Word, ...] = CALLER_KEYS
    """The number that calls; the first that is there."""
    callee: tuple[Word, ...] = CALLEE_KEYS
    """The number that is called."""
    outcome: tuple[Word, ...] = OUTCOME_KEYS
    """How the call ended, in a word."""
    recording: tuple[Word, ...] = RECORDING_KEYS
    """Where its recording is."""


class TableConfig(Model):
    """A table that is there already, into which calls are written too."""

    url: DatabaseUrl | None = None
    """The database that it is in; null: that of the calls."""
    name: Word
    """Its name, with its schema before a dot where it needs one."""
    id_column: Word
    """The column by which its row of a call is found; where there is none it is made."""
    id: Word = "twilio"
    """Which of a call's ids stands in `id_column`; a call has a row for each that it has of this kind."""
    columns: dict[Word, Word]
    """Its columns, and what of a call is written into each."""

    def findings(self) -> Iterator[Finding]:
        if self.id not in ROW_IDS:
            yield Finding(("id",), f"{self.id}: is no id of a call; there are {', '.join(ROW_IDS)}")
        if not self.columns:
            yield Finding(("columns",), "names no column")
        if self.id_column in self.columns:
            # A second id of a call would be overwritten by its first.
            yield Finding(("columns", self.id_column), f"{self.id_column}: is the id_column, in which the id stands")
        for column, what in self.columns.items():
            if what not in FIELDS:
                nearest = get_close_matches(what, FIELDS, 1)
                hint = f"did you mean {nearest[0]}?" if nearest else f"there are {', '.join(FIELDS)}"
                yield Finding(("columns", column), f"{what}: nothing of a call has this name; {hint}")

    def describe(self) -> str:
        return f"table {self.name}"


class CallWebhookConfig(Model):
    """Somebody who is notified when the trace of a call has left."""

    url: Url
    """Where it is posted to."""
    secret: FilledSecret
    """What it is signed with, as Standard Webhooks have it: `whsec_` and base64, or any text."""

    @property
    def name(self) -> str:
        """By which its part of the outbox is known."""
        return f"webhook {sha256(self.url.encode()).hexdigest()[:16]}"

    def findings(self) -> Iterator[Finding]:
        text = self.secret.get_secret_value()
        if text.startswith("whsec_"):
            try:
                key = b64decode(text.removeprefix("whsec_") + "==", validate=True)
            except ValueError:
                key = b""
            if not key:
                yield Finding(("secret",), "is not whsec_ and base64")


class CallsExtension(Component):
    """The call map: which calls there were, of which numbers, and where their traces are."""

    url: DatabaseUrl = "sqlite:///./grafter-data/calls.db"
    """Where it is kept: `sqlite:///PATH`, or `postgresql://USER:PASSWORD@HOST/NAME`, which several grafters share."""
    phone: PhoneKeeping = PhoneKeeping.HMAC
    """`hmac`: of a number a keyed hash, by which it is found, and the last four digits. `plain`: the number too."""
    region: Region = ""
    """Two letters (`DE`): numbers without a country are read as this country's."""
    number_key: Secret = SecretStr("")
    """A key under which the hashes of numbers stand in the database; empty: none. 16 characters at least."""
    old_number_key: Secret = SecretStr("")
    """The one before it, until `grafter reindex` has been through; empty: none."""
    keep: PositiveDuration = Duration.parse("720h")
    """How long a call is kept."""
    keep_traces: PositiveDuration = Duration.parse("168h")
    """How long its joined trace is kept with it, for the page's waterfall."""
    tokens: tuple[FilledSecret, ...] = ()
    """Bearer tokens of `/api/calls`, one of which a sender must show. Empty: everybody may post, and links to calls are
    for processes of this machine."""
    lookups_per_minute: Count = 60
    """How often one may look up calls by a number."""
    keys: CallKeysConfig = CallKeysConfig()
    """Where calls are named."""
    table: TableConfig | None = None
    """A table of yours that calls are written into too; null: none."""
    webhooks: tuple[CallWebhookConfig, ...] = ()
    """Who is notified when the trace of a call has left."""

    def describe(self) -> str:
        return ", ".join(
            [
                _without_password(self.url),
                *([] if self.table is None else [self.table.describe()]),
                *[f"webhook to {one.url}" for one in self.webhooks],
            ]
        )

    def findings(self) -> Iterator[Finding]:
        for name in ("number_key", "old_number_key"):
            if 0 < len(getattr(self, name).get_secret_value()) < FEWEST_CHARACTERS:
                yield Finding((name,), f"has fewer than {FEWEST_CHARACTERS} characters: it could be guessed")
        if self.table is not None and self.phone is not PhoneKeeping.PLAIN:
            for column, what in self.table.columns.items():
                if what in WHOLE_NUMBERS:
                    message = f"{what}: whole numbers are kept with phone: plain alone"
                    yield Finding(("table", "columns", column), message)
        named = [one.name for one in self.webhooks]
        if len(set(named)) < len(named):
            yield Finding(("webhooks",), "names one address twice")

    def open(
        self,
        tasks: "TaskStore",
        secret: bytes,
        metrics: "Metrics",
        clock: Callable[[], int],
        *,
        serve: bool = True,
        webhooks: Sequence["Follower"] = (),
    ) -> AbstractAsyncContextManager["SqlCallMap"]:
        """The call map, until left. ``secret``: the key of the numbers' hashes; ``webhooks``: those of the config, as
        they are notified. Raises OSError and ValueError."""
        from grafter.calls.database import CallDatabase
        from grafter.calls.engine import open_engine
        from grafter.calls.number_keys import NumberKeys
        from grafter.calls.sql_map import Keep, Lookups, Numbers, SqlCallMap, serving
        from grafter.calls.user_table import Place, UserTable
        from grafter.calls.writing import Follows

        table = None
        if self.table is not None:
            place = Place(self.table.name, self.table.id_column, self.table.id, self.table.columns)
            table = UserTable(open_engine(self.table.url or self.url, own=False), place, clock)
        tables = [] if table is None else [table]
        follows = [*(Follows(one.name) for one in tables), *(Follows(one.name, False) for one in self.webhooks)]
        number_keys = NumberKeys(self.number_key.get_secret_value(), self.old_number_key.get_secret_value())
        database = CallDatabase(open_engine(self.url), number_keys, follows)
        numbers = Numbers(secret, self.region, self.phone is PhoneKeeping.PLAIN)
        lookups = Lookups(self.lookups_per_minute)
        followers = [*tables, *webhooks] if serve else []
        calls = SqlCallMap(database, tasks, numbers, lookups, metrics, clock, followers)
        return serving(calls, Keep(int(self.keep), int(self.keep_traces)), table, serve=serve)
