"""Runs a stand-in with ample limits and constant latency, which records the arrival of calls."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from bench.servers import running_process
from sandbox.system.home import free_port


class SteadyProvider:
    """A stand-in process. `url` is the base URL of its API."""

    def __init__(self, server: str, file: Path) -> None:
        self.url = f"{server}/v1"
        self._file = file

    def read_arrivals(self) -> dict[str, float]:
        """Return the arrival time of each job's first call, by the system's monotonic clock."""
        first: dict[str, float] = {}
        for line in self._file.read_text(encoding="ascii").splitlines():
            at, job = line.split()
            first.setdefault(job, float(at))
        return first


@asynccontextmanager
async def start_steady_provider(*, latency_s: float) -> AsyncIterator[SteadyProvider]:
    """Run a stand-in whose answers take `latency_s` seconds."""
    with tempfile.TemporaryDirectory(prefix="blogstream-bench-") as name:
        file, port = Path(name) / "arrivals", free_port()
        url = f"http://127.0.0.1:{port}"
        arguments = (str(port), f"{latency_s * 1000:g}", str(file))
        async with running_process("bench.account.steady_server", *arguments, ready_at=url):
            yield SteadyProvider(url, file)
