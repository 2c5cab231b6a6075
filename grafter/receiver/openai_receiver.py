"""``receivers.openai``: its keys, and how its endpoints are opened, all of them at one address."""

import binascii
import time
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, SecretStr, ValidationInfo, model_validator

from grafter.config.model import FilledSecret, Flag, Model, PositiveDuration, Secret, Word, revealed
from grafter.config.problems import Finding
from grafter.config.units import Duration, Endpoint, Url
from grafter.receiver.config import ReceiverConfig, Surroundings

if TYPE_CHECKING:
    from grafter.receiver.openai_api import Account

API_KEY_VARIABLE = "OPENAI_API_KEY"
WEBHOOK_SECRET_VARIABLE = "OPENAI_WEBHOOK_SECRET"
DEFAULT_PROJECT = "default"
_SECRET_PREFIX = "whsec_"


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

    def findings(self) -> Iterator[Finding]:
        if self.tokens and self.tee and not self.tee.key:
            yield Finding(
                ("tee", "api_key"),
                "is required beside ingest.tokens: callers then show a token of grafter's, "
                "and there is no key of OpenAI's to send on",
                also=(("tee",),),
            )


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
        return self.api_key.get_secret_value().strip()

    @property
    def secrets(self) -> tuple[str, ...]:
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


class OpenAIReceiver(ReceiverConfig):
    """OpenAI's traces."""

    traces_only = "takes no {signal}; otlp receivers do"

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
        given = {key: value for key, value in project.items() if value is not None}
        if any(_has_secret(other, secret) for other in projects.values()):
            # It was given to that one, whose key is to be used for what it signs.
            found.pop("webhook_secrets", None)
        return {**data, "projects": {**projects, DEFAULT_PROJECT: {**found, **given}}}

    @property
    def default_project(self) -> str:
        """The name of the project that is meant where none is named."""
        return next(iter(self.projects)) if len(self.projects) == 1 else DEFAULT_PROJECT

    def describe(self) -> str:
        tee = self.ingest.tee
        signed = ", ".join(name for name, project in self.projects.items() if project.secrets)
        webhooks = f", webhooks of {signed}" if signed else ""
        return f"http {self.endpoint}" + (f", tee to {tee.endpoint}" if tee else "") + webhooks

    def findings(self) -> Iterator[Finding]:
        """Projects whose calls would start recorders, had they a key; and those with a webhook secret that an earlier
        one has: what it signs is taken for that one's.
        """
        first: dict[str, str] = {}
        for name, project in self.projects.items():
            if self.realtime.record and project.secrets and not project.key:
                yield Finding(
                    ("projects", name),
                    "has no api_key: calls of its webhooks are not recorded, though realtime.record says so",
                    warning=True,
                )
            owner = next((first[secret] for secret in project.secrets if secret in first), None)
            if owner is not None:
                yield Finding(
                    ("projects", name, "webhook_secrets"),
                    f"has a secret of {owner}: what it signs is done in the name of {owner}",
                    warning=True,
                )
            first = {**dict.fromkeys(project.secrets, name), **first}

    def pulls(self, name: str) -> tuple[tuple[str, str], ...]:
        """Of the receiver of this id: the kind of its pulls in the store, and each project that may have some."""
        return tuple((pull_kind(name), project) for project in self.projects)

    def accounts(self) -> "dict[str, Account]":
        """The accounts of the projects that have a key, by project."""
        from grafter.receiver.openai_api import Account

        return {name: Account(one.key, one.base_url) for name, one in self.projects.items() if one.key}

    @asynccontextmanager
    async def open(self, name: str, around: Surroundings) -> AsyncIterator[dict[str, int]]:
        """Run all endpoints behind one port, which is yielded by the receiver's name."""
        from grafter.receiver import (
            admin,
            calls_http,
            links_http,
            openai_http,
            realtime_http,
            recorder,
            sessions,
            webhook_http,
        )
        from grafter.receiver.explaining import Explainer
        from grafter.receiver.http_server import serving
        from grafter.receiver.recording import Timing
        from grafter.receiver.signatures import Signatures
        from grafter.receiver.tee import teeing

        consumer, metrics, policy, store = around.consumer, around.metrics, around.policy, around.store
        accounts = self.accounts()
        async with AsyncExitStack() as stack:
            # They are left one after the other: the receiver first, for a request may bring items for the others.
            grace_seconds = around.grace_seconds / (2 if self.ingest.tee is None else 3)
            tee = None
            if self.ingest.tee is not None:
                tee = await stack.enter_async_context(
                    teeing(self.ingest.tee.endpoint, self.ingest.tee.key, metrics, grace_seconds=grace_seconds)
                )
            recorders = await stack.enter_async_context(
                recorder.recording(
                    consumer,
                    metrics,
                    policy,
                    accounts.get(self.default_project),
                    projects=accounts,
                    storing=around.storing or consumer,
                    timing=Timing(silence=self.realtime.silence.seconds),
                    grace_seconds=grace_seconds,
                )
            )
            ingest_tokens = revealed(self.ingest.tokens)
            tokens = revealed(self.realtime.tokens)
            # One address, several endpoints: each brings its routes.
            routes = [
                *openai_http.ingest_routes(consumer, metrics, policy, tokens=ingest_tokens, tee=tee),
                *realtime_http.event_routes(recorders.ended_by(consumer), metrics, policy, time.time_ns, tokens=tokens),
                *realtime_http.call_routes(
                    recorders,
                    metrics,
                    around.clock,
                    store=store,
                    calls=around.calls,
                    secret=policy.redact.secret,
                    tokens=tokens,
                ),
            ]
            if around.calls is not None:
                routes += calls_http.calls_routes(
                    around.calls,
                    metrics,
                    time.time_ns,
                    id_keys=around.calls_id_keys,
                    tokens=around.calls_tokens,
                    links=around.links,
                )
            if store is not None:
                pulls = await stack.enter_async_context(
                    sessions.pulling(
                        store,
                        consumer,
                        accounts,
                        metrics,
                        policy,
                        kind=pull_kind(name),
                        default=self.default_project,
                        lease_seconds=around.lease_seconds,
                        clock=around.clock,
                    )
                )
                routes += admin.admin_routes(
                    pulls,
                    Explainer(store, policy, around.clock, pulls=self.pulls(name)),
                    metrics,
                    around.dead_letters,
                    around.backlogs,
                    calls=around.calls,
                    tokens=around.admin_tokens,
                    alone=not around.share_ports,
                )
                # Whoever may say what a guest is may say where it belongs.
                both = (*ingest_tokens, *tokens)
                routes += links_http.link_routes(consumer, store, metrics, around.clock, tokens=both)
                recording = recorders if self.realtime.record else None
                sinks = webhook_http.WebhookSinks(consumer, store, recording, pulls, around.calls)
                secrets = {name: project.secrets for name, project in self.projects.items()}
                signatures = Signatures(secrets, int(self.webhook.tolerance))
                routes += webhook_http.webhook_routes(sinks, signatures, metrics, policy, time.time_ns)
            _, port = await stack.enter_async_context(
                serving(
                    openai_http.application(routes),
                    self.endpoint,
                    None,
                    grace_seconds,
                    share_port=around.share_ports,
                    in_flight=around.in_flight,
                )
            )
            yield {name: port}


def pull_kind(name: str) -> str:
    """What the pulls of the receiver of this id are called in the store."""
    return "session" + name.removeprefix("openai")
