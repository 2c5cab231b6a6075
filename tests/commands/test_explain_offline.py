"""``grafter status`` without a grafter that runs."""

import io
import json
import time
from pathlib import Path

from grafter.commands.explain import print_status
from grafter.core.model import UnixNano
from tests.processor.test_processor import host_request
from tests.rig import Peer, rig
from tests.test_service import read, settings

HOUR = 3600 * 1_000_000_000


async def test_a_store_that_nobody_runs_is_read_whole(tmp_path: Path) -> None:
    """What it holds is told, and where the wall clock was set back since, its age by the clock that never goes back."""
    later = time.time_ns() + HOUR
    async with rig(Peer(), directory=tmp_path / "store", now=(later,)) as r:
        await r.host(host_request(bytes(15) + b"a", (1, 0, "root")))
        await r.store.keep_moment(UnixNano(later))
    out = io.StringIO()
    config = read(tmp_path, settings(tmp_path, {"file": {"path": str(tmp_path / "out")}}))
    await print_status(config, as_json=True, out=out, err=io.StringIO())
    said = json.loads(out.getvalue())
    assert said["held"]["spans"] == 1
    assert said["oldest_seconds"] >= 0
