"""What a URL of Redis says, and what is wrong with one that says nothing."""

from typing import Any

import pytest

from grafter.store.redis.address import Address, AddressError, Kind, parse
from grafter.store.redis.config import RedisStore


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://localhost", Address(Kind.SINGLE, (("localhost", 6379),), {"db": 0})),
        (
            "rediss://app:pass%2Fword@h:1/2?ca_file=/ca",
            Address(
                Kind.SINGLE,
                (("h", 1),),
                {"db": 2, "username": "app", "password": "pass/word"},
                tls=True,
                files={"ca_file": "/ca"},
            ),
        ),
        (
            "unix://:word@/run/redis.sock?db=3",
            Address(Kind.SINGLE, (("/run/redis.sock", 0),), {"db": 3, "password": "word"}),
        ),
        (
            "redis+sentinel://app:word@a,[::1]:2/held/1?sentinel_username=u&sentinel_password=p%20q",
            Address(
                Kind.SENTINEL,
                (("a", 26379), ("::1", 2)),
                {"db": 1, "username": "app", "password": "word"},
                master="held",
                sentinel_login={"username": "u", "password": "p q"},
            ),
        ),
        ("rediss+cluster://a:1,b", Address(Kind.CLUSTER, (("a", 1), ("b", 6379)), {"db": 0}, tls=True)),
    ],
)
def test_a_url_says_where_and_who(url: str, expected: Any) -> None:
    """Each scheme, with names, passwords and paths as they were before they were encoded."""
    assert parse(url) == expected


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://h", "begins with"),
        ("rediss", "begins with"),
        ("rediss+unix:///x", "begins with"),
        ("unix://run/redis.sock", "absolute path"),
        ("redis://a,b", "several hosts"),
        ("redis://:secret@h:port", "a host and its port"),
        ("redis://h/one", "expected a number"),
        ("redis://h/1/2", "more in the path"),
        ("redis+sentinel://h", "master is missing"),
        ("redis+cluster://h/1", "database 0 only"),
        ("redis://h?sentinel_password=secret", "sentinel_password"),
        ("redis://h?socket_timeout=1", "socket_timeout"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(url: str, why: str) -> None:
    """With what is wrong with it, and no password."""
    with pytest.raises(AddressError, match=why) as refusal:
        parse(url)
    assert "secret" not in str(refusal.value)


def test_a_config_that_is_shown_has_no_password() -> None:
    """Neither the server's nor the sentinels'."""
    url = "redis+sentinel://app:one-secret@h/held?sentinel_password=two-secret&db=1"
    shown = RedisStore(url=url).model_dump(mode="json")["url"]
    assert "secret" not in shown
    assert shown.endswith("&db=1")
