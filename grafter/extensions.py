"""The extensions beside the store: their keys. What answers for them is in health.py and receiver/admin.py."""

from grafter.config.model import Component, FilledSecret, Flag, Model
from grafter.config.units import Endpoint


class HealthCheck(Component):
    """`/healthz` and `/readyz`."""

    endpoint: Endpoint = Endpoint("localhost:13133")
    """Where to listen, over HTTP."""
    readiness_on_store: Flag = False
    """True: `/readyz` answers 503 while the store takes no parts. False: the store's trouble stands in its body, and
    the doors answer for it request by request."""

    def describe(self) -> str:
        return f"http {self.endpoint}"


class Admin(Model):
    """`/admin/…` at `receivers.openai.endpoint`: what `grafter pull` and the like ask of the grafter that runs."""

    tokens: tuple[FilledSecret, ...] = ()
    """Bearer tokens for commands of other machines; those of this one need none."""
