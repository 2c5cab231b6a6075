"""Who may see the page, and what of it: roles, sessions, and the proofs that a form came from this page. Pure.

A browser cannot send a header that nobody gave it, so a bearer token is entered once in a form and becomes a session
cookie; programs send the token itself. Where neither tokens nor a proxy are set, only this machine's own browsers get
in. Cookies and proofs are signed, so nothing is kept of who is logged in; a new key logs everybody out.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

SESSION = "grafter_session"
"""The cookie of who has entered a token."""
VISIT = "grafter_visit"
"""The cookie that the proofs of everybody else are bound to."""
LINK = "grafter_link"
"""The cookie of who came by a link to one call; it is sent to that call's addresses alone."""
SESSION_SECONDS = 12 * 3600


class Role(StrEnum):
    """What somebody may do."""

    LOOK_UP = "look_up"
    NUMBERS = "numbers"
    CONTENT = "content"
    FORGET = "forget"


ALL_ROLES = tuple(Role)

_ROLE_WORDS = {
    Role.LOOK_UP: "look up calls",
    Role.NUMBERS: "see whole numbers",
    Role.CONTENT: "see content",
    Role.FORGET: "forget numbers",
}


@dataclass(frozen=True, slots=True)
class PageRequest:
    local: bool
    """From this machine, by no proxy, for a name that is this machine's."""
    peer: str
    """The other end's address; empty where there is none."""
    host: str
    """Of the request, with or without a port."""
    headers: Mapping[str, str]
    """By name in any case."""
    cookies: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Viewer:
    who: str
    """For the log of lookups."""
    roles: frozenset[Role]
    bound_to: str
    """What a proof of this viewer's forms is bound to; empty where none is needed, for no browser asks."""
    by_cookie: bool = False
    only: str = ""
    """The key of the one call that they may look at; empty: any."""

    def may(self, role: Role) -> bool:
        return role in self.roles

    @property
    def roles_words(self) -> str:
        return ", ".join(_ROLE_WORDS[role] for role in Role if role in self.roles)


@dataclass(frozen=True, slots=True)
class Access:
    """Who may see what, as it was configured."""

    tokens: tuple[tuple[str, str, frozenset[Role]], ...] = ()
    """Token, name, roles."""
    local_roles: frozenset[Role] = frozenset(ALL_ROLES)
    proxy_header: str = ""
    proxy_peers: tuple[IPv4Network | IPv6Network, ...] = ()
    proxy_roles: frozenset[Role] = frozenset()
    hosts: tuple[str, ...] = ()
    endpoint: str = "localhost:4320"
    public: str = ""
    """The name at which people reach the page, where the config says so; in lower case."""

    @property
    def open_to_local(self) -> bool:
        """Only this machine gets in."""
        return not self.tokens and not self.proxy_header

    def answers_for(self, request: PageRequest) -> bool:
        """Whether this page is called by a name that it has: a page elsewhere may make any name point here."""
        name = host_name(request.host)
        address = _address(name)
        if (
            name == "localhost"
            or name in {each.lower() for each in self.hosts}
            or (address is not None and address.is_loopback)
        ):
            return True
        everywhere = address is not None and address.is_unspecified
        if name and (name == self.public or (name == host_name(self.endpoint) and not everywhere)):
            return True
        return not self.open_to_local and not self.hosts

    def viewer(self, request: PageRequest, signer: "Signer", now: int) -> Viewer | None:
        """Who asks; None for nobody who may. ``now``: Unix seconds."""
        visit = request.cookies.get(VISIT, "")
        who = request.headers.get(self.proxy_header, "").strip() if self.proxy_header else ""
        if who and self._is_proxy(request.peer):
            return Viewer(who[:80], self.proxy_roles, f"visit {visit}")
        scheme, _, credentials = request.headers.get("Authorization", "").strip().partition(" ")
        if scheme.lower() == "bearer" and (found := self.token(credentials.strip())) is not None:
            return Viewer(found[1], found[2], "")
        session = request.cookies.get(SESSION, "")
        for token, name, roles in self.tokens:
            if signer.session_holds(session, token, now):
                return Viewer(name, roles, f"session {session}", by_cookie=True)
        if self.open_to_local and request.local:
            return Viewer("this machine", self.local_roles, f"visit {visit}")
        return None

    def token(self, given: str) -> tuple[str, str, frozenset[Role]] | None:
        """The token that was given; how long it takes does not tell how much of it was right."""
        found = None
        for each in self.tokens:
            if hmac.compare_digest(given.encode("utf-8", "surrogateescape"), each[0].encode()):
                found = each
        return found

    def _is_proxy(self, peer: str) -> bool:
        address = _address(peer.partition("%")[0])
        if address is None:
            return False
        address = getattr(address, "ipv4_mapped", None) or address
        return any(address in network for network in self.proxy_peers)


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs sessions and proofs under a key that no other process needs."""

    key: bytes = field(repr=False)

    def session(self, token: str, nonce: str, now: int) -> str:
        """The cookie of who has entered this token; holds for SESSION_SECONDS."""
        return f"{now + SESSION_SECONDS}.{nonce}.{self._sign('session', str(now + SESSION_SECONDS), nonce, token)}"

    def session_holds(self, cookie: str, token: str, now: int) -> bool:
        """Whether a cookie was made for this token and has not ended."""
        until, _, rest = cookie.partition(".")
        nonce, _, signature = rest.partition(".")
        if not until.isascii() or not until.isdigit() or len(until) > 12 or int(until) <= now:
            return False
        return hmac.compare_digest(signature.encode(), self._sign("session", until, nonce, token).encode())

    def proof(self, bound_to: str) -> str:
        """What a form of this page carries."""
        return self._sign("form", bound_to)

    def proves(self, given: str, bound_to: str) -> bool:
        """Whether a form came from this page."""
        return bool(bound_to) and hmac.compare_digest(given.encode("utf-8", "replace"), self.proof(bound_to).encode())

    def _sign(self, *words: str) -> str:
        text = "".join(f"{len(word)}:{word}" for word in words).encode("utf-8", "replace")
        return hmac.new(self.key, text, hashlib.sha256).hexdigest()


@dataclass(slots=True)
class Rate:
    """So many of something a minute, for each viewer; ``now`` in seconds of a clock that never goes back."""

    per_minute: int
    _spent: dict[str, tuple[float, float]] = field(default_factory=dict)
    _most: int = 10_000

    def allows(self, who: str, now: float) -> bool:
        """Whether one more is allowed; it is counted then."""
        used, at = self._spent.get(who, (0.0, now))
        used = max(0.0, used - (now - at) * self.per_minute / 60)
        if used + 1 > self.per_minute:
            return False
        if len(self._spent) >= self._most and who not in self._spent:
            # Whoever has not asked for longest has most of their minute back.
            del self._spent[min(self._spent, key=lambda each: self._spent[each][1])]
        self._spent[who] = (used + 1, now)
        return True


@dataclass(slots=True)
class Searches:
    """What was searched for, by a name that says nothing of it and that only who searched can use."""

    seconds: float = 1800.0
    most: int = 5_000
    _kept: dict[str, tuple[str, str, float]] = field(default_factory=dict)

    def keep(self, name: str, text: str, who: str, now: float) -> None:
        """Keep a text under a name that nobody can guess."""
        for old in [each for each, (_, _, at) in self._kept.items() if now - at > self.seconds]:
            del self._kept[old]
        while len(self._kept) >= self.most:
            del self._kept[next(iter(self._kept))]
        self._kept[name] = (text, who, now)

    def text(self, name: str, who: str, now: float) -> str | None:
        """What was searched for; None where it has ended, never was, or is somebody else's."""
        text, whose, at = self._kept.get(name, ("", "", 0.0))
        return text if text and whose == who and now - at <= self.seconds else None


def host_name(host: str) -> str:
    """A Host without its port, in lower case, IPv6 without brackets."""
    host = host.strip().lower()
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0].removesuffix(".")


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None
