"""What a URL says about where Redis is: the library's own URLs, and two schemes for what it has none for."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from urllib.parse import parse_qs, unquote

from redis.asyncio.connection import parse_url


class Kind(StrEnum):
    SINGLE = "single"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


class AddressError(ValueError):
    """A URL that cannot be used, with what is wrong with it."""


Peer = tuple[str, int]
"""Host and port; for a Unix socket its path and 0."""


@dataclass(frozen=True, slots=True)
class Address:
    kind: Kind
    peers: tuple[Peer, ...]
    """The server; or the sentinels; or some nodes of the cluster."""
    login: Mapping[str, Any]
    """What the library's connections take of it: user name, password, number of the database."""
    tls: bool = False
    master: str = ""
    """The name that Sentinel knows the server by."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Of TLS: ca_file, cert_file, key_file."""
    sentinel_login: Mapping[str, Any] = field(default_factory=dict)
    """As ``login``, for the sentinels themselves."""

    @property
    def shown(self) -> str:
        """For people: without the password."""
        return ", ".join(host if port == 0 else f"{host}:{port}" for host, port in self.peers)

    def tls_context(self) -> ssl.SSLContext | None:
        """None without TLS. Raises OSError when a file cannot be read."""
        if not self.tls:
            return None
        # With an authority of one's own the system's are not trusted; the library would trust both.
        context = ssl.create_default_context(cafile=self.files.get("ca_file"))
        if "cert_file" in self.files:
            context.load_cert_chain(self.files["cert_file"], self.files.get("key_file"))
        return context


_SCHEMES = {
    "redis": Kind.SINGLE,
    "unix": Kind.SINGLE,
    "redis+sentinel": Kind.SENTINEL,
    "redis+cluster": Kind.CLUSTER,
}
_FORMS = "redis://, rediss://, unix://, redis+sentinel://, rediss+sentinel://, redis+cluster:// or rediss+cluster://"
_FILES = {"ca_file", "cert_file", "key_file"}
_SENTINEL = {"sentinel_username": "username", "sentinel_password": "password"}
_QUERY = {"db", *_FILES}
_PORTS = {Kind.SINGLE: 6379, Kind.SENTINEL: 26379, Kind.CLUSTER: 6379}


def parse(url: str) -> Address:
    """Read a URL. Raises AddressError, with a message that holds no password."""
    scheme, separator, rest = url.partition("://")
    tls = scheme.startswith("rediss")
    kind = _SCHEMES.get(scheme.replace("rediss", "redis", 1))
    if not separator or kind is None:
        raise AddressError(f"a URL of Redis begins with {_FORMS}")
    rest, _, query = rest.partition("?")
    options = _options(query, {*_QUERY, *_SENTINEL} if kind is Kind.SENTINEL else _QUERY)
    files = {name: options[name] for name in _FILES if options.get(name)}
    if scheme == "unix":
        found = parse_url(f"unix://{rest}")
        if not rest.rpartition("@")[2].startswith("/"):
            raise AddressError("unix:// wants an absolute path, as in unix:///run/redis.sock")
        login = _login(found, _database(options.get("db", "")))
        return Address(kind, ((found["path"], 0),), login)
    # Several hosts are more than a URL has, so each is given to the library as one of its own.
    place, _, path = rest.partition("/")
    credentials, at, hosts = place.rpartition("@")
    try:
        each = [parse_url(f"redis://{credentials}{at}{host}") for host in hosts.split(",")]
    except ValueError as error:
        raise AddressError("a host and its port cannot be read") from error
    segments = [segment for segment in path.split("/") if segment]
    master = ""
    if kind is Kind.SENTINEL:
        if not segments:
            raise AddressError("the name of the master is missing, as in redis+sentinel://h1:26379,h2:26379/mymaster/0")
        master = unquote(segments.pop(0))
    elif kind is Kind.SINGLE and len(each) > 1:
        raise AddressError("several hosts want redis+sentinel:// or redis+cluster://")
    if len(segments) > 1:
        raise AddressError("there is more in the path than the number of a database")
    database = _database(segments[0] if segments else options.get("db", ""))
    if kind is Kind.CLUSTER and database:
        raise AddressError("a cluster has database 0 only")
    peers = tuple((one.get("host", "localhost"), one.get("port", _PORTS[kind])) for one in each)
    sentinel_login = {key: options[name] for name, key in _SENTINEL.items() if name in options}
    return Address(kind, peers, _login(each[0], database), tls, master, files, sentinel_login)


def _options(query: str, known: set[str]) -> dict[str, str]:
    options = {name: values[-1] for name, values in parse_qs(query).items()}
    for name in options:
        if name not in known:
            raise AddressError(f"the option {name!r} is not known, expected one of {', '.join(sorted(known))}")
    return options


def _login(found: Mapping[str, Any], database: int) -> dict[str, Any]:
    return {"db": database, **{name: found[name] for name in ("username", "password") if name in found}}


def _database(text: str) -> int:
    if not text:
        return 0
    if not text.isdecimal():
        raise AddressError(f"the database is {text!r}, expected a number")
    return int(text)
