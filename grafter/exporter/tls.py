"""TLS towards a peer, in the Collector's own words, and what is common to every address."""

import ssl
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path


@dataclass(frozen=True, slots=True)
class TlsClient:
    """How to trust a peer and how to be trusted by it. Files are PEM."""

    insecure: bool = False
    """Plaintext where the endpoint has no scheme that says otherwise."""
    ca_file: str | None = None
    """Authorities to trust; None: the system's."""
    cert_file: str | None = None
    key_file: str | None = None
    """Client certificate and its key: both or none."""
    server_name_override: str | None = None
    """The name that the server's certificate must have, where it is not the endpoint's host."""
    insecure_skip_verify: bool = False
    """Take any certificate; HTTP only."""

    def certificate(self) -> tuple[str, str] | None:
        """The client certificate's files. Raises ValueError when only one of the two is given."""
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("tls: cert_file and key_file are given together or not at all")
        return (self.cert_file, self.key_file) if self.cert_file and self.key_file else None


def read_pem(key: str, path: str) -> bytes:
    """The file's bytes. Raises ValueError with the config key and the reason."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"tls.{key}: cannot read {path}: {error.strerror}") from error


def ssl_context(tls: TlsClient) -> ssl.SSLContext:
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


def is_loopback(host: str) -> bool:
    """Whether the host can only be this machine."""
    name = host.strip("[]").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def _why(error: OSError) -> str:
    return error.strerror or str(error)
