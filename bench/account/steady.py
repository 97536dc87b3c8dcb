"""`python -m bench.account.steady PORT LATENCY_MS FILE`: our stand-in for OpenAI, with two differences.

Every answer takes exactly as long, so that two runs differ by what is ours alone; and each call is noted as it comes,
before anything of it is read.
"""

import asyncio
import sys
import time
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from bench.account.audit import AMPLE
from sandbox.providers.control import StandinControl
from sandbox.providers.openai import FAULTS, OpenAIStandin
from shared.http import server
from shared.runtime import lifecycle

HOST = "127.0.0.1"
_SEED = 1


class SteadyControl(StandinControl):
    """A stand-in's state, without the spread around its latency."""

    def latency_s(self) -> float:
        return self.latency_ms / 1000


class Arrivals:
    """Around an application; every call that names its job is a line: the monotonic clock, and the job."""

    def __init__(self, app: ASGIApp, file: Path) -> None:
        self._app = app
        self._notes = file.open("w", encoding="ascii", buffering=1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        at = time.monotonic()
        job = dict(scope.get("headers", [])).get(b"x-blogstream-job")
        if job is not None:
            self._notes.write(f"{at:.6f} {job.decode()}\n")
        await self._app(scope, receive, send)


async def main(port: int, latency_ms: float, file: Path, stop: asyncio.Event) -> None:
    limits = {"requests": float(AMPLE.rpm), "tokens": float(AMPLE.tpm)}
    control = SteadyControl(
        provider="OpenAI", limits=limits, latency_ms=latency_ms, seed=_SEED, faults=FAULTS
    )
    application = Arrivals(OpenAIStandin(control, seed=_SEED).application(), file)
    await server.serve(application, server.listen(HOST, port), stop, grace_s=1)


if __name__ == "__main__":
    lifecycle.run_service(
        lambda stop: main(int(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3]), stop)
    )
