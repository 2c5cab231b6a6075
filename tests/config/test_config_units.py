"""Durations, sizes and addresses: what is read, what is refused, and how it is written again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grafter.config.units import Duration, Endpoint, MemoryLimit, Size, Target, Url, is_loopback

MILLISECOND = 1_000_000


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("0s", 0),
        ("500ms", 500 * MILLISECOND),
        ("10s", 10_000 * MILLISECOND),
        ("1h30m", 5_400_000 * MILLISECOND),
        ("1.5h", 5_400_000 * MILLISECOND),
        (".5s", 500 * MILLISECOND),
        ("1.s", 1000 * MILLISECOND),
        ("2us", 2000),
        ("2µs", 2000),
        ("7ns", 7),
        ("0.1s0.2s", 300 * MILLISECOND),
    ],
)
def test_durations_are_gos(text: str, nanoseconds: int) -> None:
    """What Go's time.ParseDuration takes, without a sign, is exact in nanoseconds."""
    assert Duration.parse(text) == nanoseconds


@pytest.mark.parametrize(
    "text", ["", "5", "10 s", "s", "5 minutes", "-1s", "1d", "1h30", "٣s", "1e3s", "1000000h1000000h1000000h"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    """A missing or unknown unit, a sign, a space, foreign digits and more than 64 bits are refused."""
    with pytest.raises(ValueError, match="duration"):
        Duration.parse(text)


@given(st.integers(0, 2**63 - 1))
def test_a_duration_is_read_as_it_is_written(nanoseconds: int) -> None:
    """Every duration survives being written and read."""
    assert Duration.parse(str(Duration(nanoseconds))) == nanoseconds


@given(st.integers(0, 2**60))
def test_a_size_is_read_as_it_is_written(size: int) -> None:
    """Every size survives being written and read."""
    assert Size.parse(str(Size(size))) == size


@pytest.mark.parametrize(
    ("text", "size"),
    [("64MiB", 64 << 20), ("4GiB", 4 << 30), ("500MB", 500_000_000), ("1.5KiB", 1536), ("12", 12), ("12 B", 12)],
)
def test_sizes_have_binary_and_decimal_units(text: str, size: int) -> None:
    """KiB is 1024 bytes, kB 1000, and a bare number counts bytes."""
    assert Size.parse(text) == size


@pytest.mark.parametrize("text", ["", "64Mi", "64M", "MiB", "-1B", "1.5B", "64mib"])
def test_what_is_no_size_is_refused(text: str) -> None:
    """Half units, signs and fractions of a byte are refused."""
    with pytest.raises(ValueError, match=r"size|bytes"):
        Size.parse(text)


def test_a_memory_limit_is_a_share_or_a_size() -> None:
    """80% depends on what there is, 512MiB does not; nothing and more than everything are refused."""
    assert MemoryLimit.parse("80%").of(1000) == 800
    assert MemoryLimit.parse("512MiB").of(1000) == 512 << 20
    for text in ("0%", "101%", "-1%", "%", "0", "much", "1e1%"):
        with pytest.raises(ValueError, match=r"percentage|nothing"):
            MemoryLimit.parse(text)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("localhost:4317", "localhost", 4317),
        (":4317", "", 4317),
        ("0.0.0.0:0", "0.0.0.0", 0),
        ("[::1]:4317", "::1", 4317),
        ("my_service-1.svc.cluster.local:4317", "my_service-1.svc.cluster.local", 4317),
    ],
)
def test_an_endpoint_has_host_and_port(text: str, host: str, port: int) -> None:
    """Names, IPv4, bracketed IPv6 and no host at all."""
    endpoint = Endpoint.parse(text)
    assert (endpoint.host, endpoint.port, str(endpoint)) == (host, port, text)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("10.0.0.7:4319", "http://10.0.0.7:4319"),
        ("[::1]:4319", "http://[::1]:4319"),
        ("[::]:4319", "http://localhost:4319"),
        (":4319", "http://localhost:4319"),
        ("0.0.0.0:4319", "http://localhost:4319"),
    ],
)
def test_where_a_client_finds_it(text: str, url: str) -> None:
    assert Endpoint.parse(text).url == url


@pytest.mark.parametrize(
    "text", ["", "localhost", "localhost:", "localhost:x", "localhost:65536", "::1:80", "http://a:1", "[x]:1", "a b:1"]
)
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    """A missing or impossible port, a scheme, a bare IPv6 address and a space are refused."""
    with pytest.raises(ValueError, match=r"host:port|IPv6"):
        Endpoint.parse(text)


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("localhost:1", "127.0.0.1:1", True),
        ("localhost:1", "[::1]:1", True),
        ("0.0.0.0:1", "localhost:1", True),
        (":1", "10.0.0.1:1", True),
        ("10.0.0.1:1", "10.0.0.2:1", False),
        ("localhost:1", "localhost:2", False),
        (":0", ":0", False),
    ],
)
def test_endpoints_overlap_when_one_process_cannot_listen_on_both(one: str, other: str, overlap: bool) -> None:
    """The same port on the same host, on a loopback name, or on every interface; port 0 never."""
    assert Endpoint.parse(one).overlaps(Endpoint.parse(other)) is overlap
    assert Endpoint.parse(other).overlaps(Endpoint.parse(one)) is overlap


@pytest.mark.parametrize(
    ("text", "address", "scheme"),
    [
        ("localhost:4317", "localhost:4317", ""),
        ("https://api.honeycomb.io", "api.honeycomb.io:443", "https"),
        ("http://localhost:4317", "localhost:4317", "http"),
        ("http://[::1]:4317", "[::1]:4317", "http"),
    ],
)
def test_a_grpc_target_has_an_address_to_dial(text: str, address: str, scheme: str) -> None:
    """The scheme is taken off, and https brings its port."""
    target = Target.parse(text)
    assert (target.address, target.scheme) == (address, scheme)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":4317",
        "localhost",
        "ftp://a:1",
        "https://",
        "https://u:p@a:1",
        "http://a:x",
        "collector:99999",
        "http://a:1/v1/traces",
    ],
)
def test_what_is_no_target_is_refused(text: str) -> None:
    """No host, no port, another scheme, a password in the address, or a path, which gRPC has none of."""
    with pytest.raises(ValueError, match=r"\w"):
        Target.parse(text)


def test_a_url_has_no_password_and_a_host() -> None:
    """Only http and https, with a host, without credentials."""
    assert Url.parse("https://api.openai.com/v1/traces/ingest").port == 443
    assert Url.parse("http://localhost:4318").secure is False
    for text in ("api.openai.com", "https://", "https://u:p@a", "https://a b", "http://[::1", "http://a:0"):
        with pytest.raises(ValueError, match=r"URL|password"):
            Url.parse(text)


def test_loopback_is_known_by_name_and_address() -> None:
    """What can only mean this machine, and nothing else."""
    assert all(map(is_loopback, ["localhost", "LOCALHOST", "a.localhost", "127.0.0.1", "127.8.8.8", "::1"]))
    assert not any(map(is_loopback, ["", "0.0.0.0", "localhost.example.com", "10.0.0.1", "::"]))
