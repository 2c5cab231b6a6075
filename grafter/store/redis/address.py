"""What a URL says about where Redis is."""

from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import parse_qs, unquote, urlsplit

PORT, SENTINEL_PORT = 6379, 26379


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
    tls: bool = False
    username: str = ""
    password: str = ""
    database: int = 0
    master: str = ""
    """The name that Sentinel knows the server by."""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""

    @property
    def shown(self) -> str:
        """For people: without the password."""
        return ", ".join(host if port == 0 else f"{host}:{port}" for host, port in self.peers)


_SCHEMES = {
    "redis": (Kind.SINGLE, False),
    "rediss": (Kind.SINGLE, True),
    "unix": (Kind.SINGLE, False),
    "redis+sentinel": (Kind.SENTINEL, False),
    "rediss+sentinel": (Kind.SENTINEL, True),
    "redis+cluster": (Kind.CLUSTER, False),
    "rediss+cluster": (Kind.CLUSTER, True),
}
_FORMS = "redis://, rediss://, unix://, redis+sentinel://, rediss+sentinel://, redis+cluster:// or rediss+cluster://"
_QUERY = {"ca_file", "cert_file", "key_file", "db"}


def parse(url: str) -> Address:
    """Read a URL. Raises AddressError, with a message that holds no password."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in _SCHEMES:
        raise AddressError(f"a URL of Redis begins with {_FORMS}")
    kind, tls = _SCHEMES[scheme]
    # Several hosts are more than urlsplit wants to take apart, so they are taken apart here.
    rest, _, query = rest.partition("?")
    options = _options(query)
    place, _, path = rest.partition("/") if scheme != "unix" else ("", "", rest)
    credentials, at, hosts = place.rpartition("@")
    if scheme == "unix":
        credentials, at, path = rest.rpartition("@")
    username, _, password = credentials.partition(":") if at else ("", "", "")
    common = {
        "tls": tls,
        "username": unquote(username),
        "password": unquote(password),
        "ca_file": options.get("ca_file", ""),
        "cert_file": options.get("cert_file", ""),
        "key_file": options.get("key_file", ""),
    }
    if scheme == "unix":
        if not path.startswith("/"):
            raise AddressError("unix:// wants an absolute path, as in unix:///run/redis.sock")
        database = _database(options.get("db", ""))
        return Address(kind, ((unquote(path), 0),), database=database, **common)  # type: ignore[arg-type]
    peers = tuple(_peer(host, SENTINEL_PORT if kind is Kind.SENTINEL else PORT) for host in hosts.split(","))
    segments = [segment for segment in path.split("/") if segment]
    master = ""
    if kind is Kind.SENTINEL:
        if not segments:
            raise AddressError("the name of the master is missing, as in redis+sentinel://h1:26379,h2:26379/mymaster/0")
        master = unquote(segments.pop(0))
    elif kind is Kind.SINGLE and len(peers) > 1:
        raise AddressError("several hosts want redis+sentinel:// or redis+cluster://")
    if len(segments) > 1:
        raise AddressError("there is more in the path than the number of a database")
    database = _database(segments[0] if segments else options.get("db", ""))
    if kind is Kind.CLUSTER and database:
        raise AddressError("a cluster has database 0 only")
    return Address(kind, peers, database=database, master=master, **common)  # type: ignore[arg-type]


def _options(query: str) -> dict[str, str]:
    options = {name: values[-1] for name, values in parse_qs(query).items()}
    for name in options:
        if name not in _QUERY:
            raise AddressError(f"the option {name!r} is not known, expected one of {', '.join(sorted(_QUERY))}")
    return options


def _database(text: str) -> int:
    if not text:
        return 0
    if not text.isdecimal():
        raise AddressError(f"the database is {text!r}, expected a number")
    return int(text)


def _peer(text: str, port: int) -> Peer:
    try:
        parts = urlsplit(f"//{text}")
        return parts.hostname or "localhost", parts.port or port
    except ValueError as error:
        raise AddressError(f"{text!r} is no host and port") from error
