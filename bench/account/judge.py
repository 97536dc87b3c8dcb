"""The judge of one run: an llmock of its own, with full buckets, and the clock that begins with the first call."""

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from bench.account.audit import Audit, Decision, Limits
from bench.servers import running_process
from sandbox.system.home import free_port
from shared.domain.errors import Unavailable

_FIRST_CALL_WITHIN_S = 60.0
_JOURNAL = 10_000
"""Calls that llmock's journal keeps."""


class Judge:
    """`url` is where the account is; `second` waits for a second after the first call."""

    def __init__(self, server: str, file: Path) -> None:
        self.url = f"{server}/v1"
        self._server = server
        self._file = file

    async def second(self, second: float) -> None:
        """Return this many seconds after the first call."""
        began = await self._first_call()
        await asyncio.sleep(max(0.0, began + second - time.monotonic()))

    async def audit(self) -> Audit:
        """Everything, once nobody calls any more. `Unavailable` when llmock's own journal tells it otherwise."""
        statuses = await self._journal()
        audit = Audit(
            [Decision.read(line) for line in self._file.read_text(encoding="ascii").splitlines()]
        )
        noted = {200: audit.granted, 429: audit.refused}
        if statuses.total() < _JOURNAL and statuses != Counter(noted):
            raise Unavailable(
                f"llmock's journal has {dict(statuses)}, its limiter's notes say {noted}"
            )
        return audit

    async def _journal(self) -> Counter[int]:
        """Calls by status, of the last ones that the journal keeps."""
        async with httpx.AsyncClient(timeout=60) as client:
            answer = await client.get(f"{self._server}/_llmock/requests")
        return Counter(record["status"] for record in answer.json()["requests"])

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
        arguments = (str(port), str(limits.rpm), str(limits.tpm), str(file))
        async with running_process("bench.account.server", *arguments, ready_at=f"{url}/health"):
            yield Judge(url, file)
