"""Which programs the call has, and how each of them is started and told where the others are."""

import asyncio
import os
import secrets
import shutil
import sys
from pathlib import Path

from browser import edge, turn_server
from desk import LINE
from programs import HERE, MODULES, Programs, free_address, redis_server

TOOLS = ("RECORDS", "INSURANCE", "CALENDAR")
OURS = ("GRAFTER", "OTLP_GRPC", "OTLP_HTTP", "LOOKUP", "HEALTH")
DOORS = (*OURS, "NATS", "REDIS", "OPENAI", "GATEWAY", "MEDIA", "EDGE", "TELNYX", *TOOLS)


async def start(programs: Programs, database: str, small: bool) -> dict[str, str]:
    """Everything but the carriers; the addresses."""
    at = {name: free_address() for name in DOORS}
    url = {name: f"http://{address}" for name, address in at.items()}
    programs.settings |= {f"{name}_AT": address for name, address in at.items()} | url
    programs.settings |= {
        "NATS": f"nats://{at['NATS']}",
        "REDIS": f"redis://{at['REDIS']}",
        "MEDIA": f"ws://{at['MEDIA']}/media",
        "MEDIA_PORT": at["MEDIA"].rpartition(":")[2],
        **{tool.upper(): f"{url[tool.upper()]}/{tool}" for tool in map(str.lower, TOOLS)},
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{url['OTLP_HTTP']}/v1/traces",
        "OPENAI_API_KEY": "sk-of-the-stand-in",
        "OPENAI_WEBHOOK_SECRET": "whsec_" + secrets.token_hex(16),
        "TWILIO_AUTH_TOKEN": secrets.token_hex(16),
        "CALLS_DATABASE": database,
        "HOME_OF_CALL": str(programs.home),
    }
    os.environ["TWILIO_AUTH_TOKEN"] = programs.settings["TWILIO_AUTH_TOKEN"]
    port = {name: address.rpartition(":")[2] for name, address in at.items()}
    nats = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or "nats-server"
    grafter = (sys.executable, "-m", "grafter", "run", "--config", str(HERE / "grafter.yaml"))
    await programs.start("grafter", *grafter, says="is running")
    await asyncio.gather(
        programs.start("nats", nats, "--addr", "127.0.0.1", "--port", port["NATS"], at=at["NATS"]),
        programs.start("redis", redis_server(), "--port", port["REDIS"], "--save", "", at=at["REDIS"]),
    )
    webhooks = f"{url['GATEWAY']}/openai", f"{url['GRAFTER']}/webhooks/openai"
    pm2 = str(MODULES / ".bin/pm2-runtime"), "start", str(HERE / "media_worker.mjs"), "-i", "8", "--raw"
    worker = ("node", str(HERE / "media_worker.mjs")) if small else pm2
    if not small:
        await turn_server(programs)
        await edge(programs, at["EDGE"])
    await asyncio.gather(
        programs.python("openai", "openai_stand_in.py", port["OPENAI"], *webhooks, at=at["OPENAI"]),
        programs.python("gateway", "gateway.py", port["GATEWAY"], at=at["GATEWAY"]),
        *(programs.python(f"desk-{name}", "desk.py", name) for name in LINE),
        *(programs.python(n.lower(), "tool.py", n.lower(), port[n], at=at[n]) for n in TOOLS),
        programs.start("media-worker", *worker, workers=1 if small else 8),
        programs.start("after-hours", "node", str(HERE / "after_hours.mjs")),
        programs.start("letters", "node", str(HERE / "letters.mjs")),
    )
    return url
