"""A provider whose limits nobody meets: a steady stand-in in a process of its own, and when calls reached it."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from bench.servers import running_process
from sandbox.system.home import free_port


class Provider:
    """`url` is where the account is."""

    def __init__(self, server: str, file: Path) -> None:
        self.url = f"{server}/v1"
        self._file = file

    def arrivals(self) -> dict[str, float]:
        """When each job's first call came, by the clock that `time.monotonic` reads in every process."""
        first: dict[str, float] = {}
        for line in self._file.read_text(encoding="ascii").splitlines():
            at, job = line.split()
            first.setdefault(job, float(at))
        return first


@asynccontextmanager
async def a_provider(*, latency_s: float) -> AsyncIterator[Provider]:
    """One for the length of a block; every answer takes `latency_s`."""
    with tempfile.TemporaryDirectory(prefix="blogstream-bench-") as name:
        file, port = Path(name) / "arrivals", free_port()
        url = f"http://127.0.0.1:{port}"
        arguments = (str(port), f"{latency_s * 1000:g}", str(file))
        async with running_process("bench.account.steady", *arguments, ready_at=url):
            yield Provider(url, file)
