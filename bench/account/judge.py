"""The judge of one run: an llmock of its own, with full buckets, and the clock that begins with the first call."""

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from bench.account.audit import Audit, Decision, Limits
from sandbox.environment import process_environment
from sandbox.home import ROOT, free_port
from sandbox.logs import RunLog
from sandbox.process import Child, Spec
from shared.errors import Unavailable

_FIRST_CALL_WITHIN_S = 60.0


class Judge:
    """`url` is where the account is; `second` waits for a second after the first call."""

    def __init__(self, url: str, limits: Limits, file: Path) -> None:
        self.url = url
        self.limits = limits
        self._file = file

    async def second(self, second: float) -> None:
        """Return this many seconds after the first call."""
        began = await self._first_call()
        await asyncio.sleep(max(0.0, began + second - time.monotonic()))

    def audit(self) -> Audit:
        """Everything up to now; a line that is being written is left out."""
        lines = self._file.read_text(encoding="ascii").splitlines(keepends=True)
        return Audit([Decision.read(line) for line in lines if line.endswith("\n")])

    async def _first_call(self) -> float:
        give_up = time.monotonic() + _FIRST_CALL_WITHIN_S
        while time.monotonic() < give_up:
            with self._file.open(encoding="ascii") as file:
                line = file.readline()
            if line.endswith("\n"):
                return Decision.read(line).at
            await asyncio.sleep(0.05)
        raise Unavailable(f"no call reached the provider within {_FIRST_CALL_WITHIN_S:g} s")


@asynccontextmanager
async def a_judge(limits: Limits) -> AsyncIterator[Judge]:
    """An llmock for the length of a block."""
    with tempfile.TemporaryDirectory(prefix="blogstream-bench-") as name:
        file, port = Path(name) / "decisions", free_port()
        url = f"http://127.0.0.1:{port}"
        spec = Spec(
            name="llmock",
            argv=(
                sys.executable, "-m", "bench.account.server", str(port), str(limits.rpm), str(limits.tpm), str(file),
            ),
            env=process_environment({"PYTHONPATH": str(ROOT)}),
            ready_check=lambda: _answers(f"{url}/health"),
            stop_within_s=5,
        )  # fmt: skip
        with RunLog(Path(name) / "server.log") as log:
            child = Child(spec, log)
            await child.start()
            try:
                yield Judge(f"{url}/v1", limits, file)
            finally:
                await child.stop()


async def _answers(url: str) -> bool:
    try:
        async with httpx.AsyncClient(timeout=2) as client:
            return (await client.get(url)).is_success
    except httpx.HTTPError:
        return False
