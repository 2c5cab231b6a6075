"""``extensions.calls``: the call map."""

import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

from phonenumbers import SUPPORTED_REGIONS
from pydantic import AfterValidator, BeforeValidator, PlainSerializer

from grafter.calls.ids import CALLEE_KEYS, CALLER_KEYS, ID_KEYS, OUTCOME_KEYS, RECORDING_KEYS
from grafter.config.model import REDACTED, Component, Count, FilledSecret, Model, PositiveDuration, Word, text
from grafter.config.units import Duration

if TYPE_CHECKING:
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


class CallsExtension(Component):
    """The call map: which calls there were, of which numbers, and where their traces are."""

    url: DatabaseUrl = "sqlite:///./grafter-data/calls.db"
    """Where it is kept: `sqlite:///PATH`, or `postgresql://USER:PASSWORD@HOST/NAME`, which several grafters share."""
    phone: PhoneKeeping = PhoneKeeping.HMAC
    """`hmac`: of a number a keyed hash, by which it is found, and the last four digits. `plain`: the number too."""
    region: Region = ""
    """Two letters (`DE`): numbers without a country are read as this country's."""
    keep: PositiveDuration = Duration.parse("720h")
    """How long a call is kept."""
    keep_traces: PositiveDuration = Duration.parse("168h")
    """How long its joined trace is kept with it, for the page's waterfall."""
    tokens: tuple[FilledSecret, ...] = ()
    """Bearer tokens of `POST /api/calls`, one of which a sender must show; empty: everybody may send."""
    lookups_per_minute: Count = 60
    """How often one may look up calls by a number."""
    keys: CallKeysConfig = CallKeysConfig()
    """Where calls are named."""

    def describe(self) -> str:
        return _without_password(self.url)

    def open(
        self,
        tasks: "TaskStore",
        secret: bytes,
        metrics: "Metrics",
        clock: Callable[[], int],
        *,
        serve: bool = True,
    ) -> AbstractAsyncContextManager["SqlCallMap"]:
        """The call map, until left. ``secret``: the key of the numbers' hashes. Raises OSError and ValueError."""
        from grafter.calls.sql_map import Keep, Numbers, call_map

        return call_map(
            self.url,
            tasks,
            Numbers(secret, self.region, self.phone is PhoneKeeping.PLAIN),
            Keep(int(self.keep), int(self.keep_traces)),
            metrics,
            clock,
            lookups_per_minute=self.lookups_per_minute,
            serve=serve,
        )
