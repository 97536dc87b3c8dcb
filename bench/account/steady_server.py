"""Runs the stand-in for OpenAI with two differences.

`python -m bench.account.steady_server PORT LATENCY_MS FILE`

Every answer takes exactly the same time, so that only the system under test makes runs differ. Each
call is recorded on arrival, before its body is read.
"""

import asyncio
import sys
import time
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from bench.account.decisions import AMPLE_LIMITS
from sandbox.providers.control import StandinControl
from sandbox.providers.openai.application import FAULTS, OpenAIStandin
from shared.http import server
from shared.runtime import lifecycle

HOST = "127.0.0.1"
_SEED = 1


class FixedLatencyControl(StandinControl):
    """A stand-in's state without jitter of its latency."""

    def latency_s(self) -> float:
        return self.latency_ms / 1000


class ArrivalRecorder:
    """Writes a line for every call with a job header: the monotonic clock, and the job."""

    def __init__(self, app: ASGIApp, file: Path) -> None:
        self._app = app
        self._records = file.open("w", encoding="ascii", buffering=1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        at = time.monotonic()
        job = dict(scope.get("headers", [])).get(b"x-blogstream-job")
        if job is not None:
            self._records.write(f"{at:.6f} {job.decode()}\n")
        await self._app(scope, receive, send)


async def main(port: int, latency_ms: float, file: Path, stop: asyncio.Event) -> None:
    limits = {"requests": float(AMPLE_LIMITS.rpm), "tokens": float(AMPLE_LIMITS.tpm)}
    control = FixedLatencyControl(
        provider="OpenAI", limits=limits, latency_ms=latency_ms, seed=_SEED, faults=FAULTS
    )
    application = ArrivalRecorder(OpenAIStandin(control, seed=_SEED).application(), file)
    await server.serve_http(application, server.open_listener(HOST, port), stop, grace_s=1)


if __name__ == "__main__":
    lifecycle.run_service(
        lambda stop: main(int(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3]), stop)
    )
