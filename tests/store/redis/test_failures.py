"""What goes wrong with Redis, one thing at a time, and what the store answers."""

import asyncio
import re
import ssl
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import count
from typing import Any

import pytest
import trustme

from grafter.core.calls import CallNote
from grafter.core.model import Facts, Key, UnixNano
from grafter.core.policy import SECOND, Waits
from grafter.errors import UnavailableError
from grafter.store.config import error_of
from grafter.store.model import DeadLetter, Memory, Outcome, PlainSettlement, Settlement, StoreError, Task, TaskThen
from grafter.store.redis.layout import Layout
from grafter.store.redis.store import RedisStore
from grafter.store.redis.upkeep import Upkeep
from tests.store.contract import (
    HOST,
    LATER,
    LEASE,
    OTHER,
    START,
    Settings,
    claim_one,
    claim_others,
    claim_plain,
    guest_part,
    held_texts,
    host_part,
)
from tests.store.redis.places import store
from tests.store.redis.proxy import proxy
from tests.store.redis.servers import Server, cluster, pair, server, waited

_NUMBERS = count()


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    with server() as running:
        yield running


@pytest.fixture
def own() -> Iterator[Server]:
    """A server that a test may break."""
    with server("--appendonly", "yes", "--appendfsync", "always") as running:
        yield running


@pytest.fixture
def prefix() -> str:
    return f"failures-{next(_NUMBERS)}"


@pytest.fixture
def settings() -> Settings:
    return Settings()


@pytest.fixture
async def opened(shared: Server, prefix: str, settings: Settings) -> AsyncIterator[RedisStore]:
    async with store(shared.url, prefix, settings) as running:
        yield running


async def refused(running: RedisStore, text: str = "refused") -> UnavailableError:
    """What an append says that cannot be stored."""
    with pytest.raises(UnavailableError) as refusal:
        await running.append([host_part(text)], START)
    assert refusal.value.retry_after > 0
    return refusal.value


async def taken(running: RedisStore, text: str, key: Key = HOST, seconds: float = 60) -> None:
    """Send a part as a sender does, until it is acknowledged."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            await running.append([host_part(text, key)], START)
            return
        except UnavailableError:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


async def test_a_restart_of_redis_is_a_blip(own: Server, prefix: str, settings: Settings) -> None:
    """While it is away each request is told so; then what was held is there, and all goes on by itself."""
    async with store(own.url, prefix, settings) as running:
        await running.append([host_part("before")], START)
        own.kill()
        await refused(running)
        assert not running.up
        assert str(own.port) in running.error
        own.start()
        await taken(running, "after")
        assert running.up
        assert await held_texts(running) == {HOST: ["before", "after"]}


async def test_lost_scripts_are_given_again(shared: Server, opened: RedisStore) -> None:
    """SCRIPT FLUSH in the middle costs a round trip and nothing else, in whatever is done next."""

    def flush() -> None:
        shared.ask([("SCRIPT", "FLUSH")])

    await opened.append([host_part("a", facts=Facts.ROOT), host_part("b", OTHER)], START)
    flush()
    await opened.append([guest_part(host=OTHER)], START)
    flush()
    batch = await claim_plain(opened)
    assert batch is not None
    flush()
    assert [plain[0] for plain in await opened.read(batch)] == [[b"a"]]
    flush()
    assert await opened.settle(PlainSettlement(batch, [b"m"]), LATER) == [True]
    claim = await claim_one(opened)
    flush()
    assert await opened.settle([Settlement(claim, (Memory(OTHER, b"m"),))], LATER) == [True]
    assert opened.stats().spans == 0


async def test_a_request_of_many_traces_is_stored(own: Server, prefix: str, settings: Settings) -> None:
    """As an app with a backlog sends them: Redis goes on serving others meanwhile, and the sender gets its answer."""
    keys = [Key(n.to_bytes(4) * 4) for n in range(8_000)]
    async with (
        # That others have their turns is counted; how long a turn takes is the machine's affair.
        store(own.url, prefix, settings, timeout=60.0) as running,
        store(own.url, prefix, settings, timeout=60.0) as other,
        asyncio.TaskGroup() as tasks,
    ):
        many = tasks.create_task(running.append([host_part(key.hex(), key) for key in keys], START))
        turns = 0
        while not many.done():
            await other.append([host_part(f"turn {turns}")], START)
            turns += 1
        assert turns > 3
        found: list[Key] = []
        while claims := await running.claim(LATER, 1000):
            found += [claim.key for claim in claims]
        assert sorted(found) == sorted([*keys, HOST])


async def test_what_was_plain_under_other_settings_is_handed_out(shared: Server, prefix: str) -> None:
    """A limit that a restart lowers makes a held trace one to decide about: it must not be left between two queues."""
    large, small = host_part("x" * 1000, facts=Facts.ROOT), host_part("y", OTHER, Facts.ROOT)
    async with store(shared.url, prefix, Settings()) as before:
        await before.append([large, small], START)
    async with store(shared.url, prefix, Settings(max_trace_bytes=500)) as running:
        batch = await claim_plain(running)
        assert batch is not None
        assert batch.keys == [OTHER]
        assert [claim.key for claim in await claim_others(running, LATER, 10)] == [HOST]


async def test_a_lease_that_ends_before_its_batch_is_read(shared: Server, prefix: str, settings: Settings) -> None:
    """Another replica has sent it, and in its place stands a guest's late part: that is nobody's host part."""
    later = UnixNano(LATER + LEASE + 1)
    async with store(shared.url, prefix, settings) as slow, store(shared.url, prefix, settings) as other:
        await slow.append([host_part(facts=Facts.ROOT)], START)
        batch = await claim_plain(slow)
        assert batch is not None
        claim = await claim_one(other, later)
        await other.append([guest_part("late", host=HOST)], later)
        assert await other.settle([Settlement(claim, (Memory(HOST, b"m"),))], later) == [True]
        with pytest.raises(UnavailableError, match="gone"):
            await slow.read(batch)
        assert await slow.record(batch, "peer", Outcome.INTENDED) == [False]


async def test_a_replica_that_takes_no_writes_is_no_primary(own: Server, prefix: str, settings: Settings) -> None:
    """READONLY is refused with a hint, and the connection is made anew until a primary is there."""
    async with store(own.url, prefix, settings) as running:
        await running.append([host_part("one")], START)
        own.ask([("REPLICAOF", "127.0.0.1", 1)])
        assert "replica" in str(await refused(running))
        own.ask([("REPLICAOF", "NO", "ONE")])
        await taken(running, "two")
        assert await held_texts(running) == {HOST: ["one", "two"]}


async def test_a_server_that_is_loading_is_waited_for(own: Server, prefix: str, settings: Settings) -> None:
    """LOADING is refused with a hint; a start waits for its end."""
    async with store(own.url, prefix, settings) as running:
        await running.append([host_part("held")], START)
        # While it loads it looks at its connections each 2 MiB.
        own.ask([("CONFIG", "SET", "rdbcompression", "no")])
        own.ask([("SET", f"filler-{i}", b"x" * 40_000) for i in range(250)])
        own.ask([("CONFIG", "SET", "aof-use-rdb-preamble", "yes"), ("BGREWRITEAOF",)])
        waited(lambda: b"aof_rewrite_in_progress:0" in _info(own), "the log is not rewritten")
        own.kill()
        own.start("--rdbcompression", "no", "--key-load-delay", "5000")
        while "loading" not in await _refusal(running):
            # The first answers are that nobody is there: the connection is made anew after a pause.
            pass
        async with store(own.url, prefix, settings) as second:
            assert await held_texts(second) == {HOST: ["held"]}


async def test_a_full_redis_refuses_and_still_lets_go(own: Server, prefix: str, settings: Settings) -> None:
    """OOM under noeviction: senders are told that the store is full, and what is held leaves and makes room."""
    async with store(own.url, prefix, settings) as running:
        for i in range(20):
            await running.append([host_part("x" * 100_000, Key(bytes([i]) * 16))], START)
        (used,) = own.ask([("INFO", "memory")])
        assert isinstance(used, bytes)
        (line,) = (part for part in used.decode().splitlines() if part.startswith("used_memory:"))
        own.ask([("CONFIG", "SET", "maxmemory", int(line.split(":")[1]) - 200_000)])
        failure = await refused(running)
        assert failure.reason == "store_full"
        assert "maxmemory" in running.error
        await running.add_dead_letters([DeadLetter(HOST, "otlp", "why", START, 1, b"x")])
        assert [await running.first_link("grafter.sums 00", link, START) for link in ("waits", "runs")] == ["waits"] * 2
        with pytest.raises(UnavailableError):
            await running.put_tasks([Task("door", "name", START)], START)
        await running.put_tasks([Task("call", "name", START, b"x")], START, leaving=True)
        (task,) = await running.claim_tasks("call", LATER, 1)
        assert await running.update_task(task, TaskThen.END)
        claims = await running.claim(LATER, 100)
        assert len(claims) == 20
        assert await running.record(claims, "peer", Outcome.INTENDED) == [True] * 20
        assert all(await running.settle([Settlement(c, (Memory(c.key, b"m"),)) for c in claims], LATER))
        await running.append([host_part("room", OTHER)], LATER)
        assert running.up


async def test_a_wrong_password_ends_the_start(own: Server, prefix: str, settings: Settings) -> None:
    """Without waiting, and without the password in the message; the right one of an ACL user is let in."""
    own.ask(
        [("ACL", "SETUSER", "app", "on", ">sesame", f"~{prefix}:*", "+@all"), ("CONFIG", "SET", "requirepass", "x")]
    )
    for credentials in ("", "app:wrong@", ":wrong@"):
        with pytest.raises(StoreError, match="password") as refusal:
            async with store(f"redis://{credentials}127.0.0.1:{own.port}", prefix, settings):
                pass
        assert "wrong" not in str(refusal.value)
    async with store(f"redis://app:sesame@127.0.0.1:{own.port}", prefix, settings) as running:
        await running.append([host_part("in")], START)
        assert await held_texts(running) == {HOST: ["in"]}


async def test_a_cluster_that_is_none_ends_the_start(shared: Server, prefix: str, settings: Settings) -> None:
    """Without waiting, either way around; so does a cluster's wrong password."""
    with pytest.raises(StoreError, match="no cluster"):
        async with store(f"redis+cluster://127.0.0.1:{shared.port}", prefix, settings):
            pass
    with cluster() as nodes:
        with pytest.raises(StoreError, match=r"use redis\+cluster"):
            async with store(nodes[0].url, prefix, settings):
                pass
        for node in nodes:
            node.ask([("CONFIG", "SET", "requirepass", "sesame")])
        url = f"redis+cluster://:{{}}@127.0.0.1:{nodes[0].port}"
        async with store(url.format("sesame"), prefix, settings) as running:
            await running.append([host_part("in")], START)
        with pytest.raises(StoreError, match="user name and password") as refusal:
            async with store(url.format("wrong"), prefix, settings):
                pass
        assert "wrong" not in str(refusal.value)


async def test_a_key_of_somebody_else_is_named(shared: Server, opened: RedisStore, prefix: str) -> None:
    """A wrong type under grafter's prefix is refused with what to do, and holds up no other trace."""
    layout = Layout(prefix)
    await opened.append([host_part("a"), host_part("b", OTHER)], START)
    shared.ask([("DEL", layout.name(b"m", HOST)), ("LPUSH", layout.name(b"m", HOST), "stranger")])
    assert "prefix" in str(await refused(opened))
    claims = await opened.claim(LATER, 10)
    assert [claim.key for claim in claims] == [OTHER]
    assert await opened.settle([Settlement(claims[0])], LATER) == [True]


async def test_what_a_newer_version_wrote_is_left_alone(shared: Server, opened: RedisStore, prefix: str) -> None:
    """A held key of version N+1 is not claimed, not changed and not lost; back in version N it is read."""
    name = Layout(prefix).name(b"m", HOST)
    await opened.append([host_part("a"), host_part("b", OTHER)], START)
    shared.ask([("SETRANGE", name, 0, b"\x02")])
    assert "newer version" in str(await refused(opened))
    assert [claim.key for claim in await opened.claim(LATER, 10)] == [OTHER]
    (raw,) = shared.ask([("GET", name)])
    assert isinstance(raw, bytes)
    assert raw[0] == 2
    shared.ask([("SETRANGE", name, 0, b"\x01")])
    async with store(shared.url, prefix, Settings()) as other:
        assert await held_texts(other) == {HOST: ["a"]}


@pytest.mark.parametrize("missing", ["v", "at", "until"])
async def test_a_note_of_a_call_that_came_in_part_is_none(
    shared: Server, opened: RedisStore, prefix: str, missing: str
) -> None:
    """A pipeline that broke off costs nobody an error, and the next note of the call makes it whole."""
    call = CallNote("rtc_1", START, traceparent=f"00-{'a' * 32}-{'b' * 16}-01")
    await opened.put_calls([call], START)
    assert shared.ask([("HDEL", Layout(prefix).name(b"c", b"rtc_1"), missing)]) == [1]
    assert await opened.find_calls(["rtc_1"], START) == [None]
    await opened.put_calls([call], START)
    assert await opened.find_calls(["rtc_1"], START) == [call]


async def test_another_format_is_not_opened(shared: Server, opened: RedisStore, prefix: str) -> None:
    """Where keys are found is fixed for a prefix; a store that would look elsewhere does not start."""
    shared.ask([("HSET", Layout(prefix).tags[0] + b"fixed", "format", 3)])
    with pytest.raises(StoreError, match="format 3"):
        async with store(shared.url, prefix, Settings()):
            pass


async def test_a_slow_server_is_waited_for_once(shared: Server, prefix: str, settings: Settings) -> None:
    """Requests that come together share the way to Redis and back; a host's request goes it once."""
    async with proxy(shared.port) as far, store(f"redis://127.0.0.1:{far.port}", prefix, settings) as running:
        await running.append([host_part("first")], START)
        texts = [f"together {i}" for i in range(50)]

        async def together() -> None:
            parts = [host_part(text, Key(bytes([i]) * 16)) for i, text in enumerate(texts)]
            await asyncio.gather(*(running.append([part], START) for part in parts))

        await far.once(together(), *texts)
        assert running.up


async def test_a_guests_request_goes_the_way_once(shared: Server, prefix: str, settings: Settings) -> None:
    """To Redis and back: a guest's first part and later ones, linked or not, released or not, beside host parts."""
    async with proxy(shared.port) as far, store(f"redis://127.0.0.1:{far.port}", prefix, settings) as running:
        await running.append([host_part("released", OTHER)], START)
        await running.settle([Settlement(await claim_one(running), (Memory(OTHER, b"m"),))], LATER)
        for text, parts in (
            ("linked", [guest_part("linked", host=HOST)]),
            ("later", [guest_part("later"), host_part("beside")]),
            ("alone", [guest_part("alone", "trace_alone")]),
            ("more", [guest_part("more", "trace_alone")]),
            ("late", [guest_part("late", "trace_late", host=OTHER)]),
            ("later still", [guest_part("later still", "trace_late")]),
        ):
            await far.once(running.append(parts, START), text)
        # What came before the link moves with it: the one case that takes more.
        await running.append([guest_part("named", "trace_alone", host=HOST)], START)
        held = await held_texts(running)
        assert held[HOST] == ["linked", "later", "beside", "alone", "more", "named"]
        assert [texts for key, texts in held.items() if len(key) == 17] == [["late", "later still"]]


@pytest.mark.parametrize("how", ["claims", "batch"])
async def test_a_settlement_without_an_answer_was_done(own: Server, prefix: str, settings: Settings, how: str) -> None:
    """Redis did it and fell silent: asked again with the same moment it says so; with another one it does not."""
    async with store(own.url, prefix, settings, timeout=1.0) as running:
        await running.append([host_part("a", facts=Facts.ROOT), host_part("b", OTHER, Facts.ROOT)], START)
        await running.engine.refresh_totals()
        if how == "batch":
            batch = await claim_plain(running)
            assert batch is not None
            assert len(batch.keys) == 2

            async def settle(now: int) -> list[bool]:
                return await running.settle(PlainSettlement(batch, [b"m", b"m"]), UnixNano(now))
        else:
            claims = await running.claim(LATER, 10)
            settlements = [Settlement(claim, (Memory(claim.key, b"m"),)) for claim in claims]

            async def settle(now: int) -> list[bool]:
                return list(await running.settle(settlements, UnixNano(now)))

        own.pause()
        with pytest.raises(UnavailableError):
            await settle(LATER)
        own.resume()
        await taken(running, "after", Key(b"c" * 16))
        assert set(await settle(LATER)) == {True}
        assert set(await settle(LATER + 1)) == {False}


@pytest.mark.parametrize("how", ["claims", "batch"])
async def test_a_settlement_is_done_though_redis_goes_after_it(own: Server, prefix: str, how: str) -> None:
    """Before the memories that are too many could be ended: that has time until the next settlement."""
    few = Settings(waits=Waits(remember=1000 * SECOND, remember_limit=1))
    async with store(own.url, prefix, few) as running:
        await running.append([host_part("a", facts=Facts.ROOT), host_part("b", OTHER, Facts.ROOT)], START)
        await running.engine.refresh_totals()
        run = running.engine.run

        async def going(name: str, *args: Any, **more: Any) -> Any:
            if name == "forget":
                own.kill()
            return await run(name, *args, **more)

        running.engine.run = going  # type: ignore[method-assign]
        if how == "batch":
            batch = await claim_plain(running)
            assert batch is not None
            assert await running.settle(PlainSettlement(batch, [b"m", b"m"]), LATER) == [True]
        else:
            claims = await running.claim(LATER, 10)
            settlements = [Settlement(claim, (Memory(claim.key, b"m"),)) for claim in claims]
            assert await running.settle(settlements, LATER) == [True, True]
        assert not running.up


async def test_a_server_that_is_silent_is_given_up(own: Server, prefix: str, settings: Settings) -> None:
    """No answer within the timeout: the sender is told, and the next one gets a new connection."""
    async with store(own.url, prefix, settings, timeout=1.0) as running:
        await running.append([host_part("before")], START)
        own.pause()
        assert "no answer within 1 s" in str(await refused(running, "unknown"))
        own.resume()
        await taken(running, "after")
        texts = (await held_texts(running))[HOST]
        # What was not acknowledged may have been stored; its sender sends it again.
        assert [text for text in texts if text != "unknown"] == ["before", "after"]


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
async def test_an_eviction_policy_is_refused(own: Server, prefix: str, settings: Settings, policy: str) -> None:
    """What evicts would drop held traces in silence: the start ends with the command that mends it, which does."""
    own.ask([("CONFIG", "SET", "maxmemory-policy", policy)])
    with pytest.raises(StoreError, match=policy) as refusal:
        async with store(own.url, prefix, settings):
            pass
    command = str(refusal.value).split("`")[1].removeprefix("redis-cli ")
    own.ask([tuple(command.split())])
    async with store(own.url, prefix, settings) as running:
        await running.append([host_part()], START)


async def test_redis_may_come_later(prefix: str, settings: Settings) -> None:
    """A start waits for it for a while, and says where it looked when it does not come; or, where somebody is told why,
    as long as it takes."""
    with server() as running:
        running.kill()
        with pytest.raises(StoreError, match=str(running.port)):
            async with store(running.url, prefix, settings, start_seconds=0.3):
                pass
        told = asyncio.Queue[str]()

        async def begin() -> None:
            async with store(running.url, prefix, settings, start_seconds=0.0, waiting=told.put_nowait) as late:
                await late.append([host_part()], START)

        starting = asyncio.ensure_future(begin())
        assert str(running.port) in await told.get()
        await asyncio.to_thread(running.start)
        await starting


async def test_tls_is_checked(shared: Server, prefix: str, settings: Settings, tmp_path: object) -> None:
    """rediss:// with the authority that signed the server's certificate, and not without it."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    path = f"{tmp_path}/ca.pem"
    authority.cert_pem.write_to_path(path)
    async with proxy(shared.port, context) as door:
        url = f"rediss://127.0.0.1:{door.port}/0"
        async with store(f"{url}?ca_file={path}", prefix, settings) as running:
            await running.append([host_part("sealed")], START)
            assert await held_texts(running) == {HOST: ["sealed"]}
        with pytest.raises(StoreError, match="certificate"):
            async with store(url, prefix, settings, start_seconds=0.0):
                pass


async def test_a_unix_socket(prefix: str, settings: Settings, tmp_path: object) -> None:
    """unix:// with a database."""
    path = f"{tmp_path}/redis.sock"
    with server("--unixsocket", path) as running:
        async with store(f"unix://{path}?db=3", prefix, settings) as opened_store:
            await opened_store.append([host_part("near")], START)
            assert await held_texts(opened_store) == {HOST: ["near"]}
        (space,) = running.ask([("INFO", "keyspace")])
        assert isinstance(space, bytes)
        assert b"db3" in space
        assert b"db0" not in space


async def test_a_sentinel_with_a_password_of_its_own(prefix: str, settings: Settings) -> None:
    """It is asked with that one, and the server with the server's; without or with a wrong one the start ends."""
    with pair(sentinel="requirepass open") as servers:
        asked, _, path = servers.url.removeprefix("redis+sentinel://").partition("/")
        servers.primary.ask([("ACL", "SETUSER", "app", "on", ">sesame", f"~{prefix}:*", "+@all")])
        url = f"redis+sentinel://app:sesame@{asked}/{path}"
        async with store(f"{url}?sentinel_password=open", prefix, settings) as running:
            await running.append([host_part("in")], START)
            assert await held_texts(running) == {HOST: ["in"]}
        for wrong in ("", "?sentinel_password=shut"):
            with pytest.raises(StoreError, match="password") as refusal:
                async with store(f"{url}{wrong}", prefix, settings):
                    pass
            assert "shut" not in str(refusal.value)
            assert "sesame" not in str(refusal.value)


async def test_everything_expires(shared: Server, opened: RedisStore, prefix: str) -> None:
    """Should every replica disappear for good, no key of theirs stays for ever."""
    await opened.append([host_part("a"), guest_part("g"), guest_part("h", "trace_h", host=HOST)], START)
    await opened.append([host_part("b", OTHER, Facts.ROOT)], START)
    claims = await opened.claim(LATER, 10)
    await opened.record(claims, "peer", Outcome.INTENDED)
    (mine,) = (claim for claim in claims if claim.key == OTHER)
    await opened.settle([Settlement(mine, (Memory(OTHER, b"m"),))], LATER)
    await opened.append([host_part("c", Key(b"c" * 16), Facts.ROOT)], START)
    assert await claim_plain(opened) is not None
    await opened.add_dead_letters([DeadLetter(HOST, "otlp", "why", START, 1, b"x")])
    await Upkeep(opened.engine, opened.replicas, opened._dead_letters).keep_lists()
    await Upkeep(opened.engine, opened.replicas, opened._dead_letters).keep_held()
    (names,) = shared.ask([("KEYS", f"{prefix}:*")])
    assert isinstance(names, list)
    assert len(names) > 15
    assert [name for name in names if shared.ask([("PTTL", name)])[0] == -1] == []


async def test_a_stop_gives_back_what_it_owns(shared: Server, prefix: str, settings: Settings) -> None:
    """After an orderly stop the next owner need not wait for the lease; after a kill it does, and no longer."""
    first = store(shared.url, prefix, settings)
    running = await first.__aenter__()
    await running.append([host_part("a"), host_part("b", OTHER, Facts.ROOT)], START)
    async with store(shared.url, prefix, settings) as other:
        assert len(await running.claim(LATER, 1)) == 1
        assert await claim_plain(running, LATER, 1, 9, 99) is not None or await running.claim(LATER, 1)
        assert await other.claim(LATER, 10) == []
        assert len(await other.claim(UnixNano(LATER + LEASE), 10)) == 2
    await first.__aexit__(None, None, None)


@pytest.mark.parametrize("replicas", [0, 1])
async def test_a_failover(prefix: str, settings: Settings, replicas: int) -> None:
    """The primary dies: senders are refused for seconds, then the replica is the primary. What it had never got is
    counted; with wait_replicas there is none of that."""
    with pair() as servers:
        async with store(servers.url, prefix, settings, wait_replicas=replicas, timeout=2.0) as running:
            acknowledged = []
            for i in range(200):
                await running.append([host_part(str(i), Key(i.to_bytes(16, "big")))], START)
                acknowledged.append(str(i))
            servers.primary.kill()
            begun = time.monotonic()
            assert await _refusal(running)
            if replicas:
                # The new primary has no replica yet, and what one server alone has is not acknowledged.
                waited_for = "(wait_replicas)"
                while waited_for not in await _refusal(running):
                    assert time.monotonic() - begun < 60
                    await asyncio.sleep(0.05)
                servers.primary.start()
                servers.primary.ask([("REPLICAOF", "127.0.0.1", servers.replica.port)])
            await taken(running, "after", OTHER)
            found = {text for texts in (await held_texts(running)).values() for text in texts}
            lost = set(acknowledged) - found
            assert lost == set() if replicas else len(lost) < 200
            assert "after" in found


async def test_without_replicas_senders_do_not_wait(own: Server, prefix: str, settings: Settings) -> None:
    """One write finds out, by waiting; those beside it and after it are refused at once, and not one by one."""
    async with store(own.url, prefix, settings, wait_replicas=1, timeout=2.0) as running:
        assert "(wait_replicas)" in await _refusal(running)
        before = _waits(own)
        refusals = await asyncio.gather(*(_refusal(running) for _ in range(50)))
        assert {text.partition("1 are ")[2] for text in refusals} == {"asked for (wait_replicas)"}
        assert _waits(own) - before == 1


async def test_lost_scripts_do_not_spare_the_replicas(prefix: str, settings: Settings) -> None:
    """What is stored only when the scripts were given again is waited for too."""
    with pair() as servers:
        async with store(servers.url, prefix, settings, wait_replicas=1, timeout=1.0) as running:
            await running.append([host_part("one")], START)
            servers.primary.ask([("SCRIPT", "FLUSH")])
            waited(lambda: _caught_up(servers.primary), "the replica never had all")
            servers.replica.pause()
            assert "0 replicas have what was written" in str(await refused(running, "two"))
            servers.replica.resume()
            await taken(running, "three")


async def _refusal(running: RedisStore) -> str:
    with pytest.raises(UnavailableError) as refusal:
        await running.append([host_part("none", OTHER)], START)
    return str(refusal.value)


async def test_slots_move_under_load(prefix: str, settings: Settings) -> None:
    """While a slot is on its way (ASK) and after it has gone (MOVED) parts go where their key is."""
    with cluster() as nodes:
        async with store(f"redis+cluster://127.0.0.1:{nodes[0].port}", prefix, settings) as running:
            keys = [Key(bytes([i]) * 16) for i in range(100)]
            await running.append([host_part("one", key) for key in keys], START)
            source, target = nodes[0], nodes[1]
            names = [_ids(node) for node in (source, target)]
            moving = _slots(source, prefix)[:3]
            for slot in moving:
                target.ask([("CLUSTER", "SETSLOT", slot, "IMPORTING", names[0])])
                source.ask([("CLUSTER", "SETSLOT", slot, "MIGRATING", names[1])])
            fresh = [Key(bytes([i]) * 15 + b"n") for i in range(100)]
            for slot in moving:
                (held,) = source.ask([("CLUSTER", "GETKEYSINSLOT", slot, 1000)])
                assert isinstance(held, list)
                source.ask([("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *held)])
            await running.append([host_part("two", key) for key in keys + fresh], START)
            for slot in moving:
                for node in (target, source, nodes[2]):
                    node.ask([("CLUSTER", "SETSLOT", slot, "NODE", names[1])])
            await running.append([host_part("three", key) for key in keys + fresh], START)
            held_now = await held_texts(running)
            assert {key: held_now[key] for key in keys} == {key: ["one", "two", "three"] for key in keys}
            assert {key: held_now[key] for key in fresh} == {key: ["two", "three"] for key in fresh}


def _caught_up(primary: Server) -> bool:
    """Its replica has said that it has all that there is."""
    (info,) = primary.ask([("INFO", "replication")])
    assert isinstance(info, bytes)
    said = re.search(rb"^slave0:.*offset=(\d+)", info, re.MULTILINE)
    there = re.search(rb"^master_repl_offset:(\d+)", info, re.MULTILINE)
    return said is not None and there is not None and said.group(1) == there.group(1)


def _ids(node: Server) -> bytes:
    (name,) = node.ask([("CLUSTER", "MYID")])
    assert isinstance(name, bytes)
    return name


def _slots(node: Server, prefix: str) -> Sequence[int]:
    (names,) = node.ask([("KEYS", f"{prefix}:*}}:s")])
    assert isinstance(names, list)
    slots = [node.ask([("CLUSTER", "KEYSLOT", name)])[0] for name in names]
    return [slot for slot in slots if isinstance(slot, int)]


def _waits(node: Server) -> int:
    """How often it was asked to wait for replicas."""
    (info,) = node.ask([("INFO", "commandstats")])
    assert isinstance(info, bytes)
    waits = re.search(rb"^cmdstat_wait:calls=(\d+)", info, re.MULTILINE)
    return int(waits[1]) if waits is not None else 0


def _info(node: Server) -> bytes:
    (info,) = node.ask([("INFO", "persistence")])
    assert isinstance(info, bytes)
    return info


async def test_a_redis_that_was_emptied_is_said(own: Server, prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is in the log and in what /readyz says; what comes afterwards is taken, by the same secret."""
    async with store(own.url, prefix, Settings(), upkeep_seconds=0.05) as running:
        await running.append([host_part("lost")], START)
        assert error_of(running) == ""
        own.ask([("FLUSHALL",)])
        async with asyncio.timeout(60):
            while not error_of(running):  # noqa: ASYNC110  # what it looks at is another process
                await asyncio.sleep(0.02)
        assert "was emptied" in error_of(running)
        assert running.up
        assert "what was held until now is lost" in caplog.text
        await taken(running, "new")
        secret = running.hmac_secret()
    async with store(own.url, prefix, Settings()) as again:
        assert again.hmac_secret() == secret
        assert error_of(again) == ""
        assert list((await held_texts(again)).values()) == [["new"]]
