"""Runs llmock as an independent provider that enforces the limits and records its decisions.

Every run starts a new llmock with full buckets. Its clock starts with the first call.
"""

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from bench.account.decisions import AccountLimits, DecisionLog, RateDecision
from bench.servers import running_process
from sandbox.system.home import free_port
from shared.domain.errors import Unavailable

_FIRST_CALL_WITHIN_S = 60.0
_JOURNAL_CALLS = 10_000
"""The calls that llmock's journal keeps."""


class ReferenceProvider:
    """An llmock process. `url` is the base URL of its API."""

    def __init__(self, server: str, file: Path) -> None:
        self.url = f"{server}/v1"
        self._server = server
        self._file = file

    async def wait_until_second(self, second: float) -> None:
        """Wait until so many seconds after the first call."""
        began = await self._first_call()
        await asyncio.sleep(max(0.0, began + second - time.monotonic()))

    async def read_decisions(self) -> DecisionLog:
        """Read all decisions, after the last call.

        Raises `Unavailable` if they differ from llmock's own journal.
        """
        statuses = await self._count_journal()
        decisions = DecisionLog(
            [
                RateDecision.parse(line)
                for line in self._file.read_text(encoding="ascii").splitlines()
            ]
        )
        recorded = {200: decisions.granted, 429: decisions.refused}
        if statuses.total() < _JOURNAL_CALLS and statuses != Counter(recorded):
            raise Unavailable(
                f"llmock's journal has {dict(statuses)}, its limiter has recorded {recorded}"
            )
        return decisions

    async def _count_journal(self) -> Counter[int]:
        """Count the last calls in the journal by status."""
        async with httpx.AsyncClient(timeout=60) as client:
            answer = await client.get(f"{self._server}/_llmock/requests")
        return Counter(record["status"] for record in answer.json()["requests"])

    async def _first_call(self) -> float:
        give_up = time.monotonic() + _FIRST_CALL_WITHIN_S
        while time.monotonic() < give_up:
            with self._file.open(encoding="ascii") as file:
                line = file.readline()
            if line.endswith("\n"):
                return RateDecision.parse(line).at
            await asyncio.sleep(0.05)
        raise Unavailable(f"no call reached the provider within {_FIRST_CALL_WITHIN_S:g} s")


@asynccontextmanager
async def start_reference_provider(limits: AccountLimits) -> AsyncIterator[ReferenceProvider]:
    """Run an llmock with these limits."""
    with tempfile.TemporaryDirectory(prefix="blogstream-bench-") as folder:
        file, port = Path(folder) / "decisions", free_port()
        url = f"http://127.0.0.1:{port}"
        arguments = (str(port), str(limits.rpm), str(limits.tpm), str(file))
        async with running_process(
            "bench.account.llmock_server", *arguments, ready_at=f"{url}/health"
        ):
            yield ReferenceProvider(url, file)
