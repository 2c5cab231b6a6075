"""TLS towards a peer, in the Collector's own words."""

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from grafter.config import collector
from grafter.config.model import Flag, Model, Word
from grafter.config.problems import Finding


class ClientTls(Model):
    """TLS towards a server."""

    collectors_own = collector.CLIENT_TLS
    instead = collector.CLIENT_TLS_INSTEAD

    insecure: Flag = False
    """Plaintext, for gRPC; over HTTP the scheme decides."""
    insecure_skip_verify: Flag = False
    """Take any certificate; over HTTP only."""
    ca_file: Word | None = None
    """Authorities to trust, PEM; null: the system's."""
    cert_file: Word | None = None
    """Client certificate, PEM."""
    key_file: Word | None = None
    """The private key to it, PEM."""
    server_name_override: Word | None = None
    """Name that the server's certificate must have; null: the endpoint's host."""

    def findings(self) -> Iterator[Finding]:
        """A certificate and its key are given together."""
        if bool(self.cert_file) != bool(self.key_file):
            given, wanted = ("cert_file", "key_file") if self.cert_file else ("key_file", "cert_file")
            yield Finding((given,), f"needs {wanted} beside it")

    def certificate(self) -> tuple[str, str] | None:
        """The client certificate's files. Raises ValueError when only one of the two is given."""
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("tls: cert_file and key_file are given together or not at all")
        return (self.cert_file, self.key_file) if self.cert_file and self.key_file else None


_NO_TLS = ("WRONG_VERSION_NUMBER", "wrong version number", "packet length too long", "record layer failure")
_UNTRUSTED = ("CERTIFICATE_VERIFY_FAILED", "Hostname Verification Check failed")
# What servers in Go, and nginx, say in plaintext to a request in plaintext at a port that speaks TLS.
_WANTS_TLS = ("Client sent an HTTP request to an HTTPS server", "The plain HTTP request was sent to HTTPS port")
# A server that wanted TLS says no more than this; so does one that just goes.
_CLOSED = ("Socket closed", "Connection reset", "Server disconnected", "recvmsg")


@dataclass(frozen=True, slots=True)
class Advice:
    """What somebody could do about a connection that does not come."""

    text: str
    certain: bool
    """Somebody must do it; otherwise it is worth a look."""


def advice(reason: str, *, secure: bool, met: bool, plaintext: str, encrypted: str) -> Advice | None:
    """What to do about TLS where the two sides disagree on it, by what the library or the peer said (``reason``).

    ``secure``: TLS was spoken; ``met``: the peer has answered before; ``plaintext`` and ``encrypted``: how the other is
    configured.
    """

    def has(words: tuple[str, ...]) -> bool:
        return any(word in reason for word in words)

    if secure and has(_NO_TLS):
        return Advice(f"the peer speaks no TLS there; for plaintext {plaintext}", certain=True)
    if secure and has(_UNTRUSTED):
        return Advice("the peer's certificate is not trusted: tls.ca_file, tls.server_name_override", certain=True)
    if not secure and has(_WANTS_TLS):
        return Advice(f"the peer speaks TLS there: {encrypted}", certain=True)
    if not secure and not met and has(_CLOSED):
        return Advice(f"where the peer speaks TLS, {encrypted}", certain=False)
    return None


def read_pem(key: str, path: str) -> bytes:
    """The file's bytes. Raises ValueError with the config key and the reason."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"tls.{key}: cannot read {path}: {error.strerror}") from error


def ssl_context(tls: ClientTls) -> ssl.SSLContext:
    """For the HTTP client. Raises ValueError for files that cannot be read or are no PEM."""
    certificate = tls.certificate()
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ValueError(f"tls.ca_file: cannot load {tls.ca_file}: {_why(error)}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if certificate is not None:
        try:
            context.load_cert_chain(*certificate)
        except (OSError, ssl.SSLError) as error:
            raise ValueError(f"tls.cert_file: cannot load {tls.cert_file}: {_why(error)}") from error
    if tls.insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _why(error: OSError) -> str:
    return error.strerror or str(error)
