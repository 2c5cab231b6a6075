"""``receivers``: the doors in."""

import binascii
from base64 import b64decode
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, model_validator

from grafter.config.model import (
    Components,
    Count,
    FilledSecret,
    Flag,
    Model,
    PositiveDuration,
    PositiveSize,
    Secret,
    Word,
)
from grafter.config.units import Duration, Endpoint, Size, Url

API_KEY_VARIABLE = "OPENAI_API_KEY"
WEBHOOK_SECRET_VARIABLE = "OPENAI_WEBHOOK_SECRET"
DEFAULT_PROJECT = "default"
_SECRET_PREFIX = "whsec_"


class ServerTls(Model):
    """TLS for a door in."""

    cert_file: Word
    """The server's certificate chain, PEM."""
    key_file: Word
    """The private key to it, PEM."""
    client_ca_file: Word | None = None
    """Clients must show a certificate that one of these authorities signed (mTLS); null: none is asked for."""


class Cors(Model):
    """Which web pages may send from a browser."""

    allowed_origins: tuple[Word, ...] = ()
    """Origins such as `https://app.example.com`; `*` stands for any run of characters. Empty: no browser may send."""
    allowed_headers: tuple[Word, ...] = ()
    """Request headers that are allowed beside the usual ones; `*` allows all."""
    max_age: Annotated[int, Field(ge=0, strict=True)] = 0
    """Seconds for which a browser may remember the answer; 0 leaves it to the browser."""


class OtlpGrpc(Model):
    """OTLP over gRPC."""

    endpoint: Endpoint = Endpoint("localhost:4317")
    """Where to listen."""
    tls: ServerTls | None = None
    """Null: plaintext."""
    tokens: tuple[FilledSecret, ...] = ()
    """Bearer tokens, one of which a sender must show; empty: everybody may send."""
    max_recv_msg_size_mib: Count = 64
    """Largest request in MiB, before and after decompression."""


class OtlpHttp(Model):
    """OTLP over HTTP: protobuf and JSON."""

    endpoint: Endpoint = Endpoint("localhost:4318")
    """Where to listen."""
    tls: ServerTls | None = None
    """Null: plaintext."""
    tokens: tuple[FilledSecret, ...] = ()
    """Bearer tokens, one of which a sender must show; empty: everybody may send."""
    cors: Cors = Cors()
    """Which web pages may send from a browser."""
    max_request_body_size: PositiveSize = Size.parse("64MiB")
    """Largest request body, before and after decompression."""


class Protocols(Model):
    """Both protocols run; a key left out has its default."""

    grpc: OtlpGrpc = OtlpGrpc()
    """OTLP over gRPC."""
    http: OtlpHttp = OtlpHttp()
    """OTLP over HTTP."""


class OtlpReceiver(Model):
    """The app's own spans, and metrics and logs to be passed through."""

    protocols: Protocols = Protocols()
    """The protocols that it speaks."""

    def describe(self) -> str:
        grpc, http = self.protocols.grpc, self.protocols.http
        return f"grpc {grpc.endpoint}{_tls(grpc.tls)}, http {http.endpoint}{_tls(http.tls)}"


class Tee(Model):
    """Where ingested items are sent on to, so that OpenAI's dashboard keeps them."""

    endpoint: Url = Url("https://api.openai.com/v1/traces/ingest")
    """OpenAI's own ingest."""
    api_key: Secret | None = None
    """The key to send with; null: the caller's own, which needs an ingest without `tokens`."""

    @property
    def key(self) -> str | None:
        """The key to send with, None for the caller's own. An empty key is no key."""
        return (self.api_key.get_secret_value() or None) if self.api_key else None


class Ingest(Model):
    """What the Agents SDKs post to: any path that ends in `/traces/ingest`."""

    tokens: tuple[FilledSecret, ...] = ()
    """Bearer tokens, one of which a sender must show; empty: everybody may send."""
    tee: Tee | None = None
    """Send the same items on to OpenAI; null: no."""


def _base64(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value().strip()
    if text.startswith(_SECRET_PREFIX):
        digits = text.removeprefix(_SECRET_PREFIX)
        try:
            b64decode(digits + "=" * (-len(digits) % 4), validate=True)
        except (binascii.Error, ValueError):
            raise ValueError(f"is not {_SECRET_PREFIX} and base64, as OpenAI shows it") from None
    return secret


def _without_empty(secrets: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    """Drop what says nothing, such as a variable that is not set: an empty key would sign for everybody."""
    return tuple(one for one in secrets if one.get_secret_value().strip() not in ("", _SECRET_PREFIX))


WebhookSecret = Annotated[Secret, AfterValidator(_base64)]


class Project(Model):
    """What grafter may do in the name of one OpenAI project."""

    api_key: Secret = SecretStr("")
    """A standard key of the project, not an ephemeral one; empty: none."""
    webhook_secrets: Annotated[tuple[WebhookSecret, ...], AfterValidator(_without_empty)] = ()
    """Signing secrets of the project's webhook endpoint, several while one is being rotated; empty ones are dropped."""
    base_url: Url = Url("https://api.openai.com/v1")
    """Where OpenAI's API is; the key is sent there and nowhere else."""

    @property
    def key(self) -> str:
        """The key, empty where there is none."""
        return self.api_key.get_secret_value().strip()

    @property
    def secrets(self) -> tuple[str, ...]:
        """The webhook secrets."""
        return tuple(secret.get_secret_value().strip() for secret in self.webhook_secrets)


class Webhook(Model):
    """Webhooks, to `/webhooks/openai`: calls that come in, hosted sessions, and trace exports where a gateway sends
    them; OpenAI sends none today. Without a secret in any of `projects` none is taken."""

    tolerance: PositiveDuration = Duration.parse("5m")
    """How far the moment of a delivery may be from grafter's clock, either way."""


class Sessions(Model):
    """Hosted Agents sessions, whose traces are fetched."""


class Realtime(Model):
    """Realtime calls: events that apps post, and calls that are recorded beside them."""

    record: Flag = False
    """Start a recorder for each call that a webhook tells of (`realtime.call.incoming`, `live.transport.incoming`),
    with the `api_key` of that project."""
    silence: PositiveDuration = Duration.parse("90s")
    """A recorder ends after this time without an event, though its socket lives."""
    tokens: tuple[FilledSecret, ...] = ()
    """Bearer tokens, one of which a sender must show; empty: everybody may send."""


def _has_secret(project: object, secret: str | None) -> bool:
    """Whether a project, as it is written, has this webhook secret."""
    secrets = project.get("webhook_secrets") if isinstance(project, Mapping) else None
    return isinstance(secrets, list | tuple) and secret in secrets


class OpenAIReceiver(Model):
    """OpenAI's traces."""

    endpoint: Endpoint = Endpoint("localhost:4319")
    """Where to listen, over HTTP."""
    projects: dict[Word, Project] = {DEFAULT_PROJECT: Project()}  # noqa: RUF012  # pydantic copies it
    """Credentials by OpenAI project; the secret that verified a webhook picks one, else `default`, or the only one, is
    used. What `default` does not say itself it has from `${env:OPENAI_API_KEY:-}` and `${env:OPENAI_WEBHOOK_SECRET:-}`.
    """
    ingest: Ingest = Ingest()
    """What the Agents SDKs post."""
    webhook: Webhook = Webhook()
    """Signed events."""
    sessions: Sessions = Sessions()
    """Hosted Agents sessions: their traces are fetched with the project's key when a webhook tells of one, or somebody
    asks for it."""
    realtime: Realtime = Realtime()
    """Realtime calls."""

    @model_validator(mode="before")
    @classmethod
    def _of_the_environment(cls, data: Any, info: ValidationInfo) -> Any:
        """Give the default project what the environment has and the file says nothing of.

        The loader hands the environment over as the validation's context.
        """
        env = info.context or {}
        found: dict[str, object] = {}
        if env.get(API_KEY_VARIABLE):
            found["api_key"] = env[API_KEY_VARIABLE]
        secret = env.get(WEBHOOK_SECRET_VARIABLE)
        if secret:
            found["webhook_secrets"] = [secret]
        if not found or not isinstance(data, Mapping):
            return data
        projects = data.get("projects")
        if projects is None:
            projects = {DEFAULT_PROJECT: {}}
        if not isinstance(projects, Mapping) or DEFAULT_PROJECT not in projects:
            return data
        project = projects[DEFAULT_PROJECT]
        if project is None:
            project = {}
        if not isinstance(project, Mapping):
            return data
        said = {key: value for key, value in project.items() if value is not None}
        if any(_has_secret(other, secret) for other in projects.values()):
            # It was given to that one, whose key is to be used for what it signs.
            found.pop("webhook_secrets", None)
        return {**data, "projects": {**projects, DEFAULT_PROJECT: {**found, **said}}}

    @property
    def project(self) -> Project | None:
        """The project in whose name calls are recorded: ``default``, or the only one."""
        return self.projects.get(self.default_project)

    @property
    def default_project(self) -> str:
        """The name of the project that is meant where none is named."""
        return next(iter(self.projects)) if len(self.projects) == 1 else DEFAULT_PROJECT

    def describe(self) -> str:
        tee = self.ingest.tee
        signed = ", ".join(name for name, project in self.projects.items() if project.secrets)
        webhooks = f", webhooks of {signed}" if signed else ""
        return f"http {self.endpoint}" + (f", tee to {tee.endpoint}" if tee else "") + webhooks


Receiver = OtlpReceiver | OpenAIReceiver
RECEIVERS = Components({"otlp": OtlpReceiver, "openai": OpenAIReceiver})


def _tls(tls: ServerTls | None) -> str:
    if tls is None:
        return ""
    return " (mTLS)" if tls.client_ca_file else " (TLS)"
