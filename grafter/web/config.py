"""``extensions.lookup``: where the lookup page is, who may see what, and where it links to."""

import ipaddress
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field

from grafter.config.model import Component, FilledSecret, Model, PositiveDuration
from grafter.config.units import Duration, Endpoint, Url
from grafter.web.access import ALL_ROLES, Access, Role
from grafter.web.links import FIELDS, unknown_fields

if TYPE_CHECKING:
    from grafter.calls.base import CallMap
    from grafter.calls.call_link import CallLinks


def _network(text: str) -> str:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text}: is no IP address or network, such as 10.0.0.7 or 10.0.0.0/8") from None
    return text


def _template(text: str) -> str:
    if text and not text.startswith(("https://", "http://")):
        raise ValueError("does not begin with https:// or http://")
    if odd := unknown_fields(text):
        raise ValueError(f"{{{odd[0]}}} is no field; there are {', '.join(FIELDS)}")
    return text


Roles = tuple[Role, ...]


class Token(Model):
    """A bearer token of the page: entered in its login form, or sent by a program."""

    token: FilledSecret
    """The token."""
    name: str = "token"
    """Who has it, for the log of lookups."""
    roles: Roles = (Role.LOOK_UP,)
    """What it allows: `look_up`, `numbers` (whole phone numbers), `content` (what was said and what an app wrote into
    its spans), `forget` (remove a number's calls)."""


class Proxy(Model):
    """A proxy that has asked people who they are, such as oauth2-proxy."""

    header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")] = "X-Forwarded-User"
    """The header in which it says who asks; without it nobody gets in."""
    peers: tuple[Annotated[str, AfterValidator(_network)], ...] = ("127.0.0.1", "::1")
    """Addresses or networks from which the header is believed."""
    roles: Roles = (Role.LOOK_UP,)
    """What everybody that it lets through may do."""


class LookupExtension(Component):
    """The lookup page: a phone number in, a call's verdict out."""

    endpoint: Endpoint = Endpoint("localhost:4320")
    """Where to listen, over HTTP."""
    tokens: tuple[Token, ...] = ()
    """Bearer tokens. Without any, and without a proxy, only browsers of this machine get in, with `roles`."""
    proxy: Proxy | None = None
    """A proxy that says who asks; null: none is believed."""
    roles: Roles = ALL_ROLES
    """What this machine's own browsers may do where there are neither tokens nor a proxy."""
    hosts: tuple[str, ...] = ()
    """Names under which the page may be asked for, beside localhost, the endpoint's own and that of `address`. With
    tokens or a proxy and none here: any."""
    address: Url | None = None
    """Where people reach the page, for links to it; null: at the endpoint."""
    link_expires: PositiveDuration = Duration.parse("24h")
    """How long a link to one call opens it (`GET /api/calls/{id}/link`)."""
    links: dict[str, Annotated[str, AfterValidator(_template)]] = Field(
        default_factory=lambda: {
            "OpenAI": "https://platform.openai.com/logs/trace?trace_id={openai_trace_id}",
            "Twilio": "https://www.twilio.com/console/voice/calls/logs/{call_sid}",
        }
    )
    """Addresses of a call elsewhere, by label, with fields in braces."""

    def describe(self) -> str:
        tokens = [f"{len(self.tokens)} token{'' if len(self.tokens) == 1 else 's'}"] if self.tokens else []
        proxy = [f"a proxy's {self.proxy.header}"] if self.proxy is not None else []
        return f"http {self.endpoint}, opened by {' or '.join(tokens + proxy) or 'browsers of this machine alone'}"

    def access(self) -> Access:
        return Access(
            tokens=tuple((one.token.get_secret_value(), one.name, frozenset(one.roles)) for one in self.tokens),
            local_roles=frozenset(self.roles),
            proxy_header=self.proxy.header if self.proxy else "",
            proxy_peers=tuple(ipaddress.ip_network(one, strict=False) for one in self.proxy.peers)
            if self.proxy
            else (),
            proxy_roles=frozenset(self.proxy.roles) if self.proxy else frozenset(),
            hosts=self.hosts,
            endpoint=str(self.endpoint),
            public=self.address.host if self.address is not None else "",
        )

    def public_address(self, port: int | None = None) -> str:
        """Where people reach the page; ``port``: at which it listens, where that is known."""
        if self.address is not None:
            return self.address.rstrip("/")
        host = "localhost" if self.endpoint.host in ("", "0.0.0.0", "::", "[::]") else self.endpoint.host
        return f"http://{f'[{host}]' if ':' in host else host}:{port or self.endpoint.port}"

    @asynccontextmanager
    async def open(self, calls: "CallMap", version: str, shared: "CallLinks | None" = None) -> AsyncIterator[int]:
        """Serve the page over a call map while the context is open; yields the port. ``shared``: opens links to single
        calls."""
        from grafter.receiver.http_server import serving
        from grafter.web.app import page_app

        app = page_app(calls, self.access(), self.links, version, shared=shared)
        async with serving(app, str(self.endpoint), None, 2.0) as (_, port):
            yield port
