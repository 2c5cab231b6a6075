"""``grafter`` with an exporter that ends the process, as the kernel would for memory, on what has a certain name."""

import os
import signal

from grafter.cli import main
from grafter.exporter.answer import ExportAnswer, Kind
from grafter.exporter.file import FileAttempt


class Deadly(FileAttempt):
    async def send(self, kind: Kind, body: bytes) -> ExportAnswer:
        if b"deadly" in body:
            os.kill(os.getpid(), signal.SIGKILL)
        return await super().send(kind, body)


if __name__ == "__main__":
    import grafter.exporter.file

    grafter.exporter.file.FileAttempt = Deadly  # type: ignore[misc]
    main()
