"""What the tests' own ports are promised to be: nobody else's, whoever draws beside."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

from tests.e2e.process import REPO
from tests.ports import CLUSTER_BUS, free_ports, room

EACH = 300
# All of them begin at one place, so that each port is tried by each of them at about the same time.
PROGRAM = f"""
import random, sys
random.seed(7)
from tests.ports import free_port
sys.stdin.readline()
print(*(free_port(above=int(sys.argv[1]) * (n % 3 == 0)) for n in range({EACH})), flush=True)
sys.stdin.readline()
"""


@contextmanager
def drawing(above: int = 0) -> Iterator["subprocess.Popen[str]"]:
    """A process that draws at its first line, prints, and lives until its second."""
    command = [sys.executable, "-c", PROGRAM, str(above)]
    with subprocess.Popen(command, cwd=REPO, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield process
        go(process)
    assert process.returncode == 0


def go(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def drawn(process: "subprocess.Popen[str]") -> list[int]:
    assert process.stdout is not None
    return [int(word) for word in process.stdout.readline().split()]


def test_processes_that_draw_together_never_get_one_port_twice() -> None:
    """Nor the second port of a pair, which nothing but its pair names; nor this process beside them."""
    with ExitStack() as stack:
        processes = [stack.enter_context(drawing(CLUSTER_BUS)) for _ in range(5)]
        for process in processes:
            go(process)
        ours = free_ports(EACH)
        theirs = [drawn(process) for process in processes]
    assert [len(ports) for ports in theirs] == [EACH] * 5
    seconds = [port + CLUSTER_BUS for ports in theirs for port in ports[::3]]
    given = [*ours, *(port for ports in theirs for port in ports), *seconds]
    assert len(set(given)) == len(given) == 6 * EACH + 5 * EACH // 3
    assert set(given) <= set(room())


def test_who_wants_pairs_keeps_no_more_than_it_gets() -> None:
    """Most ports have no second one above them in the room; one that is passed over stays everybody's."""
    claim = """
import os
from pathlib import Path
from tests.ports import _Ports, CLUSTER_BUS
ports = _Ports()
ports._at = ports._room.stop - ports._room.start - CLUSTER_BUS
ports.draw(CLUSTER_BUS)
locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
print(sum(int(each[7]) - int(each[6]) + 1 for each in locks if each[4] == str(os.getpid())))
"""
    done = subprocess.run([sys.executable, "-c", claim], cwd=REPO, text=True, capture_output=True, check=True)
    assert int(done.stdout) == 2


def test_ports_come_back_and_those_that_are_listened_at_are_passed_over() -> None:
    """What an ended process had is given again, without any tidying up; not where somebody listens who claims none."""
    with drawing() as process:
        go(process)
        first = drawn(process)
    with ExitStack() as stack:
        listening = [stack.enter_context(closing(socket.create_server(("127.0.0.1", port)))) for port in first[::30]]
        process = stack.enter_context(drawing())
        go(process)
        again = drawn(process)
        assert not {one.getsockname()[1] for one in listening} & set(again)
    # Some may have been drawn by tests beside this one.
    assert set(first) & set(again)
