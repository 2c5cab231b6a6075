"""``receivers``: the doors in."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, SecretStr, ValidationInfo, model_validator

from grafter.config.model import (
    Components,
    Count,
    FilledSecret,
    Model,
    PositiveDuration,
    PositiveSize,
    Secret,
    Word,
)
from grafter.config.units import Duration, Endpoint, Size, Url

API_KEY_VARIABLE = "OPENAI_API_KEY"
DEFAULT_PROJECT = "default"


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


class Project(Model):
    """What grafter may do in the name of one OpenAI project."""

    api_key: Secret = SecretStr("")
    """A standard key of the project, not an ephemeral one; empty: none."""
    base_url: Url = Url("https://api.openai.com/v1")
    """Where OpenAI's API is; the key is sent there and nowhere else."""

    @property
    def key(self) -> str:
        """The key, empty where there is none."""
        return self.api_key.get_secret_value().strip()


class Sessions(Model):
    """Hosted Agents sessions, whose traces are fetched."""


class Realtime(Model):
    """Realtime calls: events that apps post, and calls that are recorded beside them."""

    silence: PositiveDuration = Duration.parse("90s")
    """A recorder ends after this time without an event, though its socket lives."""
    tokens: tuple[FilledSecret, ...] = ()
    """Bearer tokens, one of which a sender must show; empty: everybody may send."""


class OpenAIReceiver(Model):
    """OpenAI's traces."""

    endpoint: Endpoint = Endpoint("localhost:4319")
    """Where to listen, over HTTP."""
    projects: dict[Word, Project] = {DEFAULT_PROJECT: Project()}  # noqa: RUF012  # pydantic copies it
    """Credentials by OpenAI project. `default`, or the only one, is used where none is named; without an `api_key` of
    its own, `default` has `${env:OPENAI_API_KEY:-}`."""
    ingest: Ingest = Ingest()
    """What the Agents SDKs post."""
    sessions: Sessions = Sessions()
    """Hosted Agents sessions: their traces are fetched with the project's key when somebody asks for it."""
    realtime: Realtime = Realtime()
    """Realtime calls."""

    @model_validator(mode="before")
    @classmethod
    def _key_of_the_environment(cls, data: Any, info: ValidationInfo) -> Any:
        """Give the default project the environment's key where the file says nothing of one.

        The loader hands the environment over as the validation's context.
        """
        key = (info.context or {}).get(API_KEY_VARIABLE)
        if not key or not isinstance(data, Mapping):
            return data
        projects = data.get("projects")
        if projects is None:
            projects = {DEFAULT_PROJECT: {}}
        if not isinstance(projects, Mapping) or DEFAULT_PROJECT not in projects:
            return data
        project = projects[DEFAULT_PROJECT]
        if project is None:
            project = {}
        if isinstance(project, Mapping) and project.get("api_key") is None:
            return {**data, "projects": {**projects, DEFAULT_PROJECT: {**project, "api_key": key}}}
        return data

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
        return f"http {self.endpoint}" + (f", tee to {tee.endpoint}" if tee else "")


Receiver = OtlpReceiver | OpenAIReceiver
RECEIVERS = Components({"otlp": OtlpReceiver, "openai": OpenAIReceiver})


def _tls(tls: ServerTls | None) -> str:
    if tls is None:
        return ""
    return " (mTLS)" if tls.client_ca_file else " (TLS)"
