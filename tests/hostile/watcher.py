"""Run by ``watch`` in a process of its own, in which nothing of an attack is computed: the memory of a process at the
most, and the longest wait for its /healthz, until standard input ends; then one line of JSON with both."""

import json
import os
import sys
import threading
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def resident(pid: int) -> int:
    """Bytes of memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _computed(pid: int) -> float:
    """Seconds of processor time, of all threads but those of grpc's core, which have names of their own and hold up
    nobody: of those that run Python each keeps the others from it."""
    ticks, own = 0, ""
    for thread in sorted(Path(f"/proc/{pid}/task").iterdir(), key=lambda each: each.name != str(pid)):
        with suppress(OSError):
            name, _, rest = (thread / "stat").read_text().partition("(")[2].rpartition(")")
            own = own or name
            if name == own:
                ticks += sum(map(int, rest.split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    pid, health = int(sys.argv[1]), sys.argv[2]
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    most = {"peak": resident(pid), "standstill": 0.0}

    def memory() -> None:
        with suppress(OSError):
            while not ended.wait(0.01):
                most["peak"] = max(most["peak"], resident(pid))

    def heartbeat() -> None:
        with suppress(OSError):
            while not ended.wait(0.02):
                began, computed = time.monotonic(), _computed(pid)
                _OPENER.open(f"{health}/healthz", timeout=60).read()
                waited = time.monotonic() - began
                most["standstill"] = max(most["standstill"], min(waited, _computed(pid) - computed))

    threads = [threading.Thread(target=each) for each in (memory, heartbeat)]
    for thread in threads:
        thread.start()
    print("watching", flush=True)
    for thread in threads:
        thread.join()
    print(json.dumps(most))


if __name__ == "__main__":
    main()
